"""What all commands share: the application, options, and how things are said."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from musicfm.errors import ConfigError, printable
from musicfm.remote import is_url

if TYPE_CHECKING:
    from musicfm.embedding.collection import Summary

EMBED, ANALYSE, LIBRARY, TRAIN, DATA, SERVE = PANELS = (
    "Embed",
    "Analyse",
    "Library",
    "Train",
    "Data",
    "Serve",
)
"""The groups of commands in ``musicfm --help``, in their order."""

CLUSTER, COMPUTING = "On a cluster", "How to compute"
"""Panels of options that most people never need."""


class _Commands(TyperGroup):
    """Lists commands by group."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, by the order of :data:`PANELS`."""

        def panel(name: str) -> int:
            return PANELS.index(getattr(self.commands[name], "rich_help_panel", ANALYSE))

        return sorted(super().list_commands(ctx), key=panel)


Function = TypeVar("Function", bound=Callable[..., Any])

_HOME = re.compile(r"^(--[\w-]+=)?~(?=/|$)")


class _Command(TyperCommand):
    """A command that refuses values that are empty: a Path would take "" for the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # No shell expands ~ in --out=~/x, nor in quotes.
        args = [_HOME.sub(lambda m: (m[1] or "") + os.path.expanduser("~"), arg) for arg in args]
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.get_params(ctx):
            values = given.get(param.name or "")
            values = values if isinstance(values, list | tuple) else [values]
            name = param.opts[0] if param.opts[0].startswith("-") else param.opts[0].upper()
            if "" in values and param.default != "":
                raise ConfigError(f"{name} is empty; give a value (. is the current folder)")
            if param.name in ("out", "destination") and any(v == "-" or is_url(v) for v in values):
                raise ConfigError(f"{name} has to be a path on this machine, such as ./results")
        return super().parse_args(ctx, args)


class Group(typer.Typer):
    """Whose commands are of the class above."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode="markdown",
            **options,
        )

    def command(self, *args: Any, **options: Any) -> Callable[[Function], Function]:
        return super().command(*args, cls=_Command, **options)


app = Group(cls=_Commands, help="Embeddings, beats, chords, sections, keys and tags of any music.")

Stats = Annotated[
    Path | None,
    typer.Option(help="For a .pt file: its JSON of statistics, if not the one beside it."),
]

Music = Annotated[
    list[str],
    typer.Argument(help="Recordings and folders, a manifest, or shards; also at URLs."),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="Folder for the results; the same folder continues a run."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, rich_help_panel=COMPUTING, help="Number of processes.", show_default="all cores"
    ),
]
Decoders = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=COMPUTING,
        help="Number of processes that decode.",
        show_default="all cores but one",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        rich_help_panel=COMPUTING, help="cpu, cuda, cuda:1 or mps; auto takes a GPU if it can."
    ),
]
OnDamage = Annotated[
    Literal["error", "warn"],
    typer.Option(help="Refuse damaged recordings (error), or use what comes before the damage."),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.1,
        rich_help_panel=COMPUTING,
        help="Give up on a file after so many seconds without progress.",
    ),
]


EXTRAS = {
    "export": ("onnx", "onnxscript"),
    "lancedb": ("lancedb",),
    "map": ("sklearn",),
    "scale": ("fsspec", "ray"),
    "tags": ("mutagen",),
    "tasks": ("matplotlib", "mir_eval", "sklearn"),
    "train": ("lightning_fabric", "matplotlib", "sklearn", "tensorboard"),
    "web": ("fastapi", "fastapi_offline", "uvicorn"),
}
"""What the extras of the package install, by the names that are imported."""


def need(*extras: str) -> None:
    """Raises ConfigError if packages of extras are missing; it names all at once."""
    missing = {name: extra for extra in extras for name in EXTRAS[extra] if find_spec(name) is None}
    if missing:
        wanted = ",".join(sorted(set(missing.values())))
        raise ConfigError(
            f"this needs {', '.join(sorted(missing))}; pip install 'musicfm[{wanted}]'"
        )


def say(message: str, file: TextIO | None = None) -> None:
    """Prints a line; None: on standard error."""
    print(printable(message), file=file or sys.stderr)


def show(table: str) -> None:
    """Prints a text of several lines on standard output."""
    print("\n".join(map(printable, table.split("\n"))))


@contextlib.contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C within ends the program with this message."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; {message}")
        raise typer.Exit(130) from None


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error) or type(error).__name__).strip().split("\n")[0]


def layers_of(layer: str) -> int | list[int] | Literal["all"] | None:
    if layer in ("auto", "all"):
        return None if layer == "auto" else "all"
    try:
        numbers = [int(part) for part in layer.split(",")]
    except ValueError:
        raise ConfigError(f"--layer is '{layer}'; give a number, several (3,7), or all") from None
    return numbers if len(numbers) > 1 else numbers[0]


def as_begun(context: typer.Context, out: Path, overwrite: bool, **options: Any) -> dict[str, Any]:
    """Options of a run that may go on with an earlier one into the same folder.

    Args:
        context: of the command.
        out: the folder.
        overwrite: whether to begin anew.
        options: by the names of the parameters, as they are now.

    Returns:
        The same; those that were not given as that run had them, which is said.
    """
    from musicfm.journal import read_options

    there = {} if overwrite else read_options(out)
    taken = {
        name: there[name]
        for name, value in options.items()
        if name in there
        and there[name] != _noted(value)
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "DEFAULT"
    }
    if taken:
        said = " ".join(f"--{name.replace('_', '-')} {taken[name]}" for name in taken)
        say(f"continuing with the options of the run in {out}: {said}")
    return {name: _noted(value) for name, value in (options | taken).items()}


def _noted(value: Any) -> Any:
    """A value of an option, as JSON and for any working directory."""
    if isinstance(value, list):
        return [_noted(part) for part in value]
    if isinstance(value, str | Path) and os.path.exists(value):
        return os.path.abspath(value)
    return str(value) if isinstance(value, Path) else value


def device_of(name: str) -> str:
    """The device so called. Raises ConfigError if it is not there."""
    import torch

    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"cannot compute on '{name}': {first_line(error)}") from error
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def conclude(summary: "Summary", what: str, where: Path) -> NoReturn:
    """Says what was done with a collection, and ends the program.

    Args:
        summary: of the collection.
        what: was done to it, such as "embedded".
        where: to see more.
    """
    parts = [f"nothing {what}"]
    if summary.done:
        parts = [f"{summary.done} {what} ({amount(summary.audio_seconds, summary.wall_seconds)})"]
    elif summary.skipped:
        parts = [nothing_new(summary.skipped, summary.skipped + len(summary.failures))]
    for count, how in (
        (summary.skipped if summary.done else 0, "done before"),
        (summary.completed, "given their missing files"),
        (len(summary.damaged), "with a warning"),
        (len(summary.left_out), "left out beside others of the same name"),
        (len(summary.failures), "failed"),
    ):
        if count:
            parts.append(f"{count} {how}")
    say(f"{', '.join(parts)}; see {where}")
    raise typer.Exit(1 if summary.failures else 0)


def nothing_new(done: int, count: int) -> str:
    """Says that a run had nothing to do."""
    return f"nothing new: {done} of {count} were done"


def amount(audio_seconds: float, wall_seconds: float) -> str:
    hours, minutes = audio_seconds / 3600, wall_seconds / 60
    speed = audio_seconds / max(wall_seconds, 1e-9)
    return f"{hours:.2f} h in {minutes:.1f} min, {speed:.1f}x real time"
