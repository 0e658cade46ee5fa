"""Reading a library: its tracks, their vectors, similar songs, playlists, duplicates."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musicfm.audio import reading
from musicfm.errors import ConfigError
from musicfm.library import duplicates, index, playlists, transform, writing
from musicfm.library.database import (
    Database,
    Kind,
    Settings,
    Track,
    making_sense,
    read_settings,
    read_tracks,
)
from musicfm.library.duplicates import Duplicates
from musicfm.library.keys import ALL, Key
from musicfm.library.matrices import Matrix
from musicfm.library.pooling import SEGMENT_SECONDS, merged
from musicfm.library.search import Rows, nearest
from musicfm.library.transform import Transform
from musicfm.remote import is_url

if TYPE_CHECKING:
    from musicfm.analysis.analyzer import Analysis
    from musicfm.library.adding import Added
    from musicfm.library.encoding import TrackEncoder

Song = str | os.PathLike[str]
"""A track of a library, by its path or URL; or any other recording."""

_OWNER = {
    "tracks": "vector = ?",
    "segments": "first_segment = (SELECT max(first_segment) FROM tracks WHERE first_segment <= ?)",
}
"""Conditions on the tracks that a row of a matrix may belong to."""

_MISFIT = 1.0
"""The cost of a step in a playlist between keys or tempi that do not fit: as much as that of two
tracks that have nothing in common."""
_NEAR_TEMPO = 0.06
"""The fraction by which tempi may differ that DJs can still match."""


@dataclass(frozen=True)
class Similar:
    """A track that is similar to something."""

    track: Track
    similarity: float
    """The cosine of the vectors: 1 for the same, about 0 for two tracks on average."""
    start: float | None = None
    """The time in the track, in seconds, at which the similar segment begins; None if the whole
    track was compared."""


class Library:
    """A collection of music in a folder: what is known of each track, and vectors to find similar
    ones by.

    Nothing is read before it is asked for. May be used by several threads, and while another
    process adds music, which is seen from the next call on.

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

    def add(self, *sources: Song, **options: Any) -> "Added":
        """Adds what is new or has changed; see :func:`musicfm.library.adding.add`."""
        from musicfm.library.adding import add

        return add(self.path, sources, **options)

    def fit(self) -> Transform:
        """Fits another transform to what is in it now. Raises OutputError."""
        with self.database.alone():
            return transform.fit(self.database)

    def index(self) -> list[Kind]:
        """Makes or completes an index for matrices of more than a million vectors, with which they
        are searched approximately; fewer are all compared.

        Returns what has an index now.

        Raises ConfigError without USearch, OutputError.
        """
        if not index.is_installed():
            raise ConfigError("an index needs usearch; pip install 'musicfm[library]'")
        with self.database.alone():
            return index.build_all(self.database)

    def refresh(self, track: Track) -> None:
        """Notes that the tags of a file were changed. Raises AudioError or OutputError."""
        with self.database.alone():
            writing.refresh(self.database, track)

    def tracks(self) -> list[Track]:
        """All tracks, by path; those whose files are gone, too. Raises DataError."""
        return self.database.tracks()

    def present(self) -> list[Track]:
        """The tracks whose files are there, by path. Raises ConfigError if there are none."""
        if tracks := self.database.tracks("missing = 0"):
            return tracks
        raise ConfigError(
            f"there are no tracks in {self.path}; add some: musicfm library add {self.path} MUSIC"
        )

    def track(self, song: Song) -> Track | None:
        """The track of a file or URL, if it is in the library."""
        with self.database.connect() as connection:
            return _track(connection, song)

    def analysis(self, track: Track) -> "Analysis | None":
        """The analysis of a track; None without heads."""
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

    def similar(
        self,
        song: Song,
        *,
        limit: int = 10,
        segment: tuple[float, float] | None = None,
        tempo: tuple[float, float] | None = None,
        key: str | None = None,
        key_distance: int = 0,
        not_artist: bool = False,
    ) -> list[Similar]:
        """Finds tracks that sound like a song, the most similar first, without the song itself and
        without tracks whose files are gone.

        Args:
            song: a track of the library, or any recording.
            limit: how many tracks at most.
            segment: start and end of a part of the song, in seconds; it is compared with all
                segments of tracks.
            tempo: the least and the largest tempo, in beats per minute.
            key: a key such as "Am".
            key_distance: how many steps other keys may be away from it, see
                :meth:`musicfm.library.keys.Key.distance`.
            not_artist: whether to leave out tracks by the artist of the song.

        Raises:
            AudioError: the song cannot be used.
            ConfigError: no such segment or key.
            DataError: there is no library, or nothing to compare yet.
        """
        kind: Kind = "tracks" if segment is None else "segments"
        with self.database.connect() as connection:
            connection.execute("BEGIN")  # so that rows keep their meaning until they are looked up
            track = _track(connection, song)
            query = self._query(connection, song, track, segment)
            where: list[str] = ["missing = 0"]
            values: list[Any] = []
            if track is not None:
                where.append("id != ?")
                values.append(track.id)
            if tempo is not None:
                where.append("tempo BETWEEN ? AND ?")
                values += tempo
            if key is not None:
                wanted = Key.parse(key)
                names = [
                    n for k in ALL if k.distance(wanted) <= key_distance for n in k.spellings()
                ]
                where.append(f"key IN ({_marks(names)})")
                values += names
            if not_artist:
                if not (artist := _artist(song, track)):
                    raise ConfigError(
                        f"{os.fspath(song)} has no artist among its tags, whose tracks could be "
                        "left out; do without --not-artist"
                    )
                where.append("lower(artist) != lower(?)")
                values.append(artist)
            return self._nearest(
                connection, kind, query, limit, " AND ".join(where), values, len(where) > 2
            )

    def similar_to(self, vector: Matrix, *, limit: int = 10) -> list[Similar]:
        """Finds tracks that sound like a recording that was encoded elsewhere.

        Args:
            vector: (2 * dim,) means and then standard deviations over time of hidden states, of the
                library's model and layer.
            limit: how many tracks at most.

        Raises DataError if there is no library, or nothing to compare yet.
        """
        with self.database.connect() as connection:
            connection.execute("BEGIN")  # so that rows keep their meaning until they are looked up
            query = self._compared(connection, vector)
            return self._nearest(connection, "tracks", query, limit, "missing = 0", (), False)

    def _nearest(
        self,
        connection: sqlite3.Connection,
        kind: Kind,
        query: Matrix,
        limit: int,
        where: str,
        values: Sequence[Any],
        is_rare: bool,
    ) -> list[Similar]:
        """The tracks nearest to a vector among those that hold a condition.

        Args:
            is_rare: whether few tracks may hold it, so that these are looked up before.
        """
        matrix = self.database.read_matrix(connection, kind)
        rows = None
        if is_rare:
            rows = _rows(connection, kind, len(matrix), where, values)
        count = 2 * limit if kind == "tracks" else 8 * limit
        condition = f"{_OWNER[kind]} AND {where}"
        path = self.database.searched_path(kind, read_settings(connection))
        has_index = rows is None and index.is_useful(path, matrix)
        while True:
            if has_index and count < len(matrix) // 4:
                found, products = index.near(path, matrix, query, count)
            else:
                found, products = nearest(matrix, query, count, rows)
            best: dict[int, Similar] = {}
            for row, product in zip(found.tolist(), products.tolist(), strict=True):
                for track in read_tracks(connection, condition, [row, *values]):
                    if kind == "tracks":
                        best.setdefault(track.id, Similar(track, product))
                    elif row in track.segments:
                        start = (row - track.first_segment) * SEGMENT_SECONDS
                        best.setdefault(track.id, Similar(track, product, start))
            if len(best) >= limit or len(found) < count:
                return [*best.values()][:limit]
            count *= 4

    def _query(
        self,
        connection: sqlite3.Connection,
        song: Song,
        track: Track | None,
        segment: tuple[float, float] | None,
    ) -> Matrix:
        """The vector of a song, or of a part of it, as it is compared."""
        if segment is None and track is not None:
            return self.database.read_matrix(connection, "tracks")[track.vector]
        if track is not None:
            rows = self.database.read_matrix(connection, "segments", raw=True)
            segments = rows[track.first_segment : track.segments.stop]
            duration = track.duration
        else:
            vectors = self._encoder.encode(os.fspath(song) if is_url(song) else Path(song))
            if segment is None:
                return self._compared(connection, vectors.track)
            segments, duration = vectors.segments, len(vectors.segments) * SEGMENT_SECONDS
        assert segment is not None
        part = merged(segments, _overlaps(len(segments), segment, duration))
        return self._compared(connection, part)

    def _compared(self, connection: sqlite3.Connection, vector: Matrix) -> Matrix:
        """A raw vector, centred, whitened and of length 1."""
        self.database.read_matrix(connection, "tracks")  # says so if there is no transform yet
        there = transform.current(connection)
        assert there is not None
        return there(vector[None])[0]

    @cached_property
    def _encoder(self) -> "TrackEncoder":
        from musicfm.library.adding import check_same
        from musicfm.library.encoding import TrackEncoder

        settings = self.settings
        encoder = TrackEncoder.load(settings.model, settings.heads)
        check_same(self.database, encoder.settings())
        return encoder

    def playlist(
        self,
        first: Song,
        last: Song | None = None,
        *,
        length: int = 20,
        harmonic: bool = False,
        near_tempo: bool = False,
    ) -> list[Track]:
        """An order of tracks in which each sounds like the one before.

        Args:
            first: the track that it begins with.
            last: the track that it ends with; None: of the tracks around the first.
            length: how many tracks, with these; all if there are fewer.
            harmonic: whether each key is to go together with the one before.
            near_tempo: whether each tempo, its half or its double is to be within 6 % of the one
                before.

        Raises:
            ConfigError: a track is not in the library, or the length is below what is named.
            DataError: there is no library, or nothing to compare yet.
        """
        ends = [first] if last is None else [first, last]
        if length < len(ends):
            raise ConfigError(f"a playlist of {length} cannot hold {len(ends)} tracks")
        with self.database.connect() as connection:
            connection.execute("BEGIN")  # so that rows keep their meaning
            known = [_track(connection, song) for song in ends]
            for song, track in zip(ends, known, strict=True):
                if track is None:
                    raise ConfigError(
                        f"{os.fspath(song)} is not in {self.path}; add it (musicfm library add "
                        f"{self.path} {os.fspath(song)}), or name a track that is"
                    )
            chosen = {track.id for track in known if track}
            if len(chosen) < len(ends):
                raise ConfigError(
                    f"{os.fspath(first)} is both the first and the last; name another last one, or "
                    "have a playlist around it"
                )
            tracks = [
                track
                for track in read_tracks(connection)
                if track.id in chosen or not track.missing
            ]
            vectors = self.database.read_matrix(connection, "tracks")[[t.vector for t in tracks]]
        places = {track.id: place for place, track in enumerate(tracks)}
        numbers = [places[track.id] for track in known if track]
        penalty = _penalty(tracks, harmonic, near_tempo) if harmonic or near_tempo else None
        if last is None:
            order = playlists.around(vectors, numbers[0], length, penalty)
        else:
            order = playlists.between(vectors, numbers[0], numbers[1], length, penalty)
        return [tracks[number] for number in order]

    def duplicates(
        self, progress: Callable[[int, int], object] = lambda done, count: None
    ) -> tuple[list[Duplicates], list[str]]:
        """Finds recordings that are there more than once: in other encodings, at other levels, or
        cut; see :func:`musicfm.library.duplicates.find`.
        """
        with self.database.connect() as connection:
            connection.execute("BEGIN")
            tracks = read_tracks(connection, "missing = 0")
            vectors = self.database.read_matrix(connection, "tracks")
            segments = self.database.read_matrix(connection, "segments")
        return duplicates.find(tracks, vectors, segments, progress)


