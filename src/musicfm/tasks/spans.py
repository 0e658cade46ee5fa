"""Labelled spans to classes over time, and back."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from musicfm.datasets.annotations import Spans
from musicfm.tasks.base import Array, Targets

UNKNOWN = -1
"""The class of what is ignored, and of times without a label."""


def classes_at(
    spans: Spans | None, times: Array, class_of: Callable[[str], int]
) -> npt.NDArray[np.int64]:
    """The class at each time."""
    if spans is None:
        return np.full(len(times), UNKNOWN)
    labels = spans.at(times)
    return np.array([UNKNOWN if label is None else class_of(label) for label in labels])


def class_targets(classes: npt.NDArray[np.int64]) -> Targets:
    """(outputs,) classes as targets."""
    known = classes != UNKNOWN
    return Targets(np.where(known, classes, 0).astype(float), known)


def viterbi(scores: Array, change_cost: float) -> npt.NDArray[np.int64]:
    """The best path through (time, classes) log-probabilities when every change costs the same.

    With one cost for all changes the best predecessor is either the class itself or the best of
    all, so that a step takes as long as there are classes.
    """
    if not change_cost or not len(scores):
        return scores.argmax(axis=1)
    stays = np.empty(scores.shape, dtype=bool)
    best = np.empty(len(scores), dtype=np.int64)
    total = scores[0].copy()
    for time in range(1, len(scores)):
        best[time] = total.argmax()
        change = total[best[time]] - change_cost
        stays[time] = total >= change
        total = np.where(stays[time], total, change) + scores[time]
    path = np.empty(len(scores), dtype=np.int64)
    path[-1] = total.argmax()
    for time in range(len(scores) - 1, 0, -1):
        path[time - 1] = path[time] if stays[time, path[time]] else best[time]
    return path


def runs(
    path: npt.NDArray[np.integer], probabilities: Array, names: Sequence[str], edges: Array
) -> Spans:
    """Spans of equal classes; the confidence of one is the mean probability of its class.

    Args:
        path: (outputs,) classes.
        probabilities: (outputs, classes).
        names: of the classes.
        edges: (outputs + 1,) seconds where the outputs begin and end.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(path)) + 1])
    stops = np.append(starts[1:], len(path))
    intervals = np.stack([edges[starts], edges[stops]], axis=1)
    # An output whose whole time lies beyond the end of the recording has none.
    some = intervals[:, 1] > intervals[:, 0]
    sure = np.add.reduceat(probabilities[np.arange(len(path)), path], starts) / (stops - starts)
    labels = tuple(names[path[start]] for start in starts[some])
    return Spans(intervals[some], labels, sure[some])


def commonest(spans: Iterable[Spans | None], class_of: Callable[[str], int]) -> int:
    """The class that lasts longest in all of some spans, the lowest of equals."""
    seconds: dict[int, float] = {}
    for some in spans:
        for label, length in (some.total() if some else {}).items():
            number = class_of(label)
            if number != UNKNOWN:
                seconds[number] = seconds.get(number, 0.0) + length
    return max(sorted(seconds), key=lambda number: seconds[number])
