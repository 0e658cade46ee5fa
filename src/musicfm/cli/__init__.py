"""The command line: each verb reads its options and calls the function of the same name.

Heavy imports happen within the verbs, so that ``musicfm --help`` answers at once, and so that the
decoder processes, which import the main script, stay light.
"""

import io
import os
import sys
import warnings
from typing import Annotated, Any, NoReturn

import typer

import musicfm
from musicfm.cli import (  # add verbs
    analysis,
    data,
    embedding,
    library,
    library_files,
    serving,
    tasks,
    tasks_heads,
    training,
)
from musicfm.cli.app import app, say
from musicfm.errors import MusicFMError, printable
from musicfm.memory import tune_malloc

_UsageError: Any = typer.BadParameter.__base__  # for which typer has no name

__all__ = [
    "analysis",
    "app",
    "data",
    "embedding",
    "library",
    "library_files",
    "main",
    "serving",
    "tasks",
    "tasks_heads",
    "training",
]


def main() -> NoReturn:
    """Runs the command line; bad input ends in one sentence on standard error and status 1."""
    warnings.showwarning = _show_warning
    tune_malloc()
    if not _has_current_folder():
        sys.exit("error: the current folder is not there any more; change to another one")
    try:
        status = app(standalone_mode=False)
    except MusicFMError as error:
        sys.exit(f"error: {error}")
    except _UsageError as error:
        usage = io.StringIO()
        error.show(usage)
        print("\n".join(map(printable, usage.getvalue().rstrip("\n").split("\n"))), file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(status)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"musicfm {musicfm.__version__}")
        raise typer.Exit


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"warning: {message}")
