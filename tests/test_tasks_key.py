import itertools

import mir_eval
import numpy as np
import pytest

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks.key import NAMES, Key, KeyDecoding, confusion, key_class, main_key
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
        with pytest.raises(DataError, match="is no key"):
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
