import numpy as np
import pytest
import torch
from torch.nn import functional as F

from musicfm.embedding import pooling
from musicfm.embedding.pooling import num_pooled, pool, pooled_times
from musicfm.errors import ConfigError


def pooled(frames: torch.Tensor, rate: float) -> torch.Tensor:
    return torch.cat(list(pool(lambda a, b: frames[..., a:b, :], frames.shape[-2], 25.0, rate)), -2)


@pytest.mark.parametrize("rate", [0.5, 7.3, 8.0, 16.0, 25.0, 50.0, 90.0])
@pytest.mark.parametrize("num_frames", [1, 2, 150, 300, 601])
def test_pooling_is_adaptive_average_pooling_over_time(
    num_frames: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "FRAMES_AT_ONCE", 70)  # pieces must not show
    frames = torch.randn(2, num_frames, 3)
    expected = F.adaptive_avg_pool1d(frames.mT, num_pooled(num_frames, 25.0, rate)).mT
    torch.testing.assert_close(pooled(frames, rate), expected)


@pytest.mark.parametrize("rate", [0.5, 8.0, 50.0])
def test_a_part_of_the_outputs_is_what_all_of_them_have_there(rate: float) -> None:
    frames = torch.randn(2, 601, 3)
    whole = pooled(frames, rate)
    part = range(3, whole.shape[1] - 2)
    found = pool(lambda a, b: frames[..., a:b, :], 601, 25.0, rate, part)
    torch.testing.assert_close(torch.cat(list(found), dim=1), whole[:, part.start : part.stop])


@pytest.mark.parametrize(
    ("seconds", "rate", "outputs"), [(6, 50, 300), (12, 16, 192), (24, 8, 192), (12, 0.5, 6)]
)
def test_the_protocols_of_the_paper_get_their_number_of_outputs(
    seconds: int, rate: float, outputs: int
) -> None:
    assert num_pooled(25 * seconds, 25.0, rate) == outputs


def test_times_are_the_mean_times_of_the_frames_that_were_pooled() -> None:
    frame_times = torch.arange(600, dtype=torch.float64)[:, None] / 25
    np.testing.assert_allclose(pooled(frame_times, 5.0)[:, 0], pooled_times(600, 25.0, 5.0), 1e-6)


def test_plateaus_of_a_higher_rate_lie_around_their_frame() -> None:
    times = pooled_times(4, 25.0, 50.0)
    np.testing.assert_allclose(times.reshape(4, 2).mean(axis=1), np.arange(4) / 25, atol=1e-12)
    np.testing.assert_allclose(np.diff(times), 0.02)


@pytest.mark.parametrize("rate", [0.5, 8.0, 50.0])
def test_few_frames_are_read_at_once(rate: float) -> None:
    longest = 0

    def read(start: int, stop: int) -> torch.Tensor:
        nonlocal longest
        longest = max(longest, stop - start)
        return torch.zeros(stop - start, 1)

    for piece in pool(read, 100_000, 25.0, rate):
        assert len(piece) <= pooling.FRAMES_AT_ONCE
    assert longest <= pooling.FRAMES_AT_ONCE + 1


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e12, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="give a rate above zero"):
        num_pooled(10, 25.0, rate)
