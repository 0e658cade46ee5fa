"""Whether two recordings are one: their loudness in some bands, over time, laid upon each other.

The same recording in another encoding, at another level or cut out of a longer one rises and falls
alike, to within hundredths of a second. Another performance does not, nor the same notes played by
other instruments, though both may be similar in all else.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musicfm.audio import reading
from musicfm.remote import Location

SAMPLE_RATE = 8_000
HOP = 400
RATE = SAMPLE_RATE / HOP
"""The rate of fingerprints in Hz."""
_FFT = 2_048  # several hops, so that it makes no difference where between two a sound begins
_EDGES = np.geomspace(100.0, 3_500.0, 17)  # Hz; what codecs cut off lies above
_FLOOR = 1e-5  # of the loudest: what is below is noise of the coding

Fingerprint = npt.NDArray[np.float32]
"""(time, bands) at :data:`RATE`, in decibels."""


@dataclass(frozen=True)
class Alignment:
    """How two recordings fit best."""

    agreement: float
    """The correlation of their fingerprints where they overlap: 1 if they are the same."""
    offset: float
    """The time in the first, in seconds, at which the second begins; may be negative."""
    overlap: float
    """How many seconds they have in common."""


def fingerprint(recording: Location) -> Fingerprint:
    """Of a recording. Raises AudioError if it cannot be read."""
    path = recording if isinstance(recording, str) else Path(recording)
    samples = reading.load(path, SAMPLE_RATE, on_damage="warn")
    samples = np.pad(samples, (0, max(0, _FFT - len(samples))))
    window = np.hanning(_FFT).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT)[::HOP]
    places = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    bounds = np.searchsorted(places, _EDGES)
    power = np.empty((len(frames), len(_EDGES) - 1), np.float32)
    for first in range(0, len(frames), 4_096):  # an hour has 72,000
        spectrum = np.abs(np.fft.rfft(frames[first : first + 4_096] * window, axis=1)) ** 2
        power[first : first + 4_096] = np.add.reduceat(spectrum, bounds[:-1], axis=1)
    floor = max(float(power.max()) * _FLOOR, float(np.finfo(np.float32).tiny))
    return 10 * np.log10(np.maximum(power, floor))


def align(one: Fingerprint, other: Fingerprint, share: float = 0.8) -> Alignment:
    """The place where the second fits the first best.

    Args:
        one: (time, bands).
        other: (time', bands).
        share: how much of the sound of the shorter one has to lie upon that of the other.
    """
    size = 1 << int(np.ceil(np.log2(len(one) + len(other))))
    lags = np.arange(1 - len(other), len(one))

    def over(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sums of products of all bands, at each lag."""
        spectra = np.fft.rfft(a, size, axis=0) * np.conj(np.fft.rfft(b, size, axis=0))
        found: npt.NDArray[np.float64] = np.fft.irfft(spectra, size, axis=0)[lags].T
        return found

    # Silence is no music, and fits all silence.
    here, there = (np.any(each > each.min(), axis=1, keepdims=True) for each in (one, other))
    x, y = ((each - each.mean(axis=0)) * sounds for each, sounds in ((one, here), (other, there)))
    count = np.maximum(over(here, there), 0.5)
    # Of each band apart, with the means of what overlaps.
    sum_x, sum_y = over(x, there), over(here, y)
    covariance = (over(x, y) - sum_x * sum_y / count).sum(axis=0)
    variance_x = np.maximum(over(x**2, there) - sum_x**2 / count, 0.0).sum(axis=0)
    variance_y = np.maximum(over(here, y**2) - sum_y**2 / count, 0.0).sum(axis=0)
    correlation = covariance / np.maximum(np.sqrt(variance_x * variance_y), 1e-6)
    correlation[count[0] < share * min(here.sum(), there.sum())] = 0.0
    best = int(np.argmax(correlation))
    return Alignment(
        float(correlation[best]), float(lags[best] / RATE), float(count[0, best] / RATE)
    )
