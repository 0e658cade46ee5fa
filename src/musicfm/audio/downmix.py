"""Many channels to one: their mean, unless that would lose what is in them.

- Channels that are empty from the first sample to the last do not count: of six channels with sound
  in one, that one is taken, not a sixth of it. To nano (layer 4, eight pieces) it is then the mono
  original; the mean of all six has a cosine of 0.78 to it, FFmpeg's downmix one of 0.76 to 0.88.
  Where all six have sound, the mean and FFmpeg's downmix are alike (0.95, 0.97).
- Where channels cancel each other, as those of a stereo recording with one of them inverted do, the
  first is taken instead of the mean. That is decided second by second, so that it depends neither
  on where decoding starts nor on how much is decoded at once.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from musicfm.audio.codecs import VALUES_AT_ONCE, Array, AudioInfo
from musicfm.audio.sources import mono

_Samples = npt.NDArray[np.float32]

_EMPTY = 1e-3  # peak below which a channel has no sound: dither, and what codecs make of silence
_CANCELLED = 0.01  # part of the channels' power that is left in their mean; of music, 0.2 at least
_SILENT = 1e-8  # power
_FADE_SECONDS = 0.02  # from the mean to a channel and back


def sounding(chunks: Iterator[Array], num_channels: int) -> list[int]:
    """Which channels have sound.

    Args:
        chunks: (channels, samples); taken until each channel has had sound.
        num_channels: chunks of another number are passed over.
    """
    loud = np.zeros(num_channels, bool)
    for chunk in chunks:
        if len(chunk) == num_channels and chunk.size:
            peaks = np.maximum(chunk.max(axis=1), -chunk.min(axis=1))
            loud |= ~(peaks <= _EMPTY)  # NaN is reported later, so it counts
        if loud.all():
            break
    return [int(channel) for channel in np.flatnonzero(loud)]


class Downmix:
    """Makes a recording mono; ``cancelled_seconds`` says for how long its channels cancelled."""

    def __init__(self, info: AudioInfo, channels: list[int]) -> None:
        """``channels`` are those that have sound anywhere in the recording."""
        self.cancelled_seconds = 0.0
        self._info, self._channels = info, channels or list(range(info.channels))

    def __call__(self, chunks: Iterator[Array], position: int) -> Iterator[_Samples]:
        """Mono blocks of at most a second, of (channels, samples) from sample ``position`` on."""
        rate, num_channels = self._info.sample_rate, self._info.channels
        was_cancelled: bool | None = None
        for parts in _seconds(
            chunks, position, min(rate, VALUES_AT_ONCE // 8 // num_channels or 1)
        ):
            if len(self._channels) < num_channels:
                parts = [p[self._channels] if len(p) == num_channels else p for p in parts]
            mean = np.concatenate([mono(part) for part in parts])
            is_cancelled = _are_cancelled(parts, mean)
            if is_cancelled or was_cancelled:
                first = np.concatenate([part[0] for part in parts]).astype(np.float32, copy=False)
                fade_in = np.minimum(np.arange(len(mean)) / (_FADE_SECONDS * rate), 1)
                share = (fade_in if is_cancelled else 1 - fade_in).astype(np.float32)
                is_change = was_cancelled not in (None, is_cancelled)
                mean = mean + share * (first - mean) if is_change else first
            self.cancelled_seconds += is_cancelled * len(mean) / rate
            was_cancelled = is_cancelled
            yield mean


def _seconds(chunks: Iterator[Array], position: int, length: int) -> Iterator[list[Array]]:
    """Chunks, cut at multiples of ``length``, and gathered between them."""
    parts: list[Array] = []
    left = length - position % length
    for chunk in chunks:
        while chunk.shape[1]:
            parts.append(chunk[:, :left])
            chunk = chunk[:, left:]
            left -= parts[-1].shape[1]
            if left == 0:
                yield parts
                parts, left = [], length
    if parts:
        yield parts


def _are_cancelled(parts: list[Array], mean: _Samples) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):  # such samples are reported later
        power = sum(float(np.square(part, dtype=np.float32).sum()) / len(part) for part in parts)
        power_of_mean = float(np.square(mean).sum())
    return power > _SILENT * len(mean) and power_of_mean < _CANCELLED * power
