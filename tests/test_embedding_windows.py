import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

from musicfm.embedding.windows import (
    Cutter,
    Stitcher,
    Window,
    Windowing,
)
from musicfm.errors import ConfigError
from musicfm.model.config import preset

SMALL = Windowing(window=10, overlap=3, frame=4)
LENGTHS = [1, 39, 40, 41, 44, 45, 67, 68, 69, 72, 100, 401]


def noise(num_samples: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(num_samples).standard_normal(num_samples).astype(np.float32)


def cut(samples: npt.NDArray[np.float32], block: int, windowing: Windowing = SMALL) -> list[Window]:
    cutter = Cutter(windowing)
    windows: list[Window] = []
    for start in range(0, len(samples), block):
        windows += cutter.push(samples[start : start + block])
    return [*windows, cutter.finish()]


def test_windows_of_the_published_model_are_30_s_and_overlap_by_5() -> None:
    assert Windowing.of(preset("fm7")) == Windowing(window=750, overlap=125, frame=960)
    assert Windowing.of(preset("fm4")) == Windowing(window=375, overlap=62, frame=320)
    assert Windowing.of(preset("fm7"), overlap_seconds=10.0).overlap == 250


@pytest.mark.parametrize("seconds", [0.01, math.nan, math.inf])
def test_an_impossible_context_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"is impossible; give a frame's 0\.04 s or more"):
        Windowing.of(preset("fm7"), context_seconds=seconds)


@pytest.mark.parametrize("seconds", [-1.0, 15.1, float("nan"), float("inf")])
def test_an_impossible_overlap_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match="choose between 0 and 15"):
        Windowing.of(preset("fm7"), overlap_seconds=seconds)


@pytest.mark.parametrize("length", LENGTHS)
def test_windows_cover_the_recording_and_all_but_a_lone_one_are_full(length: int) -> None:
    starts = SMALL.starts(length)
    size = SMALL.window * SMALL.frame
    assert starts[0] == 0
    assert length - size <= starts[-1] * SMALL.frame  # the last one reaches the end
    assert all(0 < later - earlier <= SMALL.hop for earlier, later in pairwise(starts))
    if length > size:  # ... and is full, to less than a frame
        assert length - starts[-1] * SMALL.frame > size - SMALL.frame


@pytest.mark.parametrize("block", [1, 7, 40, 41, 1000])
@pytest.mark.parametrize("length", LENGTHS)
def test_cutting_follows_the_definition_whatever_the_blocks(length: int, block: int) -> None:
    samples = noise(length)
    windows = cut(samples, block)
    assert [window.start for window in windows] == SMALL.starts(length)
    assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
    for window in windows:
        start = window.start * SMALL.frame
        stop = length if window.last else start + SMALL.window * SMALL.frame
        np.testing.assert_array_equal(window.samples, samples[start:stop])


def test_cutting_holds_no_more_than_two_windows() -> None:
    cutter = Cutter(SMALL)
    for _ in range(1000):
        list(cutter.push(noise(10)))
        assert sum(len(block) for block in cutter._blocks) <= 2 * SMALL.window * SMALL.frame


@pytest.mark.parametrize("length", LENGTHS)
def test_stitching_frames_that_agree_gives_them_back(length: int) -> None:
    frames = torch.randn(2, -(-length // SMALL.frame), 5)
    stitcher, parts = Stitcher(SMALL.overlap), []
    starts = SMALL.starts(length)
    for start in starts:
        window = frames[:, start : start + SMALL.window]
        parts.append(stitcher.push(start, window, last=start == starts[-1]))
    torch.testing.assert_close(torch.cat(parts, dim=1), frames)


def test_one_window_is_untouched_to_the_bit() -> None:
    frames = torch.randn(1, 7, 3)
    assert torch.equal(Stitcher(SMALL.overlap).push(0, frames, last=True), frames)


def test_the_cross_fade_is_linear() -> None:
    stitcher = Stitcher(overlap=3)
    stitcher.push(0, torch.zeros(1, 10, 1), last=False)
    faded = stitcher.push(7, torch.ones(1, 10, 1), last=True)[0, :, 0]
    # Frames 0 to 6 were final when the second window came; 7 to 9 are faded, 10 to 16 are its own.
    torch.testing.assert_close(faded[7:10], torch.tensor([0.25, 0.5, 0.75]))
    assert torch.equal(faded[:7], torch.zeros(7))
    assert torch.equal(faded[10:], torch.ones(7))
