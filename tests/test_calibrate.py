"""Confidences that say how much is right, and tags that can be relied on."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from musicfm.analysis.analyzer import tags_said, with_confidences
from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.tasks.base import Decoding, calibrated
from musicfm.tasks.tagging import TaggingDecoding, said

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from calibrate import Judged, fit, judge, reliability, thresholds


def test_without_scale_and_shift_confidences_stay() -> None:
    sure = np.array([0.0, 0.2, 0.9, 1.0])
    assert calibrated(sure, Decoding()) == pytest.approx(sure, abs=1e-5)
    assert calibrated(np.array([0.5]), Decoding(confidence_shift=math.log(3.0))) == pytest.approx(
        [0.75]
    )


def test_confidences_of_every_kind_are_calibrated() -> None:
    sure = np.array([0.5])
    spans = Spans(np.array([[0.0, 9.0]]), ("A",), sure)
    beats = Beats(np.array([1.0]), np.array([1]), sure)
    found = Annotations(beats, spans, spans, spans)
    shift = {"beat": 1.0, "chord": 2.0, "structure": 3.0, "key": 4.0}
    decodings = {task: Decoding(confidence_shift=value) for task, value in shift.items()}
    changed = with_confidences(found, decodings)
    for part, task in zip(
        (changed.beats, changed.chords, changed.segments, changed.keys), shift, strict=True
    ):
        assert part is not None
        assert part.confidences == pytest.approx([1.0 / (1.0 + math.exp(-shift[task]))])


def test_tags_are_said_from_their_thresholds_on() -> None:
    tags = {"piano": 0.4, "choir": 0.9, "organ": 0.1}
    assert said(tags, TaggingDecoding()) == pytest.approx(tags)
    decoding = TaggingDecoding(thresholds={"piano": 0.3, "organ": 0.2})
    assert said(tags, decoding) == pytest.approx({"piano": 0.4})
    assert said({}, decoding) == {}


def test_tags_of_beats_are_said_if_they_hold_most_of_the_time() -> None:
    times = np.arange(1.0, 60.0, 0.3)  # 200 beats a minute
    beats = Beats(times, 1 + np.arange(len(times)) % 4)
    tags = {"fast": 0.0, "slow": 0.9, "piano": 0.9}
    decoding = TaggingDecoding(thresholds={"piano": 0.5})
    assert tags_said(Annotations(beats, tags=tags), decoding, 60.0) == pytest.approx(
        {"piano": 0.9, "fast": 1.0}
    )
    assert tags_said(Annotations(tags=tags), decoding, 60.0) == pytest.approx({"piano": 0.9})


def test_what_is_too_sure_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0.2, 0.9, 3000)
    judged = Judged()
    odds = 3.0 * np.log(true / (1.0 - true)) + 1.0
    judged.add(1.0 / (1.0 + np.exp(-odds)), rng.uniform(size=3000) < true, np.ones(3000))
    decoding = fit(judged)
    assert decoding.confidence_scale == pytest.approx(1 / 3, abs=0.05)
    assert reliability(judged, Decoding())[1] > 0.1
    bins, error = reliability(judged, decoding)
    assert error < 0.03
    assert bins[:, 2].sum() == pytest.approx(1.0)


def test_what_is_right_is_judged() -> None:
    def spans(ends: list[float], labels: str) -> Spans:
        bounds = np.array([0.0, *ends])
        sure = np.full(len(labels.split()), 0.5)
        return Spans(np.stack([bounds[:-1], bounds[1:]], axis=1), tuple(labels.split()), sure)

    truth = Annotations(
        Beats(np.array([1.0, 2.0]), np.array([1, 2])),
        spans([4.0, 8.0], "C:maj G:maj"),
        spans([4.0, 8.0], "verse chorus"),
        spans([8.0], "C:major"),
    )
    found = Annotations(
        Beats(np.array([1.05, 2.2]), np.array([1, 2]), np.array([0.5, 0.5])),
        spans([6.0, 8.0], "C:maj G:maj"),
        spans([2.0, 8.0], "A B"),
        spans([8.0], "A:minor"),
    )
    judged = judge(truth, found)
    assert judged["beat"].right == [True, False]
    assert judged["chord"].right == pytest.approx([2 / 3, 1.0], abs=0.02)
    assert judged["structure"].right == pytest.approx([1.0, (2 * 1 + 4 * 2) / 18], abs=0.02)
    assert judged["key"].right == [False]


def test_tags_that_are_wrong_too_often_have_no_threshold() -> None:
    def song(number: int) -> tuple[Annotations, dict[str, float]]:
        tags = {"piano": 1.0} if number >= 10 else {}
        heard = {"piano": number / 20, "choir": 0.9, "rare": number / 20 if number > 17 else 0.0}
        return Annotations(tags=tags | ({"rare": 1.0} if number > 17 else {})), heard

    found = thresholds([song(number) for number in range(20)])
    assert set(found) == {"piano"}
    assert found["piano"] <= 0.5
