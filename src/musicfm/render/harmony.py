"""Chord progressions: phrases that walk from chord to chord and end with a cadence.

A progression is a sequence of degrees, drawn from a grammar of what follows what in a mode. Which
ones are reserved for held-out songs depends on the degrees alone; sevenths, inversions and
suspensions are added afterwards.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from musicfm._lazy import renamed
from musicfm.render.dice import Dice
from musicfm.render.splits import is_reserved
from musicfm.render.styles import STEPS_PER_BAR, Metre, Style
from musicfm.render.theory import Chord, Tonality

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Slot": "PhraseChord"}, globals().__getitem__)

_MAX_CHORD_SECONDS = 5.0
_MIN_CHORDS = 4  # of a phrase: fewer would not make a progression that can be reserved

# Degrees by name: semitones above the tonic, and triad.
_DEGREES: dict[str, tuple[int, str]] = {
    "I": (0, "maj"), "i": (0, "min"), "bII": (1, "maj"), "II": (2, "maj"), "ii": (2, "min"),
    "iio": (2, "dim"), "bIII": (3, "maj"), "iii": (4, "min"), "III": (4, "maj"),
    "IV": (5, "maj"), "iv": (5, "min"), "V": (7, "maj"), "v": (7, "min"), "bVI": (8, "maj"),
    "vi": (9, "min"), "VI": (9, "maj"), "bVII": (10, "maj"), "viio": (11, "dim"),
}  # fmt: skip

_GRAMMAR: dict[str, dict[str, dict[str, float]]] = {
    "major": {
        "I": {"IV": 5, "V": 4, "vi": 4, "ii": 3, "iii": 2, "bVII": 0.6, "III": 0.4, "VI": 0.4},
        "ii": {"V": 7, "IV": 1, "vi": 1, "iii": 0.7},
        "iii": {"vi": 5, "IV": 4, "ii": 1},
        "IV": {"V": 5, "I": 4, "ii": 2, "iv": 0.8, "vi": 1, "bVII": 0.5},
        "V": {"I": 5, "vi": 3, "IV": 1.5, "iii": 0.5},
        "vi": {"IV": 4, "ii": 3, "V": 2, "iii": 1.5, "II": 0.7, "I": 0.7},
        "bVII": {"IV": 3, "I": 3, "V": 1},
        "iv": {"I": 4, "V": 2},
        "II": {"V": 6, "IV": 1},
        "III": {"vi": 6, "IV": 2},
        "VI": {"ii": 6, "IV": 1},
        "bVI": {"bVII": 3, "V": 2, "iv": 1},
        "viio": {"I": 4, "iii": 1},
    },
    "minor": {
        "i": {"iv": 4, "bVI": 4, "bVII": 3, "V": 2, "bIII": 2, "v": 1, "iio": 0.8},
        "iio": {"V": 6, "v": 1},
        "bIII": {"bVI": 3, "bVII": 3, "iv": 3},
        "iv": {"V": 4, "i": 3, "bVII": 2, "iio": 0.6, "bVI": 1},
        "v": {"i": 2, "bVI": 3, "iv": 2},
        "V": {"i": 6, "bVI": 2, "iv": 0.6},
        "bVI": {"bVII": 4, "iv": 2, "bIII": 3, "V": 2, "bII": 0.4},
        "bVII": {"bIII": 3, "i": 3, "bVI": 2, "iv": 1},
        "bII": {"V": 5},
    },
    "dorian": {
        "i": {"IV": 6, "bVII": 3, "ii": 2, "v": 2, "bIII": 2},
        "ii": {"v": 2, "IV": 2, "i": 1},
        "bIII": {"IV": 4, "bVII": 2},
        "IV": {"i": 4, "bVII": 2, "v": 1, "bIII": 1},
        "v": {"i": 3, "IV": 3},
        "bVII": {"IV": 3, "i": 3, "bIII": 1},
    },
    "mixolydian": {
        "I": {"bVII": 6, "IV": 3, "v": 2, "vi": 1.5, "ii": 1},
        "ii": {"bVII": 2, "IV": 2, "v": 1},
        "IV": {"I": 3, "bVII": 3, "v": 1},
        "v": {"IV": 2, "bVII": 2, "I": 2},
        "vi": {"bVII": 3, "IV": 3},
        "bVII": {"IV": 4, "I": 4, "v": 0.5},
    },
}

_CADENCES: dict[str, dict[str, list[tuple[str, ...]]]] = {
    "major": {
        "closed": [("IV", "V", "I"), ("ii", "V", "I"), ("V", "I"), ("vi", "V", "I"),
                   ("iv", "V", "I"), ("II", "V", "I")],
        "open": [("V",), ("IV", "V"), ("ii", "V"), ("II", "V"), ("V", "vi"), ("V", "IV"),
                 ("bVI", "bVII"), ("iv",)],
    },
    "minor": {
        "closed": [("iv", "V", "i"), ("iio", "V", "i"), ("V", "i"), ("bVI", "V", "i"),
                   ("bII", "V", "i"), ("bVI", "bVII", "i")],
        "open": [("V",), ("iv", "V"), ("bVII",), ("bVI", "bVII"), ("V", "bVI"), ("v",)],
    },
    "dorian": {
        "closed": [("bVII", "IV", "i"), ("IV", "v", "i"), ("bIII", "IV", "i"), ("v", "i"),
                   ("IV", "bVII", "i")],
        "open": [("IV",), ("bVII",), ("v",), ("bIII", "IV")],
    },
    "mixolydian": {
        "closed": [("bVII", "IV", "I"), ("IV", "bVII", "I"), ("v", "bVII", "I"), ("bVII", "I"),
                   ("v", "IV", "I")],
        "open": [("bVII",), ("IV",), ("v",), ("IV", "bVII")],
    },
}  # fmt: skip

_SEVENTHS: dict[str, str] = {"maj": "maj7", "min": "min7", "dim": "hdim7"}


@dataclass(frozen=True, slots=True)
class PhraseChord:
    """A chord within a phrase."""

    start: int
    """Steps from the phrase's start; negative where it comes before the beat."""
    degree: str
    quality: str
    bass: int

    def chord(self, key: Tonality) -> Chord:
        """The chord in a key."""
        return Chord(key, _DEGREES[self.degree][0], self.quality, self.bass)


