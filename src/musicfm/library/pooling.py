"""Frames over time to one vector for a recording, and one for each of its segments."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musicfm.library.matrices import Matrix

SEGMENT_SECONDS = 10.0
"""The length of a segment: segment k of a track begins at ``k * SEGMENT_SECONDS``. What is left at
the end, if it is less than half of that, belongs to the last one."""


@dataclass(frozen=True)
class Vectors:
    """Means and then standard deviations over time of the frames of a recording."""

    track: Matrix
    """(2 * dim,), over the whole recording."""
    segments: Matrix
    """(segments, 2 * dim), over segments of :data:`SEGMENT_SECONDS`."""


def pooled(frames: npt.NDArray[np.float16], rate: float) -> Vectors:
    """Means and standard deviations over time, of a recording and of its segments.

    Args:
        frames: (time, dim), at least one; may be mapped into memory, of which little is read at
            once.
        rate: frames per second.
    """
    size = round(SEGMENT_SECONDS * rate)
    starts = [start for start in range(0, len(frames), size) if 2 * (len(frames) - start) >= size]
    bounds = [*(starts or [0]), len(frames)]
    parts = (frames[start:stop].astype(np.float64) for start, stop in itertools.pairwise(bounds))
    moments = np.stack([np.stack([part.mean(axis=0), (part**2).mean(axis=0)]) for part in parts])
    weights = np.diff(bounds)
    return Vectors(_vector(np.average(moments, axis=0, weights=weights)), _vector(moments))


def merged(segments: Matrix, weights: Sequence[float]) -> Matrix:
    """(2 * dim,), the vector of some segments together, from (segments, 2 * dim) of each.

    Args:
        segments: vectors as :func:`pooled` gives them.
        weights: how much of each counts.
    """
    mean, deviation = np.split(segments.astype(np.float64), 2, axis=1)
    moments = np.stack([mean, deviation**2 + mean**2], axis=1)
    return _vector(np.average(moments, axis=0, weights=weights))


def _vector(moments: npt.NDArray[np.float64]) -> Matrix:
    """(..., 2 * dim) means and standard deviations, from (..., 2, dim) means and mean squares."""
    mean, square = moments[..., 0, :], moments[..., 1, :]
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.concatenate([mean, deviation], axis=-1).astype(np.float32)
