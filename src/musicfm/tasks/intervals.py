"""How sure a score is: the bootstrap over recordings and seeds.

A resample draws recordings with replacement, and one of the heads, which differ in their seed. Rows
are compared on the same recordings, which is the paired bootstrap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from musicfm.seeds import derive_seed
from musicfm.tasks.base import Array, Scores, Task

NUM_RESAMPLES = 1_000
LEVEL = 0.95

Runs = Sequence[Mapping[str, Scores]]
"""Of each seed, the scores by recording."""


@dataclass(frozen=True)
class Estimate:
    """A score and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One row less another."""

    difference: Estimate

    @property
    def verdict(self) -> Literal["ahead", "tie", "behind"]:
        """Of the first row; a tie if the interval holds zero."""
        if self.difference.low > 0.0:
            return "ahead"
        return "behind" if self.difference.high < 0.0 else "tie"


def estimate(task: Task[Any], runs: Runs, metric: str) -> Estimate:
    """The mean over seeds, with its interval."""
    return _estimate(_value(task, runs, metric), _resampled(task, runs, metric, "one"))


def compare(task: Task[Any], runs: Runs, others: Runs, metric: str) -> Comparison:
    """How two rows differ on the same recordings."""
    value = _value(task, runs, metric) - _value(task, others, metric)
    resampled = _resampled(task, runs, metric, "one") - _resampled(task, others, metric, "other")
    return Comparison(_estimate(value, resampled))


def _value(task: Task[Any], runs: Runs, metric: str) -> float:
    return float(np.mean([task.summarise(list(run.values()))[metric] for run in runs]))


def _estimate(value: float, resampled: Array) -> Estimate:
    numbers = resampled[~np.isnan(resampled)]
    if not len(numbers):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _resampled(task: Task[Any], runs: Runs, metric: str, which: str) -> Array:
    """(NUM_RESAMPLES,) values. Rows have the same recordings, and draw their seeds apart."""
    names = sorted(runs[0])
    scores = [[run[name] for name in names] for run in runs]
    places = np.random.default_rng(derive_seed(0, "recordings")).integers(
        len(names), size=(NUM_RESAMPLES, len(names))
    )
    seeds = np.random.default_rng(derive_seed(0, "seeds", which)).integers(
        len(runs), size=NUM_RESAMPLES
    )
    found = np.empty(NUM_RESAMPLES)
    for seed, run in enumerate(scores):
        mine = seeds == seed
        if mine.any():
            found[mine] = task.resample(run, metric, places[mine])
    return found
