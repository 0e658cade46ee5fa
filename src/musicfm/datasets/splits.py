"""Splitting a collection by artist, album, folder or track: at random, or into folds.

The split of a group follows from a hash of its name alone, so that no list is kept, and adding
recordings never moves others. Only where that would leave a part empty does the next group join it.
"""

import math
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal, get_args

from musicfm.datasets.tracks import Manifest, Split, Track
from musicfm.errors import ConfigError
from musicfm.seeds import derive_seed

SplitBy = Literal["artist", "album", "folder", "track"]


@dataclass(frozen=True)
class Splitting:
    """How to split a collection.

    Raises ConfigError for impossible parts.
    """

    valid: float = 0.05
    """Fraction of the groups that goes to validation, about."""
    test: float = 0.0
    """Fraction that goes to testing, about."""
    by: SplitBy = "artist"
    """What is never divided between splits. Tracks that name no artist are split by album, those
    that name no album either, by the folder that they are in, and those that are in none below the
    root, one by one. Tracks of equal bytes are one. Artists and albums are the same whatever the
    case of their letters, and all names in either form of Unicode (NFC, NFD).
    """
    seed: int = 0

    def __post_init__(self) -> None:
        _check_by(self.by)
        if not (self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1):
            raise ConfigError(
                f"{self.valid} for validation and {self.test} for testing are impossible; give "
                "fractions that leave something for training"
            )


@dataclass(frozen=True)
class Folding:
    """Which fold of a collection is for testing.

    Raises ConfigError for impossible folds.
    """

    fold: int = 0
    """The fold for testing, from 0; the next one is for validation, the others for training."""
    num_folds: int = 4
    by: SplitBy = "artist"
    """As in :class:`Splitting`."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_by(self.by)
        if self.num_folds < 3 or not 0 <= self.fold < self.num_folds:
            raise ConfigError(
                f"fold {self.fold} of {self.num_folds} is impossible; there are at least 3 folds, "
                "and the first is 0"
            )


def split(manifest: Manifest, how: Splitting) -> Manifest:
    """Puts each track that is in no split into one; those that are in one stay there.

    A part that is asked for gets at least one group, if there are as many groups as such parts.
    """
    given = {track.split for track in manifest}
    places = {_place(_group(track, how.by), how.seed) for track in manifest if track.split is None}
    test_end, valid_end = _ends(sorted(places), how, given)

    def assign(track: Track) -> Track:
        if track.split is not None:
            return track
        place = _place(_group(track, how.by), how.seed)
        chosen: Split = "test" if place < test_end else "valid" if place < valid_end else "train"
        return replace(track, split=chosen)

    return manifest.map(assign)


def fold(manifest: Manifest, how: Folding) -> Manifest:
    """Puts each track that is in no split into one; those that are in one stay there.

    A group is in the same fold whichever fold is for testing, so that each is tested on once.
    """

    def assign(track: Track) -> Track:
        if track.split is not None:
            return track
        place = int(_place(_group(track, how.by), how.seed) * how.num_folds)
        after = (place - how.fold) % how.num_folds
        return replace(track, split="test" if after == 0 else "valid" if after == 1 else "train")

    return manifest.map(assign)


def _check_by(by: str) -> None:
    if by not in get_args(SplitBy):
        raise ConfigError(f"tracks are split by artist, album, folder or track, not by '{by}'")


def _group(track: Track, by: SplitBy) -> str:
    """What is split as one."""
    artist, album = _composed(track.artist).casefold(), _composed(track.album).casefold()
    folder = PurePosixPath(_composed(track.path)).parent
    if by == "artist" and artist:
        return f"artist {artist}"
    if by in ("artist", "album") and album:
        return f"album {artist} {album}"
    if by == "folder" or (by != "track" and folder.name):
        return f"folder {folder}"
    return f"track {track.sha256}"


def _composed(name: str) -> str:
    """With é as one character, as most have it; files and tags that come from Macs have two."""
    return unicodedata.normalize("NFC", name)


def _ends(places: list[float], how: Splitting, given: set[Split | None]) -> tuple[float, float]:
    """Where testing and validation end: as asked for, or so much further that no part is empty."""
    test, valid, train = (
        part > 0 and name not in given
        for name, part in (("test", how.test), ("valid", how.valid), ("train", 1.0))
    )
    ends = how.test, how.test + how.valid
    if len(places) < test + valid + train:
        return ends
    num_test, until_valid = (bisect_left(places, end) for end in ends)
    num_test = min(max(num_test, test), len(places) - valid - train)
    until_valid = min(max(until_valid, num_test + valid), len(places) - train)
    bounds = [*places, math.inf]
    return bounds[num_test], bounds[until_valid]


def _place(group: str, seed: int) -> float:
    """From 0 to 1, evenly."""
    return derive_seed(seed, "split", group) / 2**63
