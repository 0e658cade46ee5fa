"""Tracks, and the manifest: a table of all tracks of a collection.

A track is a recording in a file of its own, or a part of a shard (a tar file) from a byte on; both
are opened alike. A manifest is columns in memory that are never copied, so that a million tracks
take some 300 MB once, however many processes read them, and not once in each as Python objects
would. On disk it is a Parquet file, or JSON lines: a header, then a track per line.
"""

import hashlib
import io
import json
import math
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt

from musicfm.errors import ConfigError, DataError
from musicfm.files import atomic_write, parse_json
from musicfm.journal import Recording
from musicfm.remote import Location, RangeFile, fetched, is_url, join, open_bytes, parent

if TYPE_CHECKING:
    import pyarrow as pa

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

VERSION = 1
"""Version of the manifest's format; a reader refuses higher ones."""

MANIFEST_SUFFIXES = (".parquet", ".jsonl")
INDEX = "index.parquet"
"""The manifest in a folder of shards."""

_HEADER = "musicfm_manifest"
_LONGEST = 1e9
"""Seconds, some thirty years; sums of those can still be counted in samples."""


@dataclass(frozen=True, slots=True)
class Track:
    """A recording and what is known about it. Texts are empty where nothing is known."""

    path: str
    """With ``/``, relative to the manifest's root; in a shard, the name of the member."""
    duration: float
    """Seconds."""
    sample_rate: int
    """Hz, as stored."""
    channels: int
    size: int
    """Bytes."""
    modified: int
    """Time of the file's last change, in nanoseconds since 1970; 0 in a shard."""
    sha256: str
    """SHA-256 of the bytes, in hexadecimal."""
    artist: str = ""
    album: str = ""
    title: str = ""
    genres: tuple[str, ...] = ()
    split: Split | None = None
    reserved: str | None = None
    """Why it must not be trained on, if so."""
    shard: str | None = None
    """The tar file that holds it, relative to the root."""
    offset: int = 0
    """Its first byte in the shard."""


