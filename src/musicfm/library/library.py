"""A library, for whoever asks it something: :class:`musicfm.Library`."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicfm.library import transform
from musicfm.library.database import (
    Database,
    Kind,
    Settings,
    Track,
    read_tracks,
)
from musicfm.library.matrices import Matrix
from musicfm.library.search import nearest
from musicfm.library.transform import Transform

if TYPE_CHECKING:
    from musicfm.analysis.analyzer import Analysis
    from musicfm.library.adding import Added


@dataclass(frozen=True)
class Similar:
    """A track that is similar to something."""

    track: Track
    similarity: float
    """The cosine of their vectors: 1 for the same, about 0 for any two tracks."""


class Library:
    """A collection of music in a folder: what is known of each track, and vectors to find similar
    ones by.

    Nothing is read before it is asked for. May be used by several threads, and while others add
    music; what they have added is seen from the next call on.

    Args:
        path: of the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.database = Database(self.path)

    @property
    def settings(self) -> Settings:
        """The model, and what else holds for all of it. Raises DataError if there is no library."""
        return self.database.settings()

    def add(self, *sources: str | os.PathLike[str], **options: Any) -> "Added":
        """Adds what is new or has changed; see :func:`musicfm.library.adding.add`."""
        from musicfm.library.adding import add

        return add(self.path, sources, **options)

    def fit(self) -> Transform:
        """Fits another transform to what is in it now. Raises OutputError."""
        with self.database.alone():
            return transform.fit(self.database)

    def tracks(self) -> list[Track]:
        """All tracks, by path; those whose files are gone, too. Raises DataError."""
        return self.database.tracks()

    def track(self, song: str | os.PathLike[str]) -> Track | None:
        """The track of a file or URL, if it is in the library."""
        with self.database.connect() as connection:
            return self._track(connection, song)

    def analysis(self, track: Track) -> "Analysis | None":
        """All that heads say of a track; None without heads."""
        from musicfm.analysis.analyzer import Analysis

        content = self.database.analysis(track)
        return None if content is None else Analysis.from_jams(content)

    def vectors(self, kind: Kind = "tracks", *, raw: bool = False) -> Matrix:
        """The vectors of tracks, or of their segments, mapped into memory.

        A track's is in the row ``track.vector``, those of its segments in ``track.segments``; rows
        of tracks that have left the library may lie between them.

        Args:
            kind: of tracks or of segments.
            raw: whether as they were computed: means and then standard deviations over time of
                hidden states. Else as they are compared: centred, whitened, of length 1.

        Returns:
            (rows, 2 * dim) if raw, else (rows, compared); float32.

        Raises DataError if there is no library, or nothing to compare yet.
        """
        return self.database.matrix(kind, raw=raw)

    def similar(self, song: str | os.PathLike[str], *, limit: int = 10) -> list[Similar]:
        """Tracks that sound like a song, the most similar first, without the song itself.

        Args:
            song: a track of the library, or any recording.
            limit: tracks at most.

        Raises AudioError if the song cannot be used, DataError if there is nothing to compare.
        """
        with self.database.connect() as connection:
            connection.execute("BEGIN")  # so that rows keep their meaning until they are looked up
            matrix = self.database.read_matrix(connection, "tracks")
            track = self._track(connection, song)
            query = matrix[track.vector] if track else self._heard(connection, song)
            count = limit + 1
            while True:
                rows, products = nearest(matrix, query, count)
                found = self._at(connection, rows.tolist())
                pairs = [
                    Similar(each, float(product))
                    for row, product in zip(rows.tolist(), products, strict=True)
                    for each in found.get(row, ())
                    if track is None or each.id != track.id
                ]
                if len(pairs) >= limit or count >= len(matrix):
                    return pairs[:limit]
                count *= 2

    def _track(self, connection: sqlite3.Connection, song: str | os.PathLike[str]) -> Track | None:
        from musicfm.remote import is_url

        path = os.fspath(song) if is_url(song) else os.path.abspath(song)
        found = read_tracks(connection, "path = CAST(? AS TEXT)", [os.fsencode(path)])
        return found[0] if found else None

    def _at(self, connection: sqlite3.Connection, rows: Sequence[int]) -> Mapping[int, list[Track]]:
        """The tracks that rows of the matrix of tracks belong to."""
        found: dict[int, list[Track]] = {}
        for first in range(0, len(rows), 500):  # SQLite takes so many values, whatever its build
            part = rows[first : first + 500]
            marks = ", ".join("?" * len(part))
            for track in read_tracks(connection, f"vector IN ({marks})", part):
                found.setdefault(track.vector, []).append(track)
        return found

    def _heard(self, connection: sqlite3.Connection, song: str | os.PathLike[str]) -> Matrix:
        """The vector of a song that is not in the library."""
        there = transform.current(connection)
        assert there is not None
        return there(self._listener.listen(Path(song)).track[None])[0]

    @cached_property
    def _listener(self) -> Any:
        from musicfm.library.adding import check_same
        from musicfm.library.listening import Listener

        settings = self.settings
        listener = Listener.load(settings.model, settings.heads)
        check_same(self.database, listener.settings())
        return listener