def _track(connection: sqlite3.Connection, song: Song) -> Track | None:
    path = os.fspath(song) if is_url(song) else os.path.abspath(song)
    found = read_tracks(connection, "path = CAST(? AS TEXT)", [os.fsencode(path)])
    if not found and not is_url(song) and os.path.isfile(path):  # it may be there by another path
        state = os.stat(path)
        alike = read_tracks(
            connection, "size = ? AND modified = ?", [state.st_size, state.st_mtime_ns]
        )
        found = [
            track
            for track in alike
            if os.path.isfile(track.path) and os.path.samefile(track.path, path)
        ]
    return found[0] if found else None


def _rows(
    connection: sqlite3.Connection, kind: Kind, total: int, where: str, values: Sequence[Any]
) -> Rows:
    """The rows, of so many of a matrix, that belong to tracks that hold a condition, in rising
    order.
    """
    columns = "vector, 1" if kind == "tracks" else "first_segment, num_segments"
    found = connection.execute(
        f"SELECT DISTINCT {columns} FROM tracks WHERE {where} ORDER BY 1", values
    )
    with making_sense("rows of vectors"):
        starts, counts = np.array(found.fetchall(), np.int64).reshape(-1, 2).T
        if not ((starts >= 0) & (counts >= 0) & (counts <= total - starts)).all():
            raise ValueError
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def _artist(song: Song, track: Track | None) -> str:
    if track is not None:
        return track.artist
    return reading.labels(os.fspath(song) if is_url(song) else Path(song))["artist"]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _overlaps(count: int, segment: tuple[float, float], duration: float) -> list[float]:
    """How many seconds of each segment of a track are in a part of it. Raises ConfigError."""
    start, stop = segment
    if not 0 <= start < min(stop, duration):
        raise ConfigError(
            f"there is no part from {start:g} to {stop:g} s in a recording of {duration:.0f} s; "
            "give its start and its end, such as 1:20-1:40"
        )
    starts = [number * SEGMENT_SECONDS for number in range(count)]
    stops = [*starts[1:], max(duration, count * SEGMENT_SECONDS)]
    return [
        max(0.0, min(stop, end) - max(start, begin))
        for begin, end in zip(starts, stops, strict=True)
    ]


def _penalty(tracks: Sequence[Track], harmonic: bool, near_tempo: bool) -> playlists.Penalty:
    """The cost of steps between keys and tempi that do not fit; what is not known fits."""
    keys = [Key.parse(track.key) if track.key else None for track in tracks]

    def penalty(one: int, other: int) -> float:
        cost = 0.0
        here, there = keys[one], keys[other]
        if harmonic and here and there and here.distance(there) > 1:
            cost += _MISFIT
        if near_tempo and not _is_near(tracks[one].tempo, tracks[other].tempo):
            cost += _MISFIT
        return cost

    return penalty


def _is_near(one: float | None, other: float | None) -> bool:
    if not one or not other:
        return True
    octaves = abs(np.log2(one / other))
    return bool(min(octaves, abs(octaves - 1)) <= np.log2(1 + _NEAR_TEMPO))
