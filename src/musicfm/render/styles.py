"""Styles: which metres, tempi, grooves, harmonies and instruments go together."""

from dataclasses import dataclass, field
from typing import Literal

from musicfm.render.dice import Dice
from musicfm.render.splits import is_reserved_tempo

Metre = Literal["4/4", "3/4", "6/8"]
Comping = Literal["held", "strummed", "offbeat", "stabs", "broken", "boom-chick"]
Bassline = Literal["held", "root-fifth", "eighths", "walking", "syncopated", "octaves"]
Groove = Literal["backbeat", "half-time", "four-on-the-floor", "swing", "funk", "latin", "train",
                 "one-drop"]  # fmt: skip
Range = tuple[float, float]

STEPS_PER_BAR: dict[Metre, int] = {"4/4": 16, "3/4": 12, "6/8": 12}
"""A step is a sixteenth note."""
STEPS_PER_BEAT: dict[Metre, int] = {"4/4": 4, "3/4": 4, "6/8": 6}

METRE_WEIGHTS: dict[Metre, float] = {"4/4": 0.64, "3/4": 0.18, "6/8": 0.18}


@dataclass(frozen=True)
class Style:
    """What songs of a style have in common. Weights need not add up to 1."""

    metres: dict[Metre, float]
    """How likely a song in this metre is in this style, relative to other styles."""
    tempi: dict[Metre, Range]
    """Beats per minute; in 6/8 a beat is a dotted quarter."""
    comping: dict[Comping, float]
    bass: dict[Bassline, float]
    chords_on: dict[str, float]
    """Families of instruments that play the chords; likewise the next ones."""
    bass_on: dict[str, float]
    lead_on: dict[str, float]
    pad_on: dict[str, float]
    grooves: dict[Groove, float] = field(default_factory=lambda: {"backbeat": 1.0})
    kits: dict[str, float] = field(default_factory=lambda: {"acoustic": 1.0})
    drumless: float = 0.05
    """Probability of a song without drums; likewise the next ones."""
    pad: float = 0.4
    arpeggio: float = 0.3
    sevenths: float = 0.2
    inversions: float = 0.15
    pushes: float = 0.3
    """Of a song with chords that come before the beat."""
    swing: float = 0.0
    swings: Literal["eighths", "sixteenths"] = "eighths"
    density: Range = (0.35, 0.6)
    """Of melody notes, in onsets an eighth."""


