"""What the composer writes before anything is played: notes and chords on a grid of sixteenths."""

from typing import NamedTuple

from musicfm.render.theory import Chord

BASS_TOP = 47
"""Highest pitch of a bass; no other instrument goes lower while it plays."""


class ScoreNote(NamedTuple):
    """A note as written."""

    start: int
    """Start in steps of a sixteenth; 0 begins the first bar."""
    end: int
    pitch: int
    accent: float = 1.0
    """Relative loudness."""


class ChordSpan(NamedTuple):
    """A chord as long as it holds."""

    start: int
    end: int
    chord: Chord


def nearest(pitch_classes: tuple[int, ...] | frozenset[int], pitch: int) -> int:
    """The pitch of some classes that is nearest to another; the lower one of two."""
    for distance in range(7):
        if (pitch - distance) % 12 in pitch_classes:
            return pitch - distance
        if (pitch + distance) % 12 in pitch_classes:
            return pitch + distance
    return pitch


def above(pitch_class: int, lowest: int) -> int:
    """The lowest pitch of a class that is not below another."""
    return lowest + (pitch_class - lowest) % 12
