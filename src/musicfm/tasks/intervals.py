"""How sure a score is: the bootstrap over recordings and seeds.

A resample draws as many recordings as there are, with replacement, and as many heads, which differ
in their seed. Rows are compared on the same recordings, which is the paired bootstrap.
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
"""Scores by recording, for each seed."""


@dataclass(frozen=True)
class Estimate:
    """A score and its interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["ahead", "tie", "behind"]:
        """Where it is a difference: of the first row; a tie if the interval holds zero."""
        if self.low > 0.0:
            return "ahead"
        return "behind" if self.high < 0.0 else "tie"


def estimate(task: Task[Any], runs: Runs, metric: str) -> Estimate:
    """The mean over seeds, with its interval."""
    names = _common(runs)
    return _estimate(
        _value(task, runs, metric, names), _resampled(task, runs, metric, names, "one")
    )


def compare(task: Task[Any], runs: Runs, others: Runs, metric: str) -> Estimate:
    """How much a row is ahead of another on the recordings that both have."""
    names = _common([*runs, *others])
    value = _value(task, runs, metric, names) - _value(task, others, metric, names)
    resampled = _resampled(task, runs, metric, names, "one")
    return _estimate(value, resampled - _resampled(task, others, metric, names, "other"))


def _common(runs: Runs) -> list[str]:
    """Recordings that all runs have scores of."""
    return sorted(set.intersection(*(set(run) for run in runs)))


def _value(task: Task[Any], runs: Runs, metric: str, names: Sequence[str]) -> float:
    summaries = [task.summarise([run[name] for name in names]) for run in runs]
    return float(np.mean([summary[metric] for summary in summaries])) if names else float("nan")


def _estimate(value: float, resampled: Array) -> Estimate:
    numbers = resampled[~np.isnan(resampled)]
    if not len(numbers):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def _resampled(task: Task[Any], runs: Runs, metric: str, names: Sequence[str], which: str) -> Array:
    """(NUM_RESAMPLES,) means over seeds. Rows share their recordings, and not their seeds.

    Of one recording there are none: it says nothing of how others would differ.
    """
    if len(names) < 2:
        return np.empty(0)
    places = np.random.default_rng(derive_seed(0, "recordings")).integers(
        len(names), size=(NUM_RESAMPLES, len(names))
    )
    seeds = np.random.default_rng(derive_seed(0, "seeds", which)).integers(
        len(runs), size=(NUM_RESAMPLES, len(runs))
    )
    values = np.stack(
        [task.bootstrap([run[name] for name in names], metric, places) for run in runs]
    )
    return values[seeds, np.arange(NUM_RESAMPLES)[:, None]].mean(axis=1)
