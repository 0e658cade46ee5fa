"""Peaks of activations over time."""

import numpy as np
from scipy.ndimage import maximum_filter1d

from musicfm.tasks.base import Array


def local_maxima(activation: Array, times: Array, reach_seconds: float, threshold: float) -> Array:
    """Times of the local maxima.

    Args:
        activation: (time,).
        times: (time,) in seconds, evenly spaced.
        reach_seconds: a maximum is the highest so far to either side.
        threshold: what it has to exceed.

    Returns:
        (peaks,) in seconds. Of a plateau, as repeated frames make it, the middle.
    """
    if len(times) < 2:
        return times[activation > threshold]
    reach = int(reach_seconds / (times[1] - times[0]) + 1e-6)
    highest = maximum_filter1d(activation, 2 * reach + 1, mode="nearest")
    index = np.flatnonzero((activation == highest) & (activation > threshold))
    if not len(index):
        return np.empty(0)
    # Equal values within reach of one another are one peak.
    groups = np.split(index, np.flatnonzero(np.diff(index) > max(1, reach)) + 1)
    return np.array([times[group].mean() for group in groups])
