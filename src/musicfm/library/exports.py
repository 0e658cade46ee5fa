"""A library for other programs: tables, JAMS files, and a collection for rekordbox."""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as parquet

from musicfm.embedding.collection import is_disk_error
from musicfm.errors import OutputError, as_text
from musicfm.files import atomic_write, write_json
from musicfm.library.database import Settings, Track
from musicfm.library.keys import write_key
from musicfm.library.library import Library
from musicfm.library.matrices import Matrix
from musicfm.library.rekordbox import plays, write_collection
from musicfm.remote import is_url

_ROWS = 1_000
"""The number of rows in a row group of Parquet."""


def write_csv(library: Library, path: Path) -> int:
    """A table with a line for each track, and tags as JSON; returns how many."""
    rows = [
        {**row, "tags": json.dumps(row["tags"], ensure_ascii=False)}
        for row in map(_row, library.present())
    ]
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def write_parquet(library: Library, path: Path) -> int:
    """The same table as Parquet, with vectors: as they were computed, means and then deviations
    over time of hidden states. Returns the number of tracks.
    """
    tracks, vectors = library.present(), library.vectors(raw=True)
    schema = _schema(library.settings, vectors)
    with atomic_write(path) as temporary, parquet.ParquetWriter(temporary, schema) as file:
        for batch in _batches(tracks, vectors, schema):
            file.write_batch(batch)
    return len(tracks)


def write_lancedb(library: Library, address: str) -> int:
    """The same table in a LanceDB database, named ``tracks``, with vectors as they are compared:
    centred, whitened, of length 1. A table of that name is replaced by a new version.

    Args:
        library: of which there is something to compare.
        address: of the database: a folder, or an address such as ``s3://bucket/folder``.

    Returns the number of tracks. Raises DataError if there is nothing to compare yet, OutputError.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # or it warns that there is no table yet
    import lancedb

    tracks, vectors = library.present(), library.vectors()
    schema = _schema(library.settings, vectors)
    rows = pa.RecordBatchReader.from_batches(schema, _batches(tracks, vectors, schema))
    try:
        lancedb.connect(address).create_table("tracks", rows, mode="overwrite")
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        reason = re.sub(r", /\S+\.rs:\d+:\d+$", "", reason)  # where in Lance's own code
        raise OutputError(f"cannot write {address}: {reason}; name another folder") from error
    return len(tracks)


def write_jams(library: Library, folder: Path) -> tuple[int, list[str]]:
    """A JAMS file for each track that was analysed, in folders as the tracks are in.

    Returns:
        How many, and why others could not be written: their names are too long.
    """
    tracks = library.present()
    root = _common_folder([track.path for track in tracks if not is_url(track.path)])
    count, failures = 0, []
    for track in tracks:
        content = library.database.analysis(track)
        if content is None:
            continue
        target = folder / (_name(track.path, root) + ".jams")
        try:
            write_json(target, content)
        except OutputError as error:
            if is_disk_error(error):
                raise
            failures.append(str(error))
        else:
            count += 1
    return count, failures


def write_rekordbox(library: Library, path: Path) -> tuple[int, int]:
    """A collection that rekordbox imports; see :mod:`musicfm.library.rekordbox`.

    Returns:
        The number of tracks, and of those left out because rekordbox does not play their formats.
    """
    tracks = library.present()
    playable = [track for track in tracks if plays(track)]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write_collection(((track, library.analysis(track)) for track in playable), file)
    return len(playable), len(tracks) - len(playable)


def _schema(settings: Settings, vectors: Matrix) -> pa.Schema:
    """The columns of a table with vectors."""
    return pa.schema(
        [
            *((name, pa.string()) for name in ("path", "title", "artist", "album")),
            ("duration", pa.float64()),
            ("tempo", pa.float64()),
            *((name, pa.string()) for name in ("key", "camelot", "openkey")),
            ("tags", pa.map_(pa.string(), pa.float64())),
            ("vector", pa.list_(pa.float32(), vectors.shape[1])),
        ],
        metadata={"model": settings.model, "fingerprint": settings.fingerprint},
    )


def _batches(tracks: list[Track], vectors: Matrix, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a table with vectors, some at a time."""
    for start in range(0, len(tracks), _ROWS):
        rows = [
            {**_row(track), "tags": list(track.tags.items()), "vector": vectors[track.vector]}
            for track in tracks[start : start + _ROWS]
        ]
        yield pa.RecordBatch.from_pylist(rows, schema)


def _row(track: Track) -> dict[str, Any]:
    return {
        "path": as_text(track.path),
        **track.facts(),
        "camelot": None if track.key is None else write_key(track.key, "camelot"),
        "openkey": None if track.key is None else write_key(track.key, "openkey"),
        "tags": dict(track.tags),
    }


def _common_folder(paths: list[str]) -> str:
    """The folder that all files are in; empty if there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no files, or on several drives
        return ""


def _name(path: str, root: str) -> str:
    """Of a track's file, relative to the folder that all are in."""
    if is_url(path):
        address = urlsplit(path)
        return str(PurePosixPath(address.netloc, *PurePosixPath(address.path).parts[1:]))
    return os.path.relpath(path, root) if root else os.path.splitdrive(path)[1].lstrip("/\\")
