"""Writing files so that a reader finds either the whole of one or none; reading JSON."""

import errno
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout
from numpy.lib import format as npy

from musicfm.errors import ConfigError, DataError, OutputError

PARTIAL = ".partial"
"""Ending of files being written; one that is left over belongs to a run that was killed."""
_TOKEN = rf"\.[0-9a-f]{{8}}{re.escape(PARTIAL)}"
_TEMPORARY = re.compile(rf"\..+{_TOKEN}")
_NAME_LENGTH = 40  # names may have 255 bytes, and a character may have four

_NO_SPACE = "choose another folder, or free space there"
_NO_LOCKS = (
    "its file system has no locks, which keep two runs apart; choose a folder on another one"
)
_CURES = {
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.ENAMETOOLONG: "choose a shorter name; results are named after their recordings",
    errno.ENOLCK: _NO_LOCKS,
    errno.EOPNOTSUPP: _NO_LOCKS,
}


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``target`` that becomes ``target`` if the block succeeds.

    The folder is made if need be. On any error, Ctrl-C included, the temporary file is removed and
    what was at ``target`` stays. Raises OutputError: a folder not writable, or a full disk.
    """
    temporary = target.with_name(f".{target.name[:_NAME_LENGTH]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)  # with the umask's permissions, unlike tempfile's
            yield temporary
            sync(temporary)
            os.replace(temporary, target)
    finally:
        with suppress(OSError):  # there is none, or its folder could not be made
            temporary.unlink()


def write_file(target: Path, content: str | bytes) -> None:
    """Writes bytes, or text as UTF-8, whole or not at all. Raises OutputError."""
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    with atomic_write(target) as temporary:
        temporary.write_bytes(data)


def write_json(target: Path, content: object, indent: int = 1) -> None:
    """Writes a JSON file, whole or not at all. Raises OutputError."""
    write_file(target, json.dumps(content, indent=indent) + "\n")


def check_target(target: Path) -> None:
    """Raises OutputError, before long work rather than after, if its file cannot be written."""
    if os.path.isdir(target):
        raise OutputError(f"cannot write {target}: it is a folder; name a file")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass


@contextmanager
def exclusive(folder: Path, lock: str) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made if need be, for as long as the block lasts.

    The operating system lets go of the lock when a run is killed. Raises OutputError: another run
    is there, the folder cannot be written, or its file system has no locks.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / lock, timeout=0)
        try:
            held.acquire()
        except Timeout:
            raise OutputError(
                f"another run is writing to {folder}; wait until it has ended"
            ) from None
    try:
        yield
    finally:
        held.release()


def is_same_name(folder: Path, one: str, other: str) -> bool:
    """Whether a folder's file system takes two names for one, as some do of those that differ in
    case or in Unicode's composition. It is tried, with files that are removed.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as place:
        path = Path(place, one)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:  # a name that is too long, which is reported where it is written
            return False
        return os.path.exists(Path(place, other))


def sweep(folder: Path) -> None:
    """Removes what killed runs left half-written in a folder, whose lock must be held.

    Folders within it that have a lock of their own are passed over. Raises OutputError.
    """
    for parent, subfolders, names in os.walk(folder):
        if parent != str(folder) and any(name.endswith(".lock") for name in names):
            subfolders.clear()
            continue
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with writing(folder):
                    Path(parent, name).unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that is removed after the block; what a kill left there goes first.

    No other run may use it. Raises OutputError.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with writing(folder):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_beside(target: Path) -> None:
    """Removes what killed runs left half-written of one file, which no other run may be writing.

    Raises OutputError.
    """
    temporary = re.compile(rf"\.{re.escape(target.name[:_NAME_LENGTH])}{_TOKEN}")
    with writing(target):
        for path in target.parent.iterdir():
            if temporary.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns the system's errors within the block into an OutputError that names ``target``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or error
        cure = _CURES.get(error.errno or 0, "choose another folder")
        raise OutputError(f"cannot write {target}: {reason}; {cure}") from error


def write_npy_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Begins an ``.npy`` file, whose values follow in C order.

    NumPy leaves room for the first axis to grow, so the header may be written again in its place
    once the length is known.

    Args:
        file: open for writing.
        dtype: as NumPy spells it, such as "<f4".
        shape: of the array.
    """
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, fields)


def sync(path: Path) -> None:
    """Waits until a file's content is on the disk, so that a rename never outruns it."""
    handle = os.open(path, os.O_RDWR)  # Windows syncs only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises ValueError, also where Python's parser would give up in another way (a text that nests
    too deeply) or give what no array takes (whole numbers of more than 64 bits).
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _whole_number(digits: str) -> int:
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError("a whole number has more than 64 bits")
    return number


def read_object(path: Path, cure: str) -> dict[str, Any]:
    """The object in a JSON file that we wrote. Raises DataError, which ends with ``cure``."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read, or is damaged; {cure}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged; {cure}")
    return content


def claim(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Notes in a file what its folder is used for, or checks that it still is.

    Args:
        path: of a file of JSON.
        settings: what a run that goes on in the folder must have in common with the first.
        what: the folder holds, for the message, such as "a study".

    Raises ConfigError if the folder is in use for something else.
    """
    if not os.path.exists(path):
        write_json(path, settings)
        return
    there = read_object(path, "choose another folder")
    if differing := differences({key: there.get(key) for key in settings}, settings):
        raise ConfigError(
            f"{path.parent} holds {what} with another {', '.join(differing)}; go on with the "
            "same, or choose another folder"
        )


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """The dotted keys under which two nested mappings differ, and the values of the first."""
    found: dict[str, Any] = {}
    for key in {**one, **other}:
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = a
    return found
