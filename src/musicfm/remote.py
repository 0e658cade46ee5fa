"""Files at URLs such as ``s3://``, ``gs://``, ``hf://`` and ``https://``, read through fsspec.

A read is a request for a range of bytes that leans on nothing before it, so that one that fails is
simply made again, after waits that double. fsspec names the package that a protocol needs, and says
where credentials are looked for.
"""

import errno
import hashlib
import io
import os
import posixpath
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar, cast

from musicfm.errors import ConfigError

Location: TypeAlias = Path | str
"""A file or folder: a path on this machine, or a URL."""

ATTEMPTS = 7
WAIT_SECONDS = 0.5
"""After the first attempt; twice as long after each further one: half a minute in all."""

_READ_BYTES = 1 << 20
_FETCH_BYTES = 1 << 23
_IN_MEMORY = 1 << 26
# What stores say of a file that changes with its content.
_VERSIONS = (
    "ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "updated", "created",
    "Content-MD5", "Digest", "Last-Modified",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file, as its store lists it."""

    url: str
    size: int
    """Bytes."""
    version: int
    """Changes with the file, as far as the store tells."""


def is_url(location: object) -> bool:
    """Whether this is a URL rather than a path. A Path never is: it would lose a slash."""
    return isinstance(location, str) and "://" in location


def join(root: Location, name: str) -> Location:
    """A file or folder below a folder, or below its URL; "." is the folder itself."""
    if isinstance(root, str):  # to a store, a/./b is not a/b
        return root if name == "." else posixpath.join(root, name)
    return root / name


def parent(location: Location) -> Location:
    """The folder, or its URL, that a file is in."""
    return posixpath.dirname(location) if isinstance(location, str) else location.parent


def open_bytes(location: Location) -> BinaryIO:
    """Opens a file for reading in any order; of one at a URL, no more than is asked for is fetched.

    Raises OSError, also after the last attempt at reading; ConfigError: fsspec lacks a package, or
    does not know the protocol.
    """
    if isinstance(location, Path):
        return location.open("rb")
    return cast(BinaryIO, io.BufferedReader(_Ranges(location), _READ_BYTES))


@contextmanager
def fetched(url: str) -> Iterator[BinaryIO]:
    """The whole of a file, in memory while it is small, for readers that go over it repeatedly.

    Raises as :func:`open_bytes`.
    """
    with open_bytes(url) as source, _Fetched(_IN_MEMORY) as file:
        file.name = url
        while data := source.read(_FETCH_BYTES):
            file.write(data)
        file.seek(0)
        yield cast(BinaryIO, file)


def files_below(url: str) -> Iterator[RemoteFile]:
    """All files below a folder, sorted; a file is itself. Hidden ones are passed over.

    Raises as :func:`open_bytes`.
    """
    system, path = _filesystem(url)
    about = _persistently(url, lambda: system.info(path))
    if about["type"] != "directory":
        yield _remote_file(url, about)
        return
    found = _persistently(url, lambda: system.find(path, detail=True))
    for name in sorted(found):
        inside = posixpath.relpath(name, path).split("/")
        if not any(part.startswith(".") for part in inside):
            yield _remote_file(system.unstrip_protocol(name), found[name])


def _remote_file(url: str, about: dict[str, Any]) -> RemoteFile:
    known = repr([about[key] for key in _VERSIONS if key in about])
    digest = hashlib.blake2b(known.encode(), digest_size=8).digest()
    return RemoteFile(url, int(about["size"] or 0), int.from_bytes(digest, "little") >> 1)


def _filesystem(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the path there."""
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot read {url}: {' '.join(str(error).split())}") from error


def _persistently(url: str, read: Callable[[], T]) -> T:
    """What a read gives, at the first attempt that succeeds.

    Raises OSError: the file is not there or not for us, or all attempts have failed.
    """
    for wait in range(ATTEMPTS):
        try:
            return read()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
        except PermissionError as error:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), url) from error
        except Exception as error:  # every store has its own
            failure = error
        if wait < ATTEMPTS - 1:
            time.sleep(WAIT_SECONDS * 2**wait)
    said = " ".join(str(failure).split()) or type(failure).__name__
    raise OSError(errno.EIO, f"{ATTEMPTS} attempts failed, the last with: {said}", url) from failure


class _Fetched(tempfile.SpooledTemporaryFile[bytes]):
    """A file that is called as where it came from."""

    name = ""


class RangeFile(io.RawIOBase, ABC):
    """Bytes that are read by ranges, as a file.

    Args:
        name: of the file.
        size: in bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self._size, self._position = name, size, 0

    @abstractmethod
    def part(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), or as many of them as there are."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self.part(self._position, stop)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position


class _Ranges(RangeFile):
    """A file at a URL, of which every read is a request of its own."""

    def __init__(self, url: str) -> None:
        self._system, self._path = _filesystem(url)
        about = _persistently(url, lambda: self._system.info(self._path))
        if about["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
        if about["size"] is None:
            raise OSError(errno.EIO, "its server does not say how long it is", url)
        super().__init__(url, int(about["size"]))

    def part(self, start: int, stop: int) -> bytes:
        def fetch() -> bytes:
            data: bytes = self._system.cat_file(self._path, start, stop)
            if len(data) != stop - start:
                # It has changed, or its server does not know ranges and sends all of it.
                raise OSError(f"{len(data)} bytes came where {stop - start} were asked for")
            return data

        return _persistently(self.name, fetch)
