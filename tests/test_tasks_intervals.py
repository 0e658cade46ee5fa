import math

import numpy as np
import pytest

from musicfm.tasks.base import Scores
from musicfm.tasks.intervals import compare, estimate
from musicfm.tasks.key import Key
from musicfm.tasks.tagging import Tagging


def runs(means: list[float], count: int = 200, seed: int = 0) -> list[dict[str, Scores]]:
    """Of each seed, keys that are right in so many cases."""
    rng = np.random.default_rng(seed)
    draws = rng.random(count)
    return [{str(i): {"key": float(draw < mean)} for i, draw in enumerate(draws)} for mean in means]


def test_the_interval_is_that_of_a_proportion() -> None:
    found = estimate(Key(), runs([0.5], 400), "key")
    half = 1.96 * math.sqrt(found.value * (1 - found.value) / 400)
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


def test_seeds_that_differ_widen_it_and_many_of_them_narrow_it() -> None:
    same, apart, more = (
        estimate(Key(), runs(means), "key")
        for means in ([0.5] * 4, [0.3, 0.7] * 2, [0.3, 0.7] * 50)
    )
    assert apart.high - apart.low > 1.5 * (same.high - same.low)
    assert more.high - more.low < 1.2 * (same.high - same.low)


def test_one_recording_has_no_interval() -> None:
    one, other = runs([0.9, 0.9], 1), runs([0.1], 1)
    found = estimate(Key(), one, "key")
    assert (found.value, math.isnan(found.low), math.isnan(found.high)) == (1.0, True, True)
    assert compare(Key(), one, other, "key").verdict == "tie"


def test_rows_are_compared_on_what_both_have() -> None:
    one = runs([0.5, 0.5])
    other = [{name: scores for name, scores in run.items() if name != "7"} for run in one]
    difference = compare(Key(), one, other, "key")
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)
    estimate(Key(), [one[0], other[0]], "key")


def test_what_is_paired_is_told_apart_where_the_intervals_overlap() -> None:
    one, other = runs([0.55]), runs([0.5])
    first, second = estimate(Key(), one, "key"), estimate(Key(), other, "key")
    assert first.low < second.high
    assert compare(Key(), one, other, "key").verdict == "ahead"
    assert compare(Key(), other, one, "key").verdict == "behind"
    assert compare(Key(), one, one, "key").verdict == "tie"


def test_recordings_without_a_score_do_not_count() -> None:
    some = runs([0.5], 50)
    more = [{**some[0], **{f"x{i}": {"key": math.nan} for i in range(50)}}]
    assert estimate(Key(), more, "key").value == estimate(Key(), some, "key").value
    nothing = [{"a": {"key": math.nan}}]
    assert math.isnan(estimate(Key(), nothing, "key").low)


def test_scores_of_a_collection_are_computed_for_each_resample() -> None:
    task = Tagging(("drums",))
    rng = np.random.default_rng(0)
    scores = {}
    for i in range(60):
        truth = float(i % 3 == 0)
        scores[str(i)] = {"true drums": truth, "found drums": 2 * truth + rng.normal()}
    found = estimate(task, [scores], "roc_auc")
    assert found.value == task.summarise(list(scores.values()))["roc_auc"]
    assert 0.6 < found.low < found.value < found.high < 1.0
