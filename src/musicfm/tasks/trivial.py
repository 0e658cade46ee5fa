"""The best constant guess, and what the labels allow at best.

The trivial predictor says the same of every recording (:meth:`musicfm.tasks.base.Task.constants`).
What it says is learnt from training and chosen on validation, as a head's decoding is. The oracle
is given the targets instead of logits: what it misses is lost in rates and decoding.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from musicfm._lazy import renamed
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.errors import DataError
from musicfm.tasks.base import Constant, Task, comparable

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Predictor": "Annotator"}, globals().__getitem__)

Annotator = Callable[[LabelledTrack], Annotations]


def trivial(
    task: Task[Any], train: Sequence[LabelledTrack], valid: Sequence[LabelledTrack]
) -> Annotator:
    """The best predictor that ignores the recording.

    Raises DataError if no recording is labelled for the task.
    """
    train, valid = (
        [item for item in items if task.is_labelled(item.annotations)] for items in (train, valid)
    )
    if not train or not valid:
        raise DataError(f"no recordings are labelled for {task.name}")

    def quality(constant: Constant) -> float:
        scores = [task.score(i.annotations, constant(i.track.duration)) for i in valid]
        return comparable(task.objective(task.summarise(scores)))

    best = max(task.constants([item.annotations for item in train]), key=quality)
    return lambda item: best(item.track.duration)


def oracle(task: Task[Any]) -> Annotator:
    """Says what the targets say, decoded as logits are, by the first decoding."""

    def predict(item: LabelledTrack) -> Annotations:
        duration = item.track.duration
        count = max(1, round(duration * task.output_rate))
        times = (np.arange(count) + 0.5) * duration / count
        logits = task.oracle_logits(task.targets(item.annotations, times))
        return task.decode(logits, times, duration, task.decodings[0])

    return predict
