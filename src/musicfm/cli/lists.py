"""Lists of recordings: lines, NUL-separated names, playlists, manifests; and whether there are any
recordings.
"""

import codecs
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from musicfm.errors import ConfigError
from musicfm.remote import is_url

if TYPE_CHECKING:
    from musicfm.embedding.collection import Source

_BYTE_ORDER_MARKS = (  # UTF-32's begin with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Without a mark, UTF-16 shows by three ASCII characters in a row, such as those of a suffix.
_UTF16_LE = re.compile(rb"(?s)(?:..)*?(?:[ -~]\0){3}")
_UTF16_BE = re.compile(rb"(?s)(?:..)*?(?:\0[ -~]){3}")
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f]")


def read_list(listing: Path) -> list[str]:
    """The paths and URLs in a file; "-" stands for standard input.

    One a line, or with zero bytes between them, as ``find -print0`` writes them; or a playlist
    (M3U, PLS), whose paths are relative to its folder, as players take them. The text may be UTF-16
    or UTF-32; else names may have any bytes, and keep them.

    Raises ConfigError if it cannot be read, or is not a list.
    """
    try:
        if str(listing) != "-":
            content = listing.read_bytes()
        elif sys.stdin is None:
            raise ConfigError("standard input is closed; give --list a file")
        else:
            content = sys.stdin.buffer.read()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot read the list {listing}: {reason}; check the path") from error
    content = _in_file_system_bytes(content, listing)
    if b"\0" in content:
        found = [name for name in content.split(b"\0") if name.strip()]
        is_playlist = False
    else:
        lines = [line.rstrip(b"\r") for line in content.split(b"\n") if line.strip()]
        found, is_playlist = _of_playlist(lines, listing.suffix.lower())
    names = [os.fsdecode(name) for name in found]
    if any(_CONTROL.search(name) and not os.path.exists(name) for name in names[:10]):
        raise ConfigError(
            f"{listing} is not a list of recordings; to embed a recording, give it without --list"
        )
    if is_playlist:
        names = [name if is_url(name) else os.path.join(listing.parent, name) for name in names]
    return names


def _in_file_system_bytes(content: bytes, listing: Path) -> bytes:
    """A text in the encoding of names of files."""
    mark, encoding = next(
        (m for m in _BYTE_ORDER_MARKS if content.startswith(m[0])), (b"", "utf-8")
    )
    content = content.removeprefix(mark)
    if not mark and _UTF16_LE.match(content):
        encoding = "utf-16-le"
    elif not mark and _UTF16_BE.match(content):
        encoding = "utf-16-be"
    if encoding == "utf-8":
        return content
    try:
        return os.fsencode(content.decode(encoding))
    except UnicodeError as error:
        raise ConfigError(
            f"the list {listing} is damaged: it begins as {encoding.upper()} but does not "
            "continue so"
        ) from error


def _of_playlist(lines: list[bytes], suffix: str) -> tuple[list[bytes], bool]:
    """The names in a playlist, and whether it is one; comments and titles are passed over."""
    head = lines[0].strip().upper() if lines else b""
    if suffix in (".m3u", ".m3u8") or head.startswith(b"#EXTM3U"):
        return [line for line in lines if not line.startswith(b"#")], True
    if suffix == ".pls" or head == b"[PLAYLIST]":
        entries = (re.fullmatch(rb"(?i)File\d+=(.+)", line.strip()) for line in lines)
        return [entry[1] for entry in entries if entry], True
    return lines, False


def check_there(sources: Sequence["Source"]) -> None:
    """Raises ConfigError if there are no recordings, before a model is loaded for them."""
    from musicfm.audio.folders import no_recordings, recordings_in
    from musicfm.journal import Recording

    paths = [
        Path(source)
        for source in sources
        if not isinstance(source, Recording) and not is_url(source)
    ]
    passed_over: dict[str, int] = {}
    files = (file for path in paths for file in recordings_in(path, lambda _: None, passed_over))
    if len(paths) == len(sources) and not any(os.path.exists(file) for file in files):
        raise ConfigError(no_recordings(sources, passed_over))


def with_manifests(sources: list[str]) -> list["Source"]:
    """The sources, with the tracks of each manifest in its place."""
    from musicfm.datasets.tracks import Manifest, is_manifest, recordings_of

    found: list[Source] = []
    for source in sources:
        if is_manifest(source):
            found += recordings_of(Manifest.load(source))
        else:
            found.append(source)
    return found
