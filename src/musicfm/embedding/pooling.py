"""Adaptive average pooling over time, from the model's frame rate to the one that a task wants.

The same bins as ``torch.nn.functional.adaptive_avg_pool1d``, computed piece by piece, so that a
recording of any length can be pooled from where its frames are stored.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from musicfm.errors import ConfigError

MAX_RATE = 1_000.0
"""Highest rate, in Hz: more than anybody wants, so that no slip of the finger fills a disk."""

FRAMES_AT_ONCE = 1_024
"""Frames that are read and summed together, about."""


def check_rate(rate: float) -> None:
    """Raises ConfigError for a rate that nothing can be pooled to."""
    if not 0 < rate <= MAX_RATE:
        raise ConfigError(
            f"cannot pool to {rate} Hz; give a rate above zero, of {MAX_RATE:g} at most"
        )


def num_pooled(num_frames: int, frame_rate: float, rate: float) -> int:
    """How many outputs pooling to ``rate`` (Hz) gives: at least one. Raises ConfigError."""
    check_rate(rate)
    return max(1, round(num_frames * rate / frame_rate))


def pooled_times(num_frames: int, frame_rate: float, rate: float) -> npt.NDArray[np.float64]:
    """Centres of the outputs in seconds, given that frame k is centred at ``k / frame_rate``.

    Output i stands for the i-th of equal parts of the recording. At twice the frame rate outputs
    2k and 2k + 1 are both frame k, and lie a quarter of a frame before and after its centre.
    """
    count = num_pooled(num_frames, frame_rate, rate)
    return ((np.arange(count) + 0.5) * num_frames / count - 0.5) / frame_rate


def pool(
    read: Callable[[int, int], Tensor],
    num_frames: int,
    frame_rate: float,
    rate: float,
    outputs: range | None = None,
) -> Iterator[Tensor]:
    """Pools frames in pieces.

    Args:
        read: gives frames [start, stop) as (..., time, dim).
        num_frames: of the whole recording.
        frame_rate: of the frames, in Hz.
        rate: wanted, in Hz. Rates above the frames' repeat them.
        outputs: consecutive ones that are wanted; None: all ``num_pooled`` of the recording.

    Yields:
        (..., time', dim) float32; together the outputs.
    """
    count = num_pooled(num_frames, frame_rate, rate)
    wanted = range(count) if outputs is None else outputs
    size = max(1, FRAMES_AT_ONCE * count // max(num_frames, count))
    for first in wanted[::size]:
        output = torch.arange(first, min(first + size, wanted.stop))
        start = output * num_frames // count
        stop = -((output + 1) * -num_frames // count)
        offset = int(start[0])
        frames = read(offset, int(stop[-1])).double()
        sums = F.pad(frames.cumsum(dim=-2), (0, 0, 1, 0))
        total = sums[..., stop - offset, :] - sums[..., start - offset, :]
        yield (total / (stop - start)[:, None]).float()
