"""Splitting a collection by artist, album, folder or track.

The split of a group follows from a hash of its name alone, so that no list is kept, and adding
recordings never moves others.
"""

import hashlib
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal, get_args

from musicfm.datasets.tracks import Manifest, Split, Track
from musicfm.errors import ConfigError

SplitBy = Literal["artist", "album", "folder", "track"]


def split(
    manifest: Manifest,
    *,
    valid: float = 0.05,
    test: float = 0.0,
    by: SplitBy = "artist",
    seed: int = 0,
) -> Manifest:
    """Puts each track that is in no split into one; those that are in one stay there.

    Args:
        manifest: to be split.
        valid: about which part of the groups goes to validation.
        test: about which part goes to testing.
        by: what is never divided between splits. Tracks that name no artist are split by album,
            and those that name no album either, by the folder that they are in. Tracks of equal
            bytes are one.
        seed: another one gives another split.

    Raises:
        ConfigError: impossible parts.
    """
    if by not in get_args(SplitBy):
        raise ConfigError(f"tracks are split by artist, album, folder or track, not by '{by}'")
    if not (0.0 <= valid < 1.0 and 0.0 <= test < 1.0 and valid + test < 1.0):
        raise ConfigError(
            f"{valid} for validation and {test} for testing are impossible; give parts of 1 that "
            "leave something for training"
        )

    def assign(track: Track) -> Track:
        if track.split is not None:
            return track
        place = _place(_group(track, by), seed)
        chosen: Split = "test" if place < test else "valid" if place < test + valid else "train"
        return replace(track, split=chosen)

    return manifest.map(assign)


def _group(track: Track, by: SplitBy) -> str:
    """What is split as one."""
    if by == "track":
        return f"track {track.sha256}"
    if by == "artist" and track.artist:
        return f"artist {track.artist.casefold()}"
    if by in ("artist", "album") and track.album:
        return f"album {track.artist.casefold()} {track.album.casefold()}"
    return f"folder {PurePosixPath(track.path).parent}"


def _place(group: str, seed: int) -> float:
    """From 0 to 1, evenly."""
    digest = hashlib.sha256(f"{seed} {group}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
