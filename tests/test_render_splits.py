import pytest

from musicfm.errors import ConfigError
from musicfm.render.splits import (
    SEEDS,
    TEST_SEEDS,
    is_reserved,
    is_reserved_tempo,
    split_of,
)


def test_every_seed_has_one_split() -> None:
    ranges = sorted(SEEDS.values(), key=lambda seeds: seeds.start)
    assert ranges[0].start == 0
    assert [seeds.stop for seeds in ranges[:-1]] == [seeds.start for seeds in ranges[1:]]
    for split, seeds in SEEDS.items():
        assert split_of(seeds[0]) == split_of(seeds[-1]) == split
        assert (seeds[0] in TEST_SEEDS) == (seeds[-1] in TEST_SEEDS) == (split != "train")


@pytest.mark.parametrize("seed", [-1, 1_400_000_000])
def test_other_seeds_are_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed {seed} is not from 0 to 1399999999"):
        split_of(seed)


def test_a_quarter_is_reserved() -> None:
    sequences = [("I", str(i), "V") for i in range(4000)]
    share = sum(is_reserved("form", sequence) for sequence in sequences) / 4000
    assert 0.22 < share < 0.28
    assert [is_reserved("form", s) for s in sequences] != [is_reserved("x", s) for s in sequences]


def test_reserved_tempi_are_bands() -> None:
    reserved = [tempo for tempo in range(60, 132) if is_reserved_tempo(tempo + 0.5)]
    assert reserved == [*range(66, 72), *range(90, 96), *range(114, 120)]
