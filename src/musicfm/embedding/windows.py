"""Long recordings: cut into overlapping windows, and stitched together again.

The windows are part of what an embedding of a long recording is, so they are defined by its length
alone: they start at multiples of the hop while a full window fits, and the last one is shifted back
so that it is full too. Where windows overlap, their frames are cross-faded. Neither the blocks in
which samples arrive nor the batches in which windows are computed change anything.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from musicfm.errors import ConfigError
from musicfm.model.config import ModelConfig

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windowing:
    """Lengths in frames; a frame is ``frame`` samples, and all windows start on one."""

    window: int
    overlap: int
    frame: int

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        overlap_seconds: float | None = None,
        context_seconds: float | None = None,
    ) -> "Windowing":
        """Windows of the model's context, unless another is asked for; by default they overlap by
        a sixth of it.

        Raises ConfigError for a context below a frame, and for an overlap that is negative or more
        than half the context.
        """
        if context_seconds is None:
            context_seconds = config.context_samples / config.sample_rate
        return cls.seconds(context_seconds, overlap_seconds, config.sample_rate, config.frame_rate)

    @classmethod
    def seconds(
        cls,
        context_seconds: float,
        overlap_seconds: float | None,
        sample_rate: int,
        frame_rate: float,
    ) -> "Windowing":
        """As :meth:`of`, for any encoder with a whole number of samples to a frame."""
        frame = round(sample_rate / frame_rate)
        is_finite = math.isfinite(context_seconds)
        window = int(context_seconds * sample_rate + 1e-3) // frame if is_finite else 0
        if window < 1:
            raise ConfigError(
                f"a context of {context_seconds:g} s is impossible; give a frame's "
                f"{frame / sample_rate:g} s or more"
            )
        if overlap_seconds is None:
            return cls(window, window // 6, frame)
        overlap = round(overlap_seconds * frame_rate) if math.isfinite(overlap_seconds) else -1
        if not 0 <= overlap <= window // 2:
            raise ConfigError(
                f"overlap_seconds is {overlap_seconds}; choose between 0 and "
                f"{window / frame_rate / 2:g}, half the model's context"
            )
        return cls(window, overlap, frame)

    @property
    def hop(self) -> int:
        """Frames from one window's start to the next one's."""
        return self.window - self.overlap

    def starts(self, num_samples: int) -> list[int]:
        """First frame of each window of a recording."""
        size = self.window * self.frame
        regular = max(0, -(-(num_samples - size) // (self.hop * self.frame)))
        last = max(0, -(-(num_samples - size) // self.frame))
        return [k * self.hop for k in range(regular)] + [last]


@dataclass(frozen=True, eq=False)
class Window:
    """One window of a recording."""

    start: int
    """Number of its first frame in the recording."""
    samples: Samples
    last: bool


class Cutter:
    """Cuts the samples of one recording, which arrive in blocks of any size, into windows."""

    def __init__(self, windowing: Windowing) -> None:
        self._windowing = windowing
        self._blocks: list[Samples] = []
        self._begin = 0  # frame at which the blocks begin: the start of the window cut last
        self._next = 0  # frame at which the next regular window starts
        self.num_samples = 0

    def push(self, samples: Samples) -> Iterator[Window]:
        """Takes the next samples; gives the windows that are surely not the last."""
        w = self._windowing
        self._blocks.append(samples)
        self.num_samples += len(samples)
        while self.num_samples > (self._next + w.window) * w.frame:
            joined = np.concatenate(self._blocks)[(self._next - self._begin) * w.frame :]
            yield Window(self._next, joined[: w.window * w.frame], last=False)
            # These samples stay: the last window may reach back to just after this one's start.
            self._blocks, self._begin = [joined], self._next
            self._next += w.hop

    def finish(self) -> Window:
        """The last window: as much of what is left as makes it full."""
        w = self._windowing
        start = w.starts(self.num_samples)[-1]
        joined = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.float32)
        return Window(start, joined[(start - self._begin) * w.frame :], last=True)


class Stitcher:
    """Cross-fades the frames of one recording's windows, which arrive in order.

    Within the overlap a window's weight rises linearly from its start, and falls towards its end;
    every frame is the weighted mean of the windows that have it. One window alone is untouched.
    """

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap
        self._begin = 0  # frame at which the sums begin
        self._sum: Tensor | None = None  # (layers, time, dim)
        self._weight = torch.zeros(0)  # (time,)

    def push(self, start: int, frames: Tensor, last: bool) -> Tensor:
        """Takes a window's frames and gives those that no later window can change.

        Args:
            start: the window's first frame.
            frames: (layers, time, dim).
            last: whether it is the recording's last window.

        Returns:
            (layers, time', dim), following what was given before.
        """
        if self._sum is None:
            self._sum = frames.new_zeros(frames.shape[0], 0, frames.shape[2])
        done, self._sum = self._take(self._sum, start - self._begin)
        weight = self._weights(frames.shape[1], first=start == 0, last=last)
        missing = len(weight) - len(self._weight)
        self._weight = F.pad(self._weight, (0, missing)) + weight
        self._sum = F.pad(self._sum, (0, 0, 0, missing)) + frames * weight[:, None]
        if not last:
            return done
        rest, self._sum = self._take(self._sum, len(weight))
        return torch.cat((done, rest), dim=1)

    def _weights(self, count: int, first: bool, last: bool) -> Tensor:
        ramp = torch.arange(1, count + 1) / (self._overlap + 1)
        rise = torch.ones(count) if first else ramp.clamp(max=1.0)
        fall = torch.ones(count) if last else ramp.flip(0).clamp(max=1.0)
        return torch.minimum(rise, fall)

    def _take(self, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Splits the means of the first ``count`` frames from the sums of the rest."""
        means = total[:, :count] / self._weight[:count, None]
        self._weight = self._weight[count:]
        self._begin += count
        return means, total[:, count:]