STYLES: dict[str, Style] = {
    "pop": Style(
        metres={"4/4": 9, "3/4": 2, "6/8": 2},
        tempi={"4/4": (84, 130), "3/4": (84, 130), "6/8": (48, 76)},
        comping={"strummed": 3, "stabs": 2, "held": 1, "broken": 2},
        bass={"eighths": 3, "syncopated": 3, "root-fifth": 1},
        chords_on={"piano": 3, "electric guitar": 3, "acoustic guitar": 2, "synth pad": 1},
        bass_on={"electric bass": 3, "synth bass": 2},
        lead_on={"choir": 4, "synth lead": 3, "saxophone": 1, "piano": 1, "woodwind": 1},
        pad_on={"strings": 3, "synth pad": 3, "choir": 1, "organ": 1},
        grooves={"backbeat": 3, "four-on-the-floor": 1},
        kits={"acoustic": 2, "electronic": 1},
        pad=0.6,
    ),
    "rock": Style(
        metres={"4/4": 9, "3/4": 2, "6/8": 3.5},
        tempi={"4/4": (92, 164), "3/4": (96, 160), "6/8": (48, 82)},
        comping={"strummed": 5, "stabs": 2},
        bass={"eighths": 5, "syncopated": 2},
        chords_on={"distorted guitar": 5, "electric guitar": 3, "organ": 1},
        bass_on={"electric bass": 1},
        lead_on={"distorted guitar": 3, "choir": 3, "electric guitar": 2, "organ": 1},
        pad_on={"organ": 3, "choir": 1, "strings": 1},
        grooves={"backbeat": 4, "half-time": 1},
        pad=0.3,
        sevenths=0.07,
        inversions=0.08,
    ),
    "ballad": Style(
        metres={"4/4": 4, "3/4": 3, "6/8": 4},
        tempi={"4/4": (58, 84), "3/4": (64, 96), "6/8": (44, 60)},
        comping={"broken": 5, "held": 2, "strummed": 1},
        bass={"held": 3, "root-fifth": 2},
        chords_on={"piano": 5, "electric piano": 3, "acoustic guitar": 2},
        bass_on={"electric bass": 2, "acoustic bass": 1},
        lead_on={"choir": 4, "woodwind": 2, "solo strings": 2, "saxophone": 2},
        pad_on={"strings": 4, "synth pad": 2},
        grooves={"backbeat": 2, "half-time": 1},
        drumless=0.3,
        pad=0.7,
        sevenths=0.25,
        inversions=0.3,
        density=(0.25, 0.45),
    ),
    "folk": Style(
        metres={"4/4": 4, "3/4": 5, "6/8": 5},
        tempi={"4/4": (80, 130), "3/4": (92, 150), "6/8": (48, 84)},
        comping={"broken": 3, "strummed": 3, "boom-chick": 3},
        bass={"root-fifth": 4, "held": 2},
        chords_on={"acoustic guitar": 5, "accordion": 2, "plucked folk": 2},
        bass_on={"acoustic bass": 1},
        lead_on={"woodwind": 4, "solo strings": 4, "accordion": 3, "plucked folk": 2, "choir": 1},
        pad_on={"strings": 1, "accordion": 2},
        grooves={"train": 1, "backbeat": 1},
        drumless=0.5,
        pad=0.25,
        sevenths=0.08,
        pushes=0.1,
        density=(0.4, 0.7),
    ),
    "jazz": Style(
        metres={"4/4": 7, "3/4": 5, "6/8": 0},
        tempi={"4/4": (92, 200), "3/4": (100, 190), "6/8": (48, 84)},
        comping={"stabs": 4, "held": 1, "offbeat": 1},
        bass={"walking": 5, "root-fifth": 1},
        chords_on={"piano": 4, "electric guitar": 2, "mallets": 2, "electric piano": 1},
        bass_on={"acoustic bass": 1},
        lead_on={"saxophone": 5, "brass": 4, "mallets": 2, "woodwind": 1, "piano": 1},
        pad_on={"brass": 2, "organ": 1, "strings": 1},
        grooves={"swing": 1},
        kits={"jazz": 1},
        drumless=0.12,
        pad=0.2,
        arpeggio=0.05,
        sevenths=0.85,
        inversions=0.08,
        pushes=0.6,
        swing=0.9,
        density=(0.4, 0.75),
    ),
    "funk": Style(
        metres={"4/4": 8, "3/4": 0, "6/8": 0},
        tempi={"4/4": (86, 120), "3/4": (90, 120), "6/8": (48, 84)},
        comping={"stabs": 4, "offbeat": 2},
        bass={"syncopated": 5, "octaves": 2},
        chords_on={"clavinet": 5, "electric guitar": 3, "electric piano": 3, "organ": 1},
        bass_on={"electric bass": 4, "synth bass": 1},
        lead_on={"brass": 4, "saxophone": 4, "synth lead": 1, "choir": 1},
        pad_on={"organ": 2, "brass": 2, "strings": 2},
        grooves={"funk": 1},
        pad=0.3,
        sevenths=0.7,
        pushes=0.5,
        swing=0.4,
        swings="sixteenths",
        density=(0.35, 0.65),
    ),
    "electronic": Style(
        metres={"4/4": 9, "3/4": 0.7, "6/8": 0.5},
        tempi={"4/4": (108, 146), "3/4": (108, 146), "6/8": (60, 84)},
        comping={"stabs": 3, "held": 2, "offbeat": 3, "broken": 1},
        bass={"eighths": 3, "octaves": 3, "syncopated": 3},
        chords_on={"synth pad": 4, "synth lead": 3, "piano": 1, "electric piano": 1},
        bass_on={"synth bass": 1},
        lead_on={"synth lead": 5, "choir": 1, "mallets": 1},
        pad_on={"synth pad": 4, "strings": 1, "choir": 1},
        grooves={"four-on-the-floor": 4, "funk": 1},
        kits={"electronic": 1},
        drumless=0.02,
        pad=0.7,
        arpeggio=0.7,
        density=(0.35, 0.7),
    ),
    "latin": Style(
        metres={"4/4": 8, "3/4": 0, "6/8": 4},
        tempi={"4/4": (88, 136), "3/4": (90, 120), "6/8": (56, 84)},
        comping={"stabs": 4, "broken": 2, "offbeat": 2},
        bass={"syncopated": 3, "root-fifth": 4},
        chords_on={"piano": 4, "acoustic guitar": 4, "electric piano": 1},
        bass_on={"acoustic bass": 2, "electric bass": 2},
        lead_on={"brass": 4, "woodwind": 3, "saxophone": 2, "accordion": 2, "choir": 1},
        pad_on={"brass": 2, "strings": 2},
        grooves={"latin": 1},
        pad=0.3,
        sevenths=0.35,
        pushes=0.6,
        density=(0.4, 0.7),
    ),
    "classical": Style(
        metres={"4/4": 4, "3/4": 6, "6/8": 5},
        tempi={"4/4": (60, 132), "3/4": (66, 150), "6/8": (44, 80)},
        comping={"broken": 5, "boom-chick": 2, "held": 2},
        bass={"held": 3, "root-fifth": 2, "octaves": 1},
        chords_on={"piano": 4, "strings": 4, "plucked folk": 1, "organ": 1},
        bass_on={"acoustic bass": 1},
        lead_on={"solo strings": 4, "woodwind": 4, "strings": 2, "piano": 2, "brass": 1},
        pad_on={"strings": 3, "woodwind": 2, "brass": 1},
        drumless=1.0,
        pad=0.4,
        sevenths=0.15,
        inversions=0.4,
        pushes=0.0,
        density=(0.4, 0.75),
    ),
    "ambient": Style(
        metres={"4/4": 5, "3/4": 3, "6/8": 3},
        tempi={"4/4": (56, 96), "3/4": (60, 96), "6/8": (44, 62)},
        comping={"broken": 5, "held": 2},
        bass={"held": 4, "octaves": 1},
        chords_on={"synth pad": 4, "piano": 2, "mallets": 2, "electric piano": 2},
        bass_on={"synth bass": 2, "acoustic bass": 1},
        lead_on={"synth lead": 2, "choir": 2, "mallets": 2, "woodwind": 2, "piano": 1},
        pad_on={"synth pad": 4, "choir": 3, "strings": 1},
        grooves={"half-time": 1},
        kits={"electronic": 1},
        drumless=0.6,
        pad=0.9,
        arpeggio=0.9,
        sevenths=0.4,
        pushes=0.05,
        density=(0.15, 0.35),
    ),
    "soul": Style(
        metres={"4/4": 5, "3/4": 2, "6/8": 4},
        tempi={"4/4": (66, 112), "3/4": (72, 110), "6/8": (44, 68)},
        comping={"held": 2, "stabs": 3, "strummed": 1, "offbeat": 1},
        bass={"syncopated": 4, "root-fifth": 2},
        chords_on={
            "electric piano": 4,
            "organ": 4,
            "piano": 2,
            "electric guitar": 2,
            "clavinet": 3,
        },
        bass_on={"electric bass": 1},
        lead_on={"choir": 4, "saxophone": 3, "brass": 2, "organ": 1},
        pad_on={"brass": 2, "strings": 3, "organ": 2, "choir": 1},
        pad=0.5,
        sevenths=0.6,
        inversions=0.2,
        pushes=0.5,
        swing=0.4,
        swings="sixteenths",
    ),
    "country": Style(
        metres={"4/4": 6, "3/4": 4, "6/8": 0.5},
        tempi={"4/4": (90, 150), "3/4": (84, 144), "6/8": (48, 76)},
        comping={"boom-chick": 5, "strummed": 2},
        bass={"root-fifth": 5, "walking": 1},
        chords_on={"acoustic guitar": 5, "electric guitar": 2, "piano": 1},
        bass_on={"acoustic bass": 2, "electric bass": 2},
        lead_on={"solo strings": 4, "plucked folk": 3, "electric guitar": 3, "accordion": 2},
        pad_on={"organ": 1, "strings": 1, "accordion": 1},
        grooves={"train": 3, "backbeat": 1},
        drumless=0.12,
        pad=0.2,
        sevenths=0.08,
        swing=0.3,
        density=(0.4, 0.65),
    ),
    "reggae": Style(
        metres={"4/4": 8, "3/4": 0, "6/8": 0},
        tempi={"4/4": (66, 98), "3/4": (66, 98), "6/8": (48, 84)},
        comping={"offbeat": 1},
        bass={"syncopated": 4, "root-fifth": 1},
        chords_on={"electric guitar": 3, "organ": 3, "piano": 2, "clavinet": 3},
        bass_on={"electric bass": 1},
        lead_on={"brass": 3, "accordion": 2, "choir": 3, "saxophone": 2, "mallets": 1},
        pad_on={"organ": 3, "brass": 1},
        grooves={"one-drop": 1},
        pad=0.4,
        sevenths=0.2,
        inversions=0.08,
        pushes=0.4,
        swing=0.3,
        swings="sixteenths",
    ),
}


def choose_metre_and_style(dice: Dice) -> tuple[Metre, str]:
    """The metre first, so that its share does not depend on the styles'."""
    metre = dice.weighted(METRE_WEIGHTS)
    return metre, dice.weighted({name: style.metres[metre] for name, style in STYLES.items()})


def choose_tempo(dice: Dice, style: Style, metre: Metre, reserved: bool) -> float:
    """Beats per minute, within or outside the reserved bands."""
    while True:
        tempo = dice.uniform(*style.tempi[metre])
        if is_reserved_tempo(tempo) == reserved:
            return tempo
