from collections.abc import Sequence

import mir_eval
import numpy as np
import pytest

import labelled
from musicfm.datasets.annotations import Annotations, Spans
from musicfm.tasks.structure import FUNCTIONS, Structure, StructureDecoding, function_of

TASK = Structure()


def segments(bounds: Sequence[float], labels: Sequence[str]) -> Annotations:
    intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return Annotations(segments=Spans(intervals, tuple(labels)))


@pytest.mark.parametrize(
    ("label", "function"),
    [
        ("Verse 1", "verse"),
        ("pre-chorus", "verse"),
        ("Pre_Chorus 2", "verse"),
        ("post chorus", "chorus"),
        ("refrain", "chorus"),
        ("Theme A", "chorus"),
        ("fade-in", "intro"),
        ("transition", "bridge"),
        ("fade out", "outro"),
        ("Coda", "outro"),
        ("guitar solo", "inst"),
        ("break", "inst"),
        ("Z", "inst"),
        ("silence", "silence"),
        ("stutter", "chorus"),
        ("build-up", "verse"),
        ("improvisation", "inst"),
        ("End", None),
        ("no_function", None),
        ("ending", "outro"),
        *((function, function) for function in FUNCTIONS),
    ],
)
def test_free_labels_are_mapped_to_functions(label: str, function: str | None) -> None:
    assert function_of(label) == function


def test_hit_rates_are_those_of_mir_eval() -> None:
    reference, duration = labelled.song(1)
    truth = reference.segments
    assert truth is not None
    rng = np.random.default_rng(0)
    inner = truth.intervals[1:, 0] + rng.choice([0.0, 0.3, 1.0, 5.0], len(truth.labels) - 1)
    bounds = np.unique(np.concatenate([[0.0], np.minimum(inner, duration - 0.1), [duration]]))
    estimate = segments(bounds.tolist(), ["verse"] * (len(bounds) - 1))
    assert estimate.segments is not None
    scores = TASK.score(reference, estimate)
    for name, window, trim in (
        ("hr_05", 0.5, False),
        ("hr_3", 3.0, False),
        ("hr_05_trimmed", 0.5, True),
        ("hr_3_trimmed", 3.0, True),
    ):
        _, _, expected = mir_eval.segment.detection(
            truth.intervals, estimate.segments.intervals, window=window, trim=trim
        )
        assert scores[name] == expected
    assert scores["hr_05_trimmed"] < scores["hr_05"] < 1.0


def test_an_estimate_counts_where_the_reference_does() -> None:
    """As in mir_eval's own evaluation, which refuses a boundary at the very end."""
    reference = segments([0.7, 20, 40, 58], ["verse", "chorus", "verse"])
    for bounds in ([0, 0.7, 20, 40, 62], [0, 0.7, 20, 40, 58, 60, 62]):
        estimate = segments(bounds, ["verse"] * (len(bounds) - 1))
        assert reference.segments is not None
        assert estimate.segments is not None
        scores = TASK.score(reference, estimate)
        assert (scores["hr_05"], scores["hr_05_trimmed"]) == (1.0, 1.0)
        if 58 not in bounds:
            expected = mir_eval.segment.evaluate(
                reference.segments.intervals,
                list(reference.segments.labels),
                estimate.segments.intervals,
                list(estimate.segments.labels),
            )
            assert expected["F-measure@0.5"] == 1.0


def test_what_comes_after_the_music_is_a_boundary_and_no_section() -> None:
    reference = segments([0, 10, 20, 60], ["verse", "chorus", "end"])
    times = (np.arange(480) + 0.5) / 8
    values, known = TASK.targets(reference, times)
    assert values[np.abs(times - 20.0) < 0.3, 0].all()
    assert known[:, 0].all()
    np.testing.assert_array_equal(known[:, 1], times < 20.0)
    for after in ([60], [20, 60], [20, 30, 60]):
        bounds = [0, 10, *after]
        scores = TASK.score(
            reference, segments(bounds, ["verse", "chorus", *["inst"] * 9][: len(bounds) - 1])
        )
        assert set(scores.values()) == {1.0}


def test_sections_without_a_function_have_boundaries() -> None:
    reference = segments([0, 20, 40, 60], ["verse", "no_function", "chorus"])
    times = (np.arange(480) + 0.5) / 8
    values, known = TASK.targets(reference, times)
    assert values[np.abs(times - 20.0) < 0.3, 0].all()
    np.testing.assert_array_equal(known[:, 1], (times < 20.0) | (times > 40.0))
    estimate = segments([0, 20, 40, 60], ["verse", "inst", "chorus"])
    assert set(TASK.score(reference, estimate).values()) == {1.0}


def test_one_segment_shows_what_trimming_means() -> None:
    reference = segments([0, 10, 20, 30], ["verse", "chorus", "verse"])
    scores = TASK.score(reference, segments([0, 30], ["verse"]))
    assert scores["hr_05"] == pytest.approx(2 / 3)
    assert scores["hr_05_trimmed"] == 0.0
    assert scores["structure"] == pytest.approx(2 / 3, abs=0.01)
    whole = segments([0, 30], ["verse"])
    assert np.isnan(TASK.score(whole, whole)["hr_05_trimmed"])


def test_peaks_stand_out_and_keep_apart() -> None:
    times = (np.arange(480) + 0.5) / 8
    logits = np.full((480, 8), -4.0)
    logits[[160, 320], 0] = 2.0
    logits[[176], 0] = 1.0  # 2 s after a higher one
    logits[:160, 1 + FUNCTIONS.index("verse")] = 5.0
    logits[160:320, 1 + FUNCTIONS.index("chorus")] = 5.0
    logits[320:, 1 + FUNCTIONS.index("outro")] = 5.0
    found = TASK.decode(logits, times, 60.0, StructureDecoding()).segments
    assert found is not None
    assert found.labels == ("verse", "chorus", "outro")
    np.testing.assert_allclose(found.intervals[:, 0], [0.0, times[160], times[320]])
    nothing = TASK.decode(logits, times, 60.0, StructureDecoding(threshold=0.95)).segments
    assert nothing is not None
    assert len(nothing.labels) == 1


def test_boundaries_are_pulses() -> None:
    reference = segments([0, 10, 20], ["verse", "chorus"])
    times = (np.arange(160) + 0.5) / 8
    values, known = TASK.targets(reference, times)
    assert known.all()
    pulse = times[values[:, 0] > 0]
    assert (np.minimum(pulse, abs(pulse - 10)) <= 0.3 + 1e-6).all()
    assert values[:, 0].sum() == 2 + 4
    np.testing.assert_array_equal(np.unique(values[:, 1]), [1, 2])
