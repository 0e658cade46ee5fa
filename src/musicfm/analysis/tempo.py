"""The tempo of a recording, from the times of all its beats.

A steady tempo is the slope of a line through the numbered beats, which is exact where the median
distance between beats is as coarse as the grid that they were found on. Missing, doubled and late
beats do not move it: beats are numbered by how much time has passed, the line is broken where a
distance is not a multiple of a beat, and what lies far from it does not count.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import median_filter

from musicfm.datasets.annotations import Beats
from musicfm.tasks.base import Array

CHANGE = 0.04
"""The fraction by which another tempo differs at least, as in the scores of tempo estimates."""
CHANGE_BEATS = 8
"""The number of beats for which another tempo holds at least."""
STEADY = 0.1
"""The fraction of the tempo's beat within which the length of a steady beat is."""
_ON_GRID = 0.25
"""The distance, in beats, that a beat may have from a multiple of a beat."""


@dataclass(frozen=True)
class Tempo:
    """A tempo that holds for a while."""

    start: float
    """In seconds; likewise the end."""
    end: float
    bpm: float
    """Beats per minute."""
    steadiness: float
    """The fraction of the distances between beats that are within a tenth of the tempo's."""


def tempi(beats: Beats, duration: float) -> tuple[Tempo, ...]:
    """The tempi of a recording, in order, from its beginning to its end.

    There are several where the tempo changes by 4 % or more for eight beats or more; slower drift
    is averaged. None without two beats.

    Args:
        beats: in order.
        duration: of the recording, in seconds.
    """
    if len(beats.times) < 2:
        return ()
    used, numbers = _numbered(beats.times)
    if len(used) < 2:
        return ()
    times = beats.times[used]
    bounds = [0, *_changes(times, numbers), len(times) - 1]
    bounds = _merged(bounds, lambda first, last: _period(times[first:last], numbers[first:last]))
    found = []
    for first, last in itertools.pairwise(bounds):
        inside = slice(first, last + 1)
        period = _period(times[inside], numbers[inside])
        distances = np.diff(beats.times[used[first] : used[last] + 1])
        steady = np.abs(distances / period - 1.0) <= STEADY
        found.append(
            Tempo(
                float(times[first]) if first else 0.0,
                float(times[last]) if last < len(times) - 1 else duration,
                60.0 / period,
                float(steady.mean()),
            )
        )
    return tuple(found)


def main_tempo(found: tuple[Tempo, ...]) -> tuple[float, float] | None:
    """Beats per minute of the tempo that holds longest, and the steadiness of all; None of none."""
    if not found:
        return None
    seconds = np.array([tempo.end - tempo.start for tempo in found])
    steadiness = np.average([tempo.steadiness for tempo in found], weights=seconds)
    return found[int(seconds.argmax())].bpm, float(steadiness)


def _numbered(times: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which beats lie on the grid of beats, and their numbers on it.

    A beat in the middle of another is left out; where beats are missing, numbers are.
    """
    distances = np.diff(times)
    usual = _usual(distances)
    used, numbers, passed = [0], [0], 0.0
    for index, (distance, beat) in enumerate(zip(distances, usual, strict=True)):
        passed += distance / beat
        # Time that is not a multiple of a beat counts as the nearest, and at least as one.
        if passed >= 1.0 - _ON_GRID:
            used.append(index + 1)
            numbers.append(numbers[-1] + max(1, round(passed)))
            passed = 0.0
    return np.array(used), np.array(numbers)


def _usual(distances: Array) -> Array:
    """The commonest distance around each, the nearer and the longer the more.

    The median of distances, of which many are halves or doubles, would often be one of these.
    """
    reach = 3 * CHANGE_BEATS
    near = reach + 1.0 - np.abs(np.arange(-reach, reach + 1))
    around = sliding_window_view(np.pad(distances, reach), 2 * reach + 1)
    found = np.empty(len(distances))
    for index, row in enumerate(around):
        alike = np.abs(row[:, None] - row) <= STEADY * row[:, None]
        found[index] = row[(alike @ (near * np.sqrt(row))).argmax()]
    return found


def _changes(times: Array, numbers: npt.NDArray[np.int64]) -> list[int]:
    """Where a tempo ends and another begins: the places of the first beats that are of it.

    Steps are fitted to the logarithms of the beats' lengths, each at the price of the squared error
    that the smallest change would cause over twice its shortest time.
    """
    if len(times) <= 2 * CHANGE_BEATS:
        return []
    # Over four beats, lest the grid's coarseness looks like a change where beats are short.
    last = np.arange(len(times) - 1)
    first, last = np.maximum(last - 1, 0), np.minimum(last + 3, len(times) - 1)
    lengths = (times[last] - times[first]) / (numbers[last] - numbers[first])
    levels = np.log(median_filter(lengths, CHANGE_BEATS + 1, mode="nearest"))
    price = CHANGE_BEATS * CHANGE**2 / 2
    sums = np.concatenate([[0.0], levels.cumsum()])
    squares = np.concatenate([[0.0], (levels**2).cumsum()])
    best, begins = np.zeros(len(sums)), np.zeros(len(sums), dtype=np.int64)
    for end in range(1, len(sums)):
        starts = np.arange(end)
        lengths_of = end - starts
        mean = (sums[end] - sums[:end]) / lengths_of
        cost = best[:end] + price + squares[end] - squares[:end] - lengths_of * mean**2
        begins[end] = cost.argmin()
        best[end] = cost[begins[end]]
    bounds = [len(levels)]
    while bounds[-1]:
        bounds.append(int(begins[bounds[-1]]))
    bounds.reverse()
    return bounds[1:-1]


def _merged(bounds: list[int], period: Callable[[int, int], float]) -> list[int]:
    """Without bounds between tempi that are nearly the same, or hold too briefly.

    Args:
        bounds: of the tempi, as numbers of beats.
        period: seconds of a beat from one bound to another.
    """
    bounds = list(bounds)
    while len(bounds) > 2:
        spans = list(itertools.pairwise(bounds))
        steps = np.abs(np.diff(np.log([period(first, last + 1) for first, last in spans])))
        brief = [i for i, (first, last) in enumerate(spans) if last - first < CHANGE_BEATS]
        sides = {i for i in (brief[0] - 1, brief[0]) if 0 <= i < len(steps)} if brief else set()
        smallest = min(sides or range(len(steps)), key=lambda i: float(steps[i]))
        if not sides and steps[smallest] >= np.log1p(CHANGE):
            break
        del bounds[smallest + 1]
    return bounds


def _period(times: Array, numbers: npt.NDArray[np.int64]) -> float:
    """Seconds of a beat: the slope that pieces of the line have in common."""
    lengths = np.diff(times) / np.diff(numbers)
    period = float(np.median(lengths))
    # A new piece where the time that has passed is not a whole number of beats.
    off = np.abs(np.diff(times) / period - np.diff(numbers))
    piece = np.concatenate([[0], (off > _ON_GRID).cumsum()])
    keep = np.ones(len(times), dtype=bool)
    for _ in range(3):
        count = np.bincount(piece, keep)
        offsets = np.maximum(count, 1.0)
        x = numbers - (np.bincount(piece, keep * numbers) / offsets)[piece]
        y = times - (np.bincount(piece, keep * times) / offsets)[piece]
        if not (keep * x**2).any():
            break
        period = float((keep * x * y).sum() / (keep * x**2).sum())
        error = np.abs(y - period * x)
        usual = max(float(np.median(error[keep])), 1e-3)
        keep = error <= 4.0 * usual
    return period
