"""Playlists as files (M3U8), which players read."""

import os
from collections.abc import Iterable
from pathlib import Path

from musicfm.errors import printable
from musicfm.files import write_file
from musicfm.library.database import Track
from musicfm.remote import is_url


def write_m3u8(path: Path, tracks: Iterable[Track]) -> None:
    """Writes a playlist, whose paths are relative to its folder. Raises OutputError."""
    folder = os.path.dirname(os.path.abspath(path))
    lines = [b"#EXTM3U"]
    for track in tracks:
        shown = " - ".join(filter(None, (track.artist, track.title)))
        lines.append(f"#EXTINF:{round(track.duration)},{printable(shown)}".encode())
        lines.append(os.fsencode(_place(track.path, folder)))
    write_file(path, b"\n".join(lines) + b"\n")


def _place(path: str, folder: str) -> str:
    if is_url(path):
        return path
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # on another drive of Windows
        return path
    if "\n" in path or "\r" in path:  # which would end the line
        return Path(path).as_uri()
    # Lines that begin so are comments.
    return os.path.join(os.curdir, relative) if relative.startswith("#") else relative
