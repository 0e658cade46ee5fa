"""What a server says of a library: its tracks and its map."""

import threading
from typing import Any

from musicfm.library.database import Track
from musicfm.library.library import Library
from musicfm.library.map import map_page, policy


def described(track: Track) -> dict[str, Any]:
    """What clients are told of a track; not where it lies."""
    return {"id": track.id, **track.facts(), "tags": dict(track.tags)}


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
