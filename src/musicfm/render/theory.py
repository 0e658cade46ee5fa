"""Keys and chords: which pitches they have and how they are spelled.

Chord names follow Harte et al., "Symbolic representation of musical chords" (ISMIR 2005).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from musicfm._lazy import renamed

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Key": "Tonality"}, globals().__getitem__)

MODES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
"""Semitones above the tonic."""

QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus4": (0, 5, 7),
    "sus2": (0, 2, 7),
    "maj6": (0, 4, 7, 9),
    "min6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "min7": (0, 3, 7, 10),
    "minmaj7": (0, 3, 7, 11),
    "dim7": (0, 3, 6, 9),
    "hdim7": (0, 3, 6, 10),
    "5": (0, 7),
}
"""Semitones above the root, by Harte's shorthand."""

_LETTERS = "CDEFGAB"
_NATURAL = (0, 2, 4, 5, 7, 9, 11)
_SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_SIGNATURE_SHARPS = {7, 2, 9, 4, 11, 6}  # tonics of the major keys with sharps
# Letters above the tonic's for each semitone above it: a borrowed third is a flat third.
_STEPS = (0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6)
_INTERVALS = {2: "2", 3: "b3", 4: "3", 5: "4", 6: "b5", 7: "5", 8: "#5", 9: "6", 10: "b7", 11: "7"}


@dataclass(frozen=True, slots=True)
class Tonality:
    """A tonic (pitch class, C is 0) and a mode."""

    tonic: int
    mode: str

    @property
    def name(self) -> str:
        """As in JAMS's key_mode, such as "Eb:minor"."""
        return f"{_tonic_name(self.tonic, self.mode)}:{self.mode}"

    @property
    def scale(self) -> frozenset[int]:
        """Its pitch classes."""
        return frozenset((self.tonic + step) % 12 for step in MODES[self.mode])

    @property
    def is_minor(self) -> bool:
        """Whether its third is minor."""
        return 3 in MODES[self.mode]


@dataclass(frozen=True, slots=True)
class Chord:
    """A chord within a key."""

    key: Tonality
    offset: int
    """Semitones from the tonic up to the root."""
    quality: str
    bass: int = 0
    """Semitones from the root up to the bass note; one of the quality's."""

    @property
    def root(self) -> int:
        """Pitch class."""
        return (self.key.tonic + self.offset) % 12

    @property
    def bass_pitch_class(self) -> int:
        """Pitch class of the lowest note."""
        return (self.root + self.bass) % 12

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """From the root up."""
        return _pitch_classes(self.root, self.quality)

    @property
    def name(self) -> str:
        """In Harte's notation, such as "Bb:min7/b3"."""
        return _chord_name(self)

    @property
    def scale(self) -> frozenset[int]:
        """Pitch classes for a melody over it: the key's, but for those that rub with the chord."""
        return _chord_scale(self.key, self.pitch_classes)


@lru_cache(maxsize=1024)
def _pitch_classes(root: int, quality: str) -> tuple[int, ...]:
    return tuple((root + step) % 12 for step in QUALITIES[quality])


@lru_cache(maxsize=65536)
def _chord_name(chord: Chord) -> str:
    over = f"/{_INTERVALS[chord.bass]}" if chord.bass else ""
    return f"{_spell(chord.key, chord.offset)}:{chord.quality}{over}"


@lru_cache(maxsize=65536)
def _chord_scale(key: Tonality, chord: tuple[int, ...]) -> frozenset[int]:
    outside = {note for note in chord if note not in key.scale}
    beside = {(note + step) % 12 for note in outside for step in (-1, 1)}
    return frozenset((key.scale - (beside - set(chord))) | set(chord))


def _tonic_name(tonic: int, mode: str) -> str:
    relative_major = (tonic - {"major": 0, "minor": 9, "dorian": 2, "mixolydian": 7}[mode]) % 12
    if tonic == 3:  # of two keys with six accidentals, the one that is written
        return "Eb"
    return (_SHARPS if relative_major in _SIGNATURE_SHARPS else _FLATS)[tonic]


def _spell(key: Tonality, offset: int) -> str:
    """The note some semitones above the tonic, on the letter that its degree asks for."""
    tonic = _tonic_name(key.tonic, key.mode)
    letter = (_LETTERS.index(tonic[0]) + _STEPS[offset]) % 7
    pitch_class = (key.tonic + offset) % 12
    accidental = (pitch_class - _NATURAL[letter] + 6) % 12 - 6
    if abs(accidental) > 1:  # rather B than Cbb
        return (_FLATS if "b" in tonic else _SHARPS)[pitch_class]
    return _LETTERS[letter] + ("", "#", "b")[accidental]
