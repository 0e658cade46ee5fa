"""Names of chords that fit a key."""

import numpy as np
import pytest

from musicfm.analysis.spelling import spell, spell_chords
from musicfm.datasets.annotations import Spans


@pytest.mark.parametrize(
    ("tonic", "scale"),
    [
        ("C", "C Db D Eb E F F# G Ab A Bb B"),
        ("A", "C C# D D# E F F# G G# A Bb B"),
        ("Eb", "C Db D Eb Fb F Gb G Ab A Bb Cb"),
        ("F#", "B# C# D D# E E# F# G G# A A# B"),
        ("Db", "C Db D Eb Fb F Gb G Ab A Bb Cb"),
    ],
)
def test_roots_are_spelled_as_the_key_has_them(tonic: str, scale: str) -> None:
    sharps = "C C# D D# E F F# G G# A A# B".split()
    assert [spell(root, tonic) for root in sharps] == scale.split()


def test_only_the_root_changes() -> None:
    assert spell("A#:min7(11)/b3", "F") == "Bb:min7(11)/b3"
    assert [spell(label, "F") for label in ("N", "X")] == ["N", "X"]


def test_a_chord_has_the_spelling_of_the_key_it_is_in() -> None:
    chords = Spans(np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]), ("D#:maj", "N", "D#:min"))
    keys = Spans(np.array([[0.5, 2.0], [2.0, 3.0]]), ("Bb:major", "E:major"))
    assert spell_chords(chords, keys).labels == ("Eb:maj", "N", "D#:min")
    assert spell_chords(chords, None) is chords
