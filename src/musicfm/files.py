"""Writing files so that a reader finds either the whole of one or none."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musicfm.errors import OutputError

PARTIAL = ".partial"
"""Ending of files being written; one that is left over belongs to a run that was killed."""


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``target`` that becomes ``target`` if the block succeeds.

    The folder is made if need be. On any error, Ctrl-C included, the temporary file is removed and
    what was at ``target`` stays. Raises OutputError: a folder not writable, or a full disk.
    """
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(PARTIAL, f".{target.name[:100]}.", target.parent)
        temporary = Path(name)
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"cannot write {target}: {reason}; free space there or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's content is on the disk, so that a rename never outruns it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's umask, which mkstemp ignores; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
