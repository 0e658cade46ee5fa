import itertools

import mir_eval
import numpy as np
import pytest

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks import chord
from musicfm.tasks.base import Array
from musicfm.tasks.key import (
    NAMES,
    Key,
    KeyDecoding,
    confusion,
    key_class,
    main_key,
    with_chords,
)
from musicfm.tasks.spans import UNKNOWN

TASK = Key()


def keys(*spans: tuple[float, float, str]) -> Annotations:
    intervals = np.array([span[:2] for span in spans])
    return Annotations(keys=Spans(intervals, tuple(span[2] for span in spans)))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("C", "C:major"),
        ("Cb:major", "B:major"),
        ("B#:minor", "C:minor"),
        ("D#:minor", "Eb:minor"),
        ("C:dorian", "C:minor"),
        ("F#:mixolydian", "F#:major"),
        *((name, name) for name in NAMES),
    ],
)
def test_any_spelling_will_do_and_modes_count_by_their_third(label: str, name: str) -> None:
    number = key_class(label)
    assert NAMES[number] == name


def test_keys_that_are_none() -> None:
    assert key_class("N") == UNKNOWN
    assert key_class("X") == UNKNOWN
    assert key_class("B:locrian") == UNKNOWN
    assert not TASK.is_labelled(keys((0, 10, "N")))
    for label in ("H:major", "C major", "c:minor", "C:blues", ""):
        with pytest.raises(DataError, match="is not a key"):
            key_class(label)


def test_the_weighted_score_and_the_confusions_are_those_of_mir_eval() -> None:
    points = {"same": 1.0, "fifth": 0.5, "relative": 0.3, "parallel": 0.2, "other": 0.0}
    for truth, found in itertools.product(range(24), repeat=2):
        scores = TASK.score(keys((0, 9, NAMES[truth])), keys((0, 9, NAMES[found])))
        expected = mir_eval.key.weighted_score(
            NAMES[truth].replace(":", " "), NAMES[found].replace(":", " ")
        )
        assert (scores.pop("key"), scores.pop("key_weighted")) == (float(truth == found), expected)
        relations = {name for name, score in scores.items() if score}
        assert relations == ({f"key_{confusion(truth, found)}"} if truth != found else set())
        assert points[confusion(truth, found)] == expected


def test_a_recording_has_the_key_that_lasts_longest() -> None:
    changing = keys((0, 4, "C:major"), (4, 10, "A:minor"), (10, 13, "C:ionian"))
    assert changing.keys is not None
    assert main_key(changing.keys) == key_class("C:major")
    values, known = TASK.targets(changing, np.array([1.0, 5.0, 11.0, 14.0]))
    np.testing.assert_array_equal(known, [True, True, True, False])
    np.testing.assert_array_equal(values[known], [0, 21, 0])


def test_outputs_are_averaged() -> None:
    logits = np.zeros((6, 24))
    logits[0, 3] = 9.0
    logits[1:, 5] = 3.0
    found = TASK.decode(logits, 2.0 * np.arange(6.0), 12.0, KeyDecoding()).keys
    assert found is not None
    assert found.labels == (NAMES[5],)


def chords(*labels: str) -> Array:
    """Probabilities of so many equally long chords."""
    return np.eye(chord.NUM_CLASSES)[[chord.NAMES.index(label) for label in labels]]


@pytest.mark.parametrize(
    ("progression", "key"),
    [
        (("C:maj", "F:maj", "G:maj", "C:maj"), "C:major"),
        (("A:min", "D:min", "E:maj", "A:min"), "A:minor"),
        (("Eb:maj", "C:min", "F:min", "Bb:maj", "Eb:maj"), "Eb:major"),
        (("F#:min", "D:maj", "B:min", "C#:maj", "F#:min"), "F#:minor"),
    ],
)
def test_chords_tell_the_key_where_the_head_does_not(
    progression: tuple[str, ...], key: str
) -> None:
    found = with_chords(np.zeros((3, 24)), chords(*progression), 12.0)
    assert found.labels == (key,)
    assert found.confidences is not None
    assert 1 / 24 < found.confidences[0] < 1.0


def test_the_head_decides_between_keys_that_chords_fit() -> None:
    between = chords("C:maj", "F:maj", "G:maj", "A:min", "D:min", "E:min")
    for key in ("C:major", "A:minor"):
        logits = np.zeros((1, 24))
        logits[0, NAMES.index(key)] = 10.0
        assert with_chords(logits, between, 12.0).labels == (key,)


def test_without_any_chord_there_is_no_key() -> None:
    assert with_chords(np.ones((2, 24)), chords("N", "N"), 4.0).labels == ()


def test_keys_are_named_with_six_sharps_or_flats_at_most() -> None:
    assert [key_class(name) for name in NAMES] == list(range(24))
    for name in NAMES:
        tonic, mode = name.split(":")
        assert abs(place(tonic) - 3 * (mode == "minor")) <= 6


def place(tonic: str) -> int:
    """On the line of fifths: the sharps of a major key, or the flats as a negative number."""
    return "FCGDAEB".index(tonic[0]) - 1 + 7 * (tonic.count("#") - tonic.count("b"))