def is_dominant(degree: str) -> bool:
    """Whether a chord leads to the tonic."""
    return degree in ("V", "viio")


def write_phrase(
    dice: Dice,
    mode: str,
    metre: Metre,
    style: Style,
    bars: int,
    bar_seconds: float,
    *,
    closed: bool,
    pushing: bool,
    reserved: bool,
) -> tuple[PhraseChord, ...]:
    """The chords of a phrase.

    Args:
        dice: of this phrase.
        mode: of its key.
        metre: of the song.
        style: says how often there are sevenths and inversions.
        bars: its length.
        bar_seconds: a bar at the nominal tempo.
        closed: whether it ends with a cadence to the tonic.
        pushing: whether some chords come an eighth before the beat.
        reserved: whether its progression is one of those for held-out songs.
    """
    starts = _rhythm(dice, metre, bars, bar_seconds)
    degrees = _progression(dice, mode, len(starts), closed)
    while is_reserved("progression", [mode, *degrees]) != reserved:
        degrees = _progression(dice, mode, len(starts), closed)
    slots = []
    previous = -STEPS_PER_BAR[metre]
    for i, (start, degree) in enumerate(zip(starts, degrees, strict=True)):
        quality = _quality(dice, mode, degree, style.sevenths)
        bass = _bass(dice, quality, style.inversions) if i + 1 < len(degrees) else 0
        early = 2 if pushing and dice.chance(0.25) and start - previous > 4 else 0
        previous = start - early
        slots.append(PhraseChord(previous, degree, quality, bass))
    return tuple(slots)


def _rhythm(dice: Dice, metre: Metre, bars: int, bar_seconds: float) -> list[int]:
    """Where chords begin, in steps: mostly with the bar, sometimes within it or every other bar."""
    steps = STEPS_PER_BAR[metre]
    middles = {"4/4": [8, 8, 8, 12, 4], "3/4": [8, 8, 4], "6/8": [6]}[metre]
    middle = dice.choice(middles)
    splitting = 0.75 if bar_seconds > 2.8 else 0.25 if bar_seconds > 1.7 else 0.08
    must_split = bar_seconds > _MAX_CHORD_SECONDS
    splits = [must_split or dice.chance(splitting) for _ in range(bars)]
    while bars + splits.count(True) < _MIN_CHORDS:
        splits[dice.choice([i for i, split in enumerate(splits) if not split])] = True
    joining = bar_seconds < 1.6 and bars >= 2 * _MIN_CHORDS and dice.chance(0.5)
    starts = []
    for bar in range(bars):
        if joining and bar % 2 and not splits[bar] and not splits[bar - 1]:
            continue
        starts.append(bar * steps)
        if splits[bar]:
            starts.append(bar * steps + middle)
    return starts


def _progression(dice: Dice, mode: str, length: int, closed: bool) -> tuple[str, ...]:
    """A walk through the grammar that ends with a cadence."""
    grammar, cadences = _GRAMMAR[mode], _CADENCES[mode]["closed" if closed else "open"]
    tonic = "I" if "I" in grammar else "i"
    while True:
        cadence = dice.choice(cadences)
        degrees = [tonic if dice.chance(0.3) else dice.choice(list(grammar))]
        if degrees[0] in ("II", "bII", "iio", "viio"):
            continue
        while len(degrees) < length - len(cadence):
            degrees.append(dice.weighted(grammar[degrees[-1]]))
        if degrees[-1] != cadence[0]:
            return (*degrees, *cadence)


def _quality(dice: Dice, mode: str, degree: str, sevenths: float) -> str:
    triad = _DEGREES[degree][1]
    if is_dominant(degree) or degree in ("II", "III", "VI"):
        if triad == "dim":
            return "dim7" if mode == "minor" and dice.chance(sevenths) else triad
        if dice.chance(0.3 + 0.7 * sevenths):
            return "7"
        return "sus4" if dice.chance(0.08) else triad
    if dice.chance(sevenths):
        if degree in ("bVII", "I") and (mode == "mixolydian" or dice.chance(0.2)):
            return "7"
        if triad != "dim" and dice.chance(0.12):
            return f"{triad}6"
        if degree == "i" and dice.chance(0.08):
            return "minmaj7"
        return _SEVENTHS[triad]
    if triad == "maj" and dice.chance(0.05):
        return dice.choice(["sus2", "sus4"])
    return triad


def _bass(dice: Dice, quality: str, inversions: float) -> int:
    """Semitones above the root: mostly none, else the third or fifth, or a seventh."""
    if quality in ("sus2", "sus4", "dim7") or not dice.chance(inversions):
        return 0
    third = 3 if quality.startswith(("min", "dim", "hdim")) else 4
    options = [third, third, third, 6 if "dim" in quality else 7]
    if quality in ("7", "maj7", "min7"):
        options.append(11 if quality == "maj7" else 10)
    return dice.choice(options)
