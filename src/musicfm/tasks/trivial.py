"""What can be had without listening, and what the labels allow at best.

The trivial predictor says the same of every recording: a constant tempo, the commonest key, chord
or section, each tag as likely as it is common. What it says is learnt from training and chosen on
validation, as a head's decoding is. The oracle is given the targets instead of logits: what it
misses is lost in rates and decoding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.datasets.labelled import LabelledTrack
from musicfm.errors import DataError
from musicfm.tasks.base import Array, Targets, Task
from musicfm.tasks.chord import NAMES as CHORDS
from musicfm.tasks.chord import chord_class
from musicfm.tasks.key import NAMES as KEYS
from musicfm.tasks.key import main_key
from musicfm.tasks.spans import UNKNOWN
from musicfm.tasks.structure import function_of
from musicfm.tasks.tagging import applying

Predictor = Callable[[LabelledTrack], Annotations]

_SURE = 20.0
"""A logit that leaves no doubt."""


def trivial(
    task: Task[Any], train: Sequence[LabelledTrack], valid: Sequence[LabelledTrack]
) -> Predictor:
    """The best predictor that does not listen.

    Raises DataError if no recording is labelled for the task.
    """
    train, valid = (
        [item for item in items if task.is_labelled(item.annotations)] for items in (train, valid)
    )
    if not train or not valid:
        raise DataError(f"no recordings are labelled for {task.name}")

    def quality(predictor: Predictor) -> float:
        summary = task.summarise([task.score(item.annotations, predictor(item)) for item in valid])
        value = task.objective(summary)
        return -math.inf if math.isnan(value) else value

    return max(_candidates(task, train), key=quality)


def oracle(task: Task[Any]) -> Predictor:
    """Says what the targets say, decoded as logits are, by the first decoding."""

    def predict(item: LabelledTrack) -> Annotations:
        duration = item.track.duration
        count = max(1, round(duration * task.output_rate))
        times = (np.arange(count) + 0.5) * duration / count
        logits = sure_logits(task, task.targets(item.annotations, times))
        return task.decode(logits, times, duration, task.decodings[0])

    return predict


def sure_logits(task: Task[Any], targets: Targets) -> Array:
    """Logits that say just what the targets say, and nothing where nothing is known.

    Returns:
        (outputs, num_logits).
    """
    values, known = targets
    if task.name in ("beat", "tagging"):
        return np.where(known, _SURE * (values - 0.5), -_SURE / 2)
    if task.name == "structure":
        boundary = np.where(known[:, :1], _SURE * (values[:, :1] - 0.5), -_SURE / 2)
        functions = _one_hot(values[:, 1], known[:, 1], task.num_logits - 1)
        return np.concatenate([boundary, functions], axis=1)
    return _one_hot(values, known, task.num_logits)


def _one_hot(classes: Array, known: npt.NDArray[np.bool_], count: int) -> Array:
    return _SURE * np.eye(count)[classes.astype(int)] * known[:, None]


def _candidates(task: Task[Any], train: Sequence[LabelledTrack]) -> Iterator[Predictor]:
    """What might be said, for each task."""
    match task.name:
        case "beat":
            yield from _grids(train)
        case "chord":
            name = CHORDS[_commonest(train, lambda a: a.chords, chord_class)]
            yield lambda item: Annotations(chords=_throughout(name, item))
        case "structure":
            yield from _sections(train)
        case "key":
            found = [main_key(item.annotations.keys) for item in train if item.annotations.keys]
            classes = [number for number in found if number is not None]
            key = KEYS[int(np.bincount(classes).argmax())]
            yield lambda item: Annotations(keys=_throughout(key, item))
        case "tagging":
            tags = [applying(item.annotations) for item in train]
            names = {name for applying in tags for name in applying}
            share = {name: sum(name in a for a in tags) / len(tags) for name in sorted(names)}
            yield lambda item: Annotations(tags=share)


def _grids(train: Sequence[LabelledTrack]) -> Iterator[Predictor]:
    """Constant tempi, from common ones, with 2, 3 or 4 beats to a bar."""
    periods = np.concatenate([np.diff(i.annotations.beats.times) for i in train])  # type: ignore[union-attr]
    if not len(periods):
        periods = np.array([0.5])
    for percentile in (10, 25, 40, 50, 60, 75, 90):
        period = float(np.percentile(periods, percentile))
        for bar in (2, 3, 4):
            yield _grid(period, bar)


def _grid(period: float, bar: int) -> Predictor:
    def predict(item: LabelledTrack) -> Annotations:
        times = np.arange(0.0, item.track.duration, period)
        return Annotations(beats=Beats(times, 1 + np.arange(len(times)) % bar))

    return predict


def _sections(train: Sequence[LabelledTrack]) -> Iterator[Predictor]:
    """The commonest function throughout, undivided or in sections of some equal length."""
    seconds: dict[str, float] = {}
    for item in train:
        assert item.annotations.segments is not None
        for label, length in item.annotations.segments.total().items():
            if function := function_of(label):
                seconds[function] = seconds.get(function, 0.0) + length
    commonest = max(sorted(seconds), key=lambda name: seconds[name], default="inst")
    for length in (math.inf, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0):
        yield _division(commonest, length)


def _division(label: str, length: float) -> Predictor:
    def predict(item: LabelledTrack) -> Annotations:
        duration = item.track.duration
        count = max(1, round(duration / length))
        bounds = np.linspace(0.0, duration, count + 1)
        intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
        return Annotations(segments=Spans(intervals, (label,) * count))

    return predict


def _commonest(
    train: Sequence[LabelledTrack],
    part: Callable[[Annotations], Spans | None],
    class_of: Callable[[str], int],
) -> int:
    seconds: dict[int, float] = {}
    for item in train:
        spans = part(item.annotations)
        for label, length in (spans.total() if spans else {}).items():
            number = class_of(label)
            if number != UNKNOWN:
                seconds[number] = seconds.get(number, 0.0) + length
    return max(sorted(seconds), key=lambda number: seconds[number])


def _throughout(label: str, item: LabelledTrack) -> Spans:
    return Spans(np.array([[0.0, item.track.duration]]), (label,))
