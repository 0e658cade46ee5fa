"""What a server says of a library: its tracks, those that sound like a recording, and its map."""

import threading
from typing import Any

from musicfm.library import transform
from musicfm.library.database import Track, read_tracks
from musicfm.library.library import Library
from musicfm.library.map import map_page, policy
from musicfm.library.matrices import Matrix
from musicfm.library.search import nearest


def described(track: Track) -> dict[str, Any]:
    """What clients are told of a track; not where it lies."""
    return {
        "id": track.id,
        "title": track.title,
        "artist": track.artist,
        "album": track.album,
        "duration": track.duration,
        "tempo": track.tempo,
        "key": track.key,
        "tags": dict(track.tags),
    }


def similar_to(library: Library, vector: Matrix, limit: int) -> list[tuple[Track, float]]:
    """The tracks of a library that are most similar to a recording, with their similarity.

    Args:
        library: to search; tracks whose files are gone are passed over.
        vector: (2 * dim,) of the recording, means and then standard deviations over time.
        limit: how many at most.

    Raises DataError if there is nothing to compare yet.
    """
    database = library.database
    with database.connect() as connection:
        connection.execute("BEGIN")  # so that rows keep their meaning until they are looked up
        matrix = database.read_matrix(connection, "tracks")
        there = transform.current(connection)
        assert there is not None  # or reading the matrix would have failed
        query, count = there(vector[None])[0], 2 * limit
        while True:
            rows, products = nearest(matrix, query, count)
            found = [
                (track, product)
                for row, product in zip(rows.tolist(), products.tolist(), strict=True)
                for track in read_tracks(connection, "vector = ? AND missing = 0", [row])
            ]
            if len(found) >= limit or count >= len(matrix):
                return found[:limit]
            count *= 4


class MapPage:
    """The map of a library, made when it is first asked for and whenever its tracks have changed.

    Args:
        library: that it is of.
    """

    def __init__(self, library: Library) -> None:
        self._library, self._lock = library, threading.Lock()
        self._state: object = None
        self._html = ""
        self.policy = f"{policy()}; frame-ancestors 'none'"

    def html(self) -> str:
        """The page. Raises ConfigError or DataError if there is nothing to show yet."""
        with self._lock:
            tracks = self._library.tracks()
            state = (
                self._library.settings.transform,
                [(t.id, t.modified, t.missing) for t in tracks],
            )
            if state != self._state:
                self._html = map_page(self._library)
                self._state = state
            return self._html
