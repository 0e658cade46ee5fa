"""Changes to a library: tracks come in, change, move, and leave."""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from musicfm.audio import reading
from musicfm.journal import Recording
from musicfm.library import matrices
from musicfm.library.database import (
    KINDS,
    Database,
    Kind,
    Track,
    num_rows,
    read_settings,
    read_tracks,
    write_settings,
)
from musicfm.library.matrices import ROWS_AT_ONCE, Matrix
from musicfm.library.pooling import Vectors
from musicfm.library.transform import Transform, current, fit
from musicfm.remote import is_url

_AT = "path = CAST(? AS TEXT)"
"""A condition on paths, which are given as bytes: names of files may be no UTF-8."""
_SHARED = "duration, tempo, key, tags, warnings, analysis, vector, first_segment, num_segments"
"""The columns that copies of a recording have in common."""


@dataclass(frozen=True)
class Encoded:
    """What the model and the heads found in a recording."""

    vectors: Vectors
    duration: float
    """The duration in seconds."""
    warnings: Sequence[str] = ()
    """Warnings of damage."""
    analysis: Mapping[str, Any] | None = None
    """The JAMS object of the analysis; None without heads. Likewise what follows."""
    tempo: float | None = None
    key: str | None = None
    tags: Mapping[str, float] | None = None


