"""Which songs are for training and which for testing, and what material is kept for the latter.

A song's seed says what it is for. Three ranges of seeds are reserved for test songs; ``pretrain``
and the probes refuse them. Held-out songs are also made of other material than all others: other
presets of each family of instruments (see ``instruments``), and chord progressions, forms and tempi
that no other song has. Progressions and forms are split by a hash of the whole sequence, so that
no list has to be kept, and no sequence can be in both.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

from musicfm.errors import ConfigError

SongSplit = Literal["train", "test", "heldout", "degraded"]
"""train: for training and validation. test: other songs of the same kind. heldout: of reserved
material. degraded: as test, in bad recordings."""

TEST_SEEDS = range(1_100_000_000, 1_400_000_000)
"""Reserved for testing, all three kinds."""

SEEDS: dict[SongSplit, range] = {
    "train": range(TEST_SEEDS.start),
    "test": range(1_100_000_000, 1_200_000_000),
    "heldout": range(1_200_000_000, 1_300_000_000),
    "degraded": range(1_300_000_000, 1_400_000_000),
}

_ONE_IN = 4  # of all progressions, forms and tempi is reserved
_TEMPO_BAND = 6.0  # beats per minute


def split_of(seed: int) -> SongSplit:
    """What a song is for. Raises ConfigError if the seed is not from 0 to 1,399,999,999."""
    for split, seeds in SEEDS.items():
        if seed in seeds:
            return split
    raise ConfigError(f"seed {seed} is not from 0 to {TEST_SEEDS.stop - 1}; choose one that is")


def is_reserved(kind: str, sequence: Sequence[str]) -> bool:
    """Whether a progression or form is reserved for held-out songs."""
    digest = hashlib.sha256(" ".join([kind, *sequence]).encode()).digest()
    return digest[0] % _ONE_IN == 0


def is_reserved_tempo(beats_per_minute: float) -> bool:
    """Whether a tempo is reserved: bands of 6 BPM in every 24, such as 90 to 96."""
    return int(beats_per_minute / _TEMPO_BAND) % _ONE_IN == _ONE_IN - 1