class Manifest:
    """The tracks of a collection, in a fixed order, below a root folder.

    Indexing and iterating give :class:`Track`; paths and members of shards are unique.

    Args:
        root: the folder that paths are relative to, or its URL.
        tracks: in the order to keep.

    Raises DataError if a track is impossible.
    """

    def __init__(self, root: str | os.PathLike[str], tracks: Iterable[Track]) -> None:
        self.root = _location(root)
        self._table = _table(tracks)
        _check(self._table, "The manifest")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> Track:
        if not -len(self) <= index < len(self):
            raise IndexError(f"track {index} of {len(self)}")
        (row,) = self._table.slice(index % len(self), 1).to_pylist()
        return _track(row)

    def __iter__(self) -> Iterator[Track]:
        for batch in self._table.to_batches(max_chunksize=4_096):
            yield from map(_track, batch.to_pylist())

    @property
    def durations(self) -> npt.NDArray[np.float64]:
        """Of the tracks, (tracks,), in seconds."""
        return self._table["duration"].to_numpy()

    @property
    def seconds(self) -> float:
        """Of all tracks together."""
        return math.fsum(self.durations)

    def select(self, keep: Callable[[Track], bool]) -> "Manifest":
        """The tracks that satisfy a condition, in their order."""
        import pyarrow as pa

        return self._with(self._table.filter(pa.array(map(keep, self), pa.bool_())))

    def of_split(self, split: Split | None) -> "Manifest":
        """The tracks of a split; None: those in none."""
        import pyarrow.compute as pc

        column = self._table["split"]
        return self._with(
            self._table.filter(pc.is_null(column) if split is None else pc.equal(column, split))
        )

    def map(self, change: Callable[[Track], Track]) -> "Manifest":
        """Every track as ``change`` returns it."""
        return Manifest(self.root, map(change, self))

    def _with(self, table: "pa.Table") -> "Manifest":
        manifest = Manifest.__new__(Manifest)
        manifest.root, manifest._table = self.root, table.combine_chunks()
        return manifest

    def digest(self) -> str:
        """SHA-256 of what the tracks hold, in hexadecimal: of their hashes and durations, sorted.

        Neither order nor names nor the root change it; a byte more or less in any file does.
        """
        hashes, durations = self._table["sha256"].to_pylist(), self._table["duration"].to_pylist()
        digest = hashlib.sha256()
        for sha256, duration in sorted(zip(hashes, durations, strict=True)):
            digest.update(f"{sha256} {duration!r}\n".encode())
        return digest.hexdigest()

    def open(self, track: Track) -> AbstractContextManager[Location | BinaryIO]:
        """As :func:`open_track`, below this root."""
        return open_track(track, self.root)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a ``.parquet`` or ``.jsonl`` file; what was there stays until that is complete.

        A root inside of the file's folder is written relative to it, so that both move together.

        Raises ConfigError (another suffix) or OutputError.
        """
        path = Path(path)
        check_suffix(path)
        header = {_HEADER: VERSION, "root": self._root_from(Path(os.path.abspath(path)).parent)}
        with atomic_write(path) as temporary:
            if path.suffix == ".parquet":
                from pyarrow import parquet

                metadata = {_HEADER: json.dumps(header)}
                parquet.write_table(self._table.replace_schema_metadata(metadata), temporary)
                return
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(header) + "\n")
                for track in self:
                    file.write(to_json(track) + "\n")

    def _root_from(self, folder: Path) -> str:
        if isinstance(self.root, str):
            return self.root
        root = Path(os.path.abspath(self.root))
        return (root.relative_to(folder) if root.is_relative_to(folder) else root).as_posix()

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
    ) -> "Manifest":
        """Reads a manifest.

        Args:
            path: of the ``.parquet`` or ``.jsonl`` file, or its URL.
            root: where the files are, if not where they were.

        Raises ConfigError (another suffix) or DataError (it cannot be read, is not a manifest, is
        damaged, or newer than this program).
        """
        path = _location(path)
        check_suffix(path)
        read = _read_parquet if str(path).endswith(".parquet") else _read_jsonl
        try:
            header, table = read(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error
        _check(table, str(path))
        manifest = cls.__new__(cls)
        manifest._table = table
        if root is None:
            written = header["root"]
            root = written if is_url(written) else join(parent(path), written)
        manifest.root = _location(root)
        return manifest


@contextmanager
def open_track(track: Track, root: Location) -> Iterator[Location | BinaryIO]:
    """Gives what :mod:`musicfm.audio` reads a track from: its place, or its part of a shard.

    Raises DataError if the shard cannot be opened.
    """
    if track.shard is None:
        yield join(root, track.path)
        return
    shard = join(root, track.shard)
    try:
        file = open_bytes(shard)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", error)
        raise DataError(f"cannot read {shard}: {reason}; prepare it again") from error
    with file:
        yield io.BufferedReader(_Part(file, track))


def is_manifest(source: str | os.PathLike[str]) -> bool:
    """Whether a path or URL is named as manifests are."""
    return os.fspath(source).endswith(MANIFEST_SUFFIXES)


def check_suffix(path: Location) -> None:
    """Raises ConfigError unless a path is named as manifests are."""
    if not is_manifest(path):
        raise ConfigError(f"{path} is not a manifest; its name must end in .parquet or .jsonl")


def _opened(path: Location) -> AbstractContextManager[BinaryIO]:
    """A manifest, of which all will be read."""
    return fetched(path) if isinstance(path, str) else path.open("rb")


def _location(path: str | os.PathLike[str]) -> Location:
    return path if isinstance(path, str) and is_url(path) else Path(path)


def recordings_of(manifest: Manifest) -> list[Recording]:
    """The tracks as recordings to embed, named after their paths below the root.

    Raises ConfigError if they are pieces in shards, or not below the root: results would then lie
    outside of their folder.
    """
    root = manifest.root if isinstance(manifest.root, str) else Path(os.path.abspath(manifest.root))
    found = []
    for track in manifest:
        if track.shard is not None:
            raise ConfigError(
                f"{track.path} is a piece in the shard {track.shard}; give the manifest of the "
                "recordings that the shards were made of"
            )
        if posixpath.isabs(track.path) or ".." in track.path.split("/"):
            raise ConfigError(
                f"track '{track.path}' is not below the manifest's root, {root}; name another root "
                "in the manifest, and paths relative to it"
            )
        name = os.path.splitext(track.path)[0]
        found.append(Recording(join(root, track.path), name, track.size, track.modified))
    return found


def to_json(track: Track) -> str:
    """A track as a line of JSON, without what is unknown."""
    values = {name: getattr(track, name) for name in _KINDS}
    known = {name: value for name, value in values.items() if value not in ("", None, ())}
    return json.dumps(known, ensure_ascii=False)


def from_json(line: str | bytes) -> Track:
    """The inverse of :func:`to_json`. Raises ValueError, whose text says what is wrong."""
    values = parse_json(line)
    if not isinstance(values, dict):
        raise ValueError("it is not an object")
    if unknown := sorted(set(values) - set(_KINDS)):
        raise ValueError(f"it has an unknown key '{unknown[0]}'")
    if missing := sorted(_REQUIRED - set(values)):
        raise ValueError(f"'{missing[0]}' is missing")
    for name, value in values.items():
        if not _is_kind(value, _KINDS[name]):
            raise ValueError(f"'{name}' is {value!r}")
    return _track(values)


_REQUIRED = {"path", "duration", "sample_rate", "channels", "size", "modified", "sha256"}
_KINDS: Mapping[str, type] = {
    field.name: {"genres": list, "duration": float}.get(
        field.name, int if field.type is int else str
    )
    for field in fields(Track)
}


def _is_kind(value: object, kind: type) -> bool:
    if kind is list:
        return isinstance(value, list) and all(_is_kind(item, str) for item in value)
    if kind is str:  # JSON can spell halves of characters, which no file can hold
        return isinstance(value, str) and value == value.encode("utf-8", "replace").decode()
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not isinstance(value, bool)


def _track(row: Mapping[str, Any]) -> Track:
    return Track(**{**row, "genres": tuple(row.get("genres", ()))})


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.string())}
    optional = {"split", "reserved", "shard"}
    return pa.schema(
        [pa.field(name, types[kind], name in optional) for name, kind in _KINDS.items()]
    )


def _table(tracks: Iterable[Track]) -> "pa.Table":
    schema = _schema()
    import pyarrow as pa

    columns: list[list[Any]] = [[] for _ in schema.names]
    getters = [(name, column.append) for name, column in zip(schema.names, columns, strict=True)]
    for track in tracks:
        for name, append in getters:
            append(getattr(track, name))
    return pa.table(columns, schema=schema)


def _read_parquet(path: Location) -> tuple[dict[str, Any], "pa.Table"]:
    schema = _schema()
    import pyarrow as pa
    from pyarrow import parquet

    with _opened(path) as file:
        try:
            # read_table starts several threads; any that is not up yet when Python exits aborts it.
            table = parquet.ParquetFile(file).read(use_threads=False)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:  # OSError: a page that cannot be unpacked
            raise DataError(
                f"{path} is damaged, or not a Parquet file; delete it and scan again"
            ) from error
    metadata = (table.schema.metadata or {}).get(_HEADER.encode())
    header = _header(metadata, path)
    table = table.replace_schema_metadata(None)
    if not table.schema.equals(schema):
        raise DataError(f"{path} has other columns than a manifest; delete it and scan again")
    table = table.combine_chunks()
    items = table["genres"].combine_chunks().flatten()
    required = [table[field.name] for field in schema if not field.nullable]
    if any(column.null_count for column in [*required, items]):
        raise DataError(f"{path} lacks values that every track has; delete it and scan again")
    return header, table


def _read_jsonl(path: Location) -> tuple[dict[str, Any], "pa.Table"]:
    with _opened(path) as file:
        header = _header(file.readline(), path)
        tracks = []
        for number, line in enumerate(file, start=2):
            try:
                tracks.append(from_json(line))
            except ValueError as error:
                raise DataError(
                    f"{path}, line {number} is not a track ({error}); correct it, or "
                    "delete the file"
                ) from error
    import pyarrow as pa

    try:
        return header, _table(tracks)
    except pa.ArrowException as error:
        raise DataError(
            f"{path} has values that no track has ({error}); correct it, or delete the file"
        ) from error


def _header(text: bytes | None, path: Location) -> dict[str, Any]:
    try:
        header = parse_json(text or b"null")
        version = header[_HEADER]
        if not (_is_kind(version, int) and _is_kind(header["root"], str)):
            raise TypeError("values of other types")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a manifest of musicfm; make one with scan") from error
    if version > VERSION:
        raise DataError(
            f"{path} was written by a newer musicfm (version {version} of the format, and this "
            f"one reads {VERSION}); update musicfm"
        )
    return header


def _check(table: "pa.Table", where: str) -> None:
    """Raises DataError for the first impossible track."""
    durations = table["duration"].to_numpy()
    impossible = {
        "duration": ~((durations > 0) & (durations < _LONGEST)),
        "sample_rate": table["sample_rate"].to_numpy() <= 0,
        "channels": table["channels"].to_numpy() <= 0,
        "size": table["size"].to_numpy() <= 0,
        "offset": table["offset"].to_numpy() < 0,
    }
    for name, bad in impossible.items():
        if bad.any():
            row = int(bad.argmax())
            path, value = table["path"][row].as_py(), table[name][row].as_py()
            raise DataError(f"{where}: track '{path}' has an impossible {name}, {value}")
    for split in table["split"].unique().to_pylist():
        if split not in (None, *SPLITS):
            raise DataError(f"{where}: a track has split '{split}'; splits are train, valid, test")
    paths = table["path"]
    if len(paths.unique()) < len(paths):
        seen: set[str] = set()
        for path in paths.to_pylist():
            if path in seen:
                raise DataError(f"{where}: track '{path}' occurs twice; delete one")
            seen.add(path)


class _Part(RangeFile):
    """The bytes of a track in its shard, as a file of their own."""

    def __init__(self, file: BinaryIO, track: Track) -> None:
        super().__init__(f"{track.path} in {track.shard}", track.size)
        self._file, self._start = file, track.offset

    def part(self, start: int, stop: int) -> bytes:
        self._file.seek(self._start + start)
        return self._file.read(stop - start)
