"""Peaks over time."""

import numpy as np
from scipy.ndimage import maximum_filter1d

from musicfm.tasks.base import Array


def local_maxima(values: Array, times: Array, reach_seconds: float, threshold: float) -> Array:
    """Times of the local maxima, finer than the grid: see :func:`peak_time`.

    Args:
        values: (time,).
        times: (time,) in seconds, evenly spaced.
        reach_seconds: a maximum is the highest so far to either side.
        threshold: what it has to exceed.

    Returns:
        (peaks,) in seconds.
    """
    if len(times) < 2:
        return times[values > threshold]
    reach = int(reach_seconds / (times[1] - times[0]) + 1e-6)
    highest = maximum_filter1d(values, 2 * reach + 1, mode="nearest")
    index = np.flatnonzero((values == highest) & (values > threshold))
    if not len(index):
        return np.empty(0)
    # Equal values within reach of one another are one peak.
    groups = np.split(index, np.flatnonzero(np.diff(index) > max(1, reach)) + 1)
    return np.array([peak_time(values, times, int(group[len(group) // 2])) for group in groups])


def peak_time(values: Array, times: Array, place: int) -> float:
    """Where a peak is highest, in seconds: the vertex of the parabola through it and its sides.

    Of a plateau, as repeated frames make it, the middle counts, and so it does of plateaus beside
    it. Where one side is no lower, or there is none, it is the middle of the peak.

    Args:
        values: (time,); of activations, their log-odds: those have the rounder peaks.
        times: (time,) in seconds.
        place: of the peak's highest output, or of any of these.
    """
    first, last = _plateau(values, place, len(values))
    middle = float(times[first] + times[last]) / 2
    if first == 0 or last == len(values) - 1:
        return middle
    sides = first - 1, last + 1
    y = values[list(sides)] - values[place]
    if (y >= 0.0).any():
        return middle
    # Repeated as often as the peak, not more: beyond a lonely pulse all is equal.
    around = [_plateau(values, side, last - first) for side in sides]
    x = np.array([times[list(pair)].mean() for pair in around]) - middle
    curvature = (y[1] / x[1] - y[0] / x[0]) / (x[1] - x[0])
    slope = y[1] / x[1] - curvature * x[1]
    return middle - float(slope / (2 * curvature))


def _plateau(values: Array, place: int, most: int) -> tuple[int, int]:
    """The first and the last output of equals around one, none further away than so many."""
    first = last = place
    while first > max(0, place - most) and values[first - 1] == values[place]:
        first -= 1
    while last < min(len(values) - 1, place + most) and values[last + 1] == values[place]:
        last += 1
    return first, last
