import mir_eval
import numpy as np
import pytest

import labelled
from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks.chord import NAMES, NO_CHORD, Chord, ChordDecoding, chord_class
from musicfm.tasks.spans import UNKNOWN, viterbi

TASK = Chord()


def chords(*spans: tuple[float, float, str]) -> Annotations:
    intervals = np.array([span[:2] for span in spans])
    return Annotations(chords=Spans(intervals, tuple(span[2] for span in spans)))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("C:maj", "C:maj"),
        ("C", "C:maj"),
        ("Db:maj7/3", "C#:maj"),
        ("B#:7", "C:maj"),
        ("A:min9", "A:min"),
        ("G#:minmaj7", "Ab:min"),
        ("N", "N"),
    ],
)
def test_chords_count_by_root_third_and_fifth(label: str, name: str) -> None:
    assert NAMES[chord_class(label)] == name


@pytest.mark.parametrize("label", ["X", "C:sus4", "C:dim", "C:aug", "C:5", "C:hdim7", "C:1"])
def test_what_is_neither_major_nor_minor_is_ignored(label: str) -> None:
    assert chord_class(label) == UNKNOWN
    scores = TASK.score(chords((0, 2, label), (2, 4, "C")), chords((0, 2, "G"), (2, 4, "C")))
    assert scores == {"chord": 1.0, "chord_majmin": 1.0, "chord_ignored_seconds": 2.0}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_has_its_own_name(name: str) -> None:
    assert NAMES[chord_class(name)] == name


def test_a_label_that_is_no_chord_is_named() -> None:
    with pytest.raises(DataError, match="'H:maj' is not a chord in Harte's notation"):
        TASK.is_labelled(chords((0, 1, "C"), (1, 2, "H:maj")))


def test_only_ignored_chords_are_no_labels() -> None:
    assert not TASK.is_labelled(chords((0, 1, "C:sus4")))
    scores = TASK.score(chords((0, 1, "C:sus4")), chords((0, 1, "C")))
    assert np.isnan(scores["chord"])
    assert np.isnan(scores["chord_majmin"])


def test_majmin_is_that_of_mir_eval() -> None:
    reference, duration = labelled.song(3)
    rng = np.random.default_rng(0)
    bounds = np.sort(np.append(rng.uniform(0, duration, 60), [0.0, duration]))
    labels = [NAMES[i] for i in rng.integers(0, 25, 61)]
    truth = reference.chords
    assert truth is not None
    labels[:30] = [str(label) for label in truth.at((bounds[1:] + bounds[:-1]) / 2)[:30]]
    estimate = Spans(np.stack([bounds[:-1], bounds[1:]], axis=1), tuple(labels))
    scores = TASK.score(reference, Annotations(chords=estimate))
    expected = mir_eval.chord.evaluate(
        truth.intervals, list(truth.labels), estimate.intervals, list(estimate.labels)
    )
    assert scores["chord_majmin"] == pytest.approx(expected["majmin"], abs=1e-12)
    assert 0.05 < scores["chord_majmin"] < 0.95
    assert scores["chord"] == pytest.approx(scores["chord_majmin"], abs=0.02)


def test_a_cost_of_changes_smooths() -> None:
    logits = np.zeros((64, 25))
    logits[:32, 0] = logits[32:, 7] = 3.0
    logits[[10, 40], 12] = 4.0  # a single output that errs
    times = (np.arange(64) + 0.5) / 16
    rough = TASK.decode(logits, times, 4.0, ChordDecoding()).chords
    smooth = TASK.decode(logits, times, 4.0, ChordDecoding(change_cost=2.0)).chords
    assert rough is not None
    assert smooth is not None
    assert len(rough.labels) == 6
    assert smooth.labels == ("C:maj", "G:maj")
    np.testing.assert_allclose(smooth.intervals, [[0, 2], [2, 4]])


def test_viterbi_finds_the_best_of_all_paths() -> None:
    rng = np.random.default_rng(1)
    for cost in (0.0, 0.3, 1.5):
        scores = rng.normal(size=(6, 3))
        paths = np.stack(np.meshgrid(*[np.arange(3)] * 6, indexing="ij"), axis=-1).reshape(-1, 6)
        totals = scores[np.arange(6), paths].sum(axis=1) - cost * (np.diff(paths) != 0).sum(axis=1)
        np.testing.assert_array_equal(viterbi(scores, cost), paths[totals.argmax()])


def test_no_chord_is_a_class_like_others() -> None:
    values, known = TASK.targets(chords((0, 1, "N"), (2, 3, "A:min")), np.array([0.5, 1.5, 2.5]))
    np.testing.assert_array_equal(known, [True, False, True])
    np.testing.assert_array_equal(values[known], [NO_CHORD, 21])


def test_gaps_in_the_labels_do_not_count() -> None:
    reference = chords((0, 10, "C"), (20, 30, "G"))
    estimate = chords((0, 10, "C"), (10, 20, "D"), (20, 30, "G"))
    scores = TASK.score(reference, estimate)
    assert scores["chord"] == scores["chord_majmin"] == 1.0
    assert scores["chord_ignored_seconds"] == 10.0
    assert "10.0 s of a recording" in TASK.remark(TASK.summarise([scores]))