class Writer:
    """Writes to a library whose lock is held. All raises OutputError."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.connect() as connection:
            self._transform = current(connection)

    def fit(self) -> Transform:
        """Fits another transform to what is in it now."""
        self._transform = fit(self.database)
        return self._transform

    def recognise(self, recording: Recording, sound: str) -> bool:
        """Notes what is new of a recording whose sound is known already: other tags, another
        place, or a copy.

        Args:
            recording: the file.
            sound: its :func:`musicfm.audio.reading.sound_hash`.

        Returns:
            Whether it is known.

        Raises AudioError if its tags cannot be read.
        """
        known = self.database.tracks("sound = ?", [sound])
        if not known:
            return False
        same = next((track for track in known if track.path == str(recording)), None)
        track = same or next((each for each in known if is_gone(each.path)), None)
        facts = {**_facts(recording, sound), **reading.labels(recording.path)}
        with self.database.connect() as connection:
            if track is None:
                _delete(connection, recording)
                _copy(connection, known[0], facts)
            else:
                if track is not same:
                    _delete(connection, recording)
                _update(connection, track.id, facts)
        return True

    def write(self, recording: Recording, sound: str, found: Encoded) -> None:
        """Adds a track, or replaces the one at its path; its vectors first.

        Raises AudioError if its tags cannot be read.
        """
        facts = {
            **_facts(recording, sound),
            **reading.labels(recording.path),
            "duration": found.duration,
            "tempo": found.tempo,
            "key": found.key,
            "tags": json.dumps(dict(found.tags or {})),
            "warnings": json.dumps(list(found.warnings)),
            "analysis": None
            if found.analysis is None
            else zlib.compress(json.dumps(found.analysis).encode()),
            "num_segments": len(found.vectors.segments),
        }
        rows: dict[Kind, Matrix] = {
            "tracks": found.vectors.track[None],
            "segments": found.vectors.segments,
        }
        with self.database.connect() as connection:
            settings, count = read_settings(connection), num_rows(connection)
            for kind, part in rows.items():
                matrices.append(self.database.raw_path(kind, settings), count[kind], part)
                if self._transform is not None:
                    path = self.database.searched_path(kind, settings)
                    matrices.append(path, count[kind], self._transform(part))
            facts |= {"vector": count["tracks"], "first_segment": count["segments"]}
            there = read_tracks(connection, _AT, [facts["path"]])
            if there:
                _update(connection, there[0].id, facts)
            else:
                _insert(connection, facts)

    def mark_missing(self) -> list[Track]:
        """Notes whose files are gone, or are there again; the tracks that are missing."""
        tracks = self.database.tracks()
        gone = {track.id: is_gone(track.path) for track in tracks}
        changed = [(gone[t.id], t.id) for t in tracks if gone[t.id] != t.missing]
        with self.database.connect() as connection:
            connection.executemany("UPDATE tracks SET missing = ? WHERE id = ?", changed)
        return [track for track in tracks if gone[track.id]]

    def remove(self, tracks: Sequence[Track]) -> None:
        """Takes tracks out, and rewrites the matrices without their rows."""
        if not tracks:
            return
        with self.database.connect() as connection:
            before = read_settings(connection)
            after = replace(before, generation=before.generation + 1)
            removed = {track.id for track in tracks}
            kept = [track for track in read_tracks(connection) if track.id not in removed]
            # Copies of a recording share their rows.
            rows: dict[Kind, list[range]] = {
                "tracks": [range(row, row + 1) for row in sorted({t.vector for t in kept})],
                "segments": sorted({t.segments for t in kept}, key=lambda part: part.start),
            }
            for kind in KINDS:
                raw = self.database.read_matrix(connection, kind, raw=True)
                matrices.write(self.database.raw_path(kind, after), _taken(raw, rows[kind]))
                if before.transform:
                    searched = self.database.read_matrix(connection, kind)
                    path = self.database.searched_path(kind, after)
                    matrices.write(path, _taken(searched, rows[kind]))
            vector = {part.start: row for row, part in enumerate(rows["tracks"])}
            starts = np.cumsum([0, *map(len, rows["segments"])]).tolist()
            segment = dict(zip(rows["segments"], starts, strict=False))
            connection.executemany("DELETE FROM tracks WHERE id = ?", [(each,) for each in removed])
            connection.executemany(
                "UPDATE tracks SET vector = ?, first_segment = ? WHERE id = ?",
                [(vector[t.vector], segment[t.segments], t.id) for t in kept],
            )
            write_settings(connection, after)
        self.database.sweep()


def refresh(database: Database, track: Track) -> None:
    """Notes the size, age, title, artist and album of a file whose tags were changed.

    The lock of the library has to be held. Raises AudioError if the file cannot be read.
    """
    status = os.stat(track.path)
    facts = {"size": status.st_size, "modified": status.st_mtime_ns, **reading.labels(track.path)}
    with database.connect() as connection:
        _update(connection, track.id, facts)


def is_gone(path: str) -> bool:
    """Whether a file was on this machine, and is there no more."""
    return not is_url(path) and not os.path.exists(path)


def _taken(matrix: Matrix, rows: Sequence[range]) -> Iterable[Matrix]:
    """Blocks of some rows of a matrix."""
    numbers = np.concatenate([np.arange(part.start, part.stop) for part in rows or [range(0)]])
    for first in range(0, len(numbers), ROWS_AT_ONCE):
        yield matrix[numbers[first : first + ROWS_AT_ONCE]]


def _facts(recording: Recording, sound: str) -> dict[str, Any]:
    return {
        "path": os.fsencode(str(recording)),
        "size": recording.size,
        "modified": recording.modified,
        "sound": sound,
        "missing": 0,
    }


def _mark(name: str) -> str:
    return "CAST(? AS TEXT)" if name == "path" else "?"


def _insert(connection: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    marks = ", ".join(map(_mark, facts))
    connection.execute(
        f"INSERT INTO tracks ({', '.join(facts)}) VALUES ({marks})", [*facts.values()]
    )


def _update(connection: sqlite3.Connection, track: int, facts: Mapping[str, Any]) -> None:
    changes = ", ".join(f"{name} = {_mark(name)}" for name in facts)
    connection.execute(f"UPDATE tracks SET {changes} WHERE id = ?", [*facts.values(), track])


def _copy(connection: sqlite3.Connection, track: Track, facts: Mapping[str, Any]) -> None:
    """Adds a track with the same vectors and the same analysis as another."""
    marks = ", ".join(map(_mark, facts))
    connection.execute(
        f"INSERT INTO tracks ({', '.join(facts)}, {_SHARED}) "
        f"SELECT {marks}, {_SHARED} FROM tracks WHERE id = ?",
        [*facts.values(), track.id],
    )


def _delete(connection: sqlite3.Connection, recording: Recording) -> None:
    """Takes out the track at a path, which is another recording now."""
    connection.execute(f"DELETE FROM tracks WHERE {_AT}", [os.fsencode(str(recording))])
