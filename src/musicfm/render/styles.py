"""Styles: which metres, tempi, grooves, harmonies and instruments go together."""

from dataclasses import dataclass, field
from typing import Literal

from musicfm.render.dice import Dice
from musicfm.render.splits import is_reserved_tempo

Metre = Literal["4/4", "3/4", "6/8"]
Comping = Literal["held", "strummed", "offbeat", "stabs", "broken", "boom-chick", "power"]
Bassline = Literal["held", "root-fifth", "eighths", "walking", "syncopated", "octaves"]
Groove = Literal["backbeat", "half-time", "four-on-the-floor", "swing", "funk", "latin", "train",
                 "one-drop", "double-time", "breakbeat", "toms"]  # fmt: skip
Range = tuple[float, float]

STEPS_PER_BAR: dict[Metre, int] = {"4/4": 16, "3/4": 12, "6/8": 12}
"""A step is a sixteenth note."""
STEPS_PER_BEAT: dict[Metre, int] = {"4/4": 4, "3/4": 4, "6/8": 6}

METRE_WEIGHTS: dict[Metre, float] = {"4/4": 0.82, "3/4": 0.09, "6/8": 0.09}
TEMPI: dict[Metre, Range] = {"4/4": (54, 220), "3/4": (66, 210), "6/8": (40, 112)}
"""Beats per minute, drawn evenly over their logarithm; in 6/8 a beat is a dotted quarter."""


@dataclass(frozen=True)
class Style:
    """What songs of a style have in common. Weights need not add up to 1."""

    metres: dict[Metre, float]
    """How likely a song in this metre is in this style, relative to other styles."""
    tempi: dict[Metre, Range]
    """Beats per minute that the style bears."""
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
    """Probability of a song with chords that come before the beat."""
    swing: float = 0.0
    swings: Literal["eighths", "sixteenths"] = "eighths"
    density: Range = (0.35, 0.6)
    """Range of the density of melody notes, in onsets an eighth."""
    power: float = 0.0
    """Probability of power chords on a distorted guitar; likewise the next ones."""
    drive: float = 0.0
    """Probability of an amplifier's distortion on other instruments than distorted guitars."""
    alone: bool = False
    """Whether one instrument plays everything."""


STYLES: dict[str, Style] = {
    "pop": Style(
        metres={"4/4": 9, "3/4": 2, "6/8": 2},
        tempi={"4/4": (70, 160), "3/4": (70, 170), "6/8": (44, 90)},
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
        tempi={"4/4": (70, 208), "3/4": (80, 200), "6/8": (44, 104)},
        comping={"strummed": 5, "stabs": 2},
        bass={"eighths": 5, "syncopated": 2},
        chords_on={"distorted guitar": 5, "electric guitar": 3, "organ": 1},
        bass_on={"electric bass": 1},
        lead_on={"distorted guitar": 3, "choir": 3, "electric guitar": 2, "organ": 1},
        pad_on={"organ": 3, "choir": 1, "strings": 1},
        grooves={"backbeat": 4, "half-time": 0.5, "double-time": 0.5},
        pad=0.3,
        sevenths=0.07,
        inversions=0.08,
        power=0.4,
        drive=0.2,
    ),
    "ballad": Style(
        metres={"4/4": 4, "3/4": 3, "6/8": 4},
        tempi={"4/4": (54, 92), "3/4": (66, 104), "6/8": (40, 66)},
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
        tempi={"4/4": (66, 190), "3/4": (76, 190), "6/8": (44, 112)},
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
        metres={"4/4": 7, "3/4": 5},
        tempi={"4/4": (66, 220), "3/4": (76, 210)},
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
        metres={"4/4": 8},
        tempi={"4/4": (78, 130)},
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
        tempi={"4/4": (96, 184), "3/4": (100, 180), "6/8": (60, 104)},
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
        metres={"4/4": 8, "6/8": 4},
        tempi={"4/4": (80, 200), "6/8": (54, 104)},
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
        tempi={"4/4": (54, 190), "3/4": (66, 210), "6/8": (40, 112)},
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
        tempi={"4/4": (54, 110), "3/4": (66, 110), "6/8": (40, 70)},
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
        tempi={"4/4": (56, 120), "3/4": (66, 120), "6/8": (40, 76)},
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
        tempi={"4/4": (76, 210), "3/4": (80, 190), "6/8": (48, 96)},
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
        metres={"4/4": 8},
        tempi={"4/4": (58, 108)},
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
    "metal": Style(
        metres={"4/4": 7, "3/4": 1.5, "6/8": 2},
        tempi={"4/4": (80, 220), "3/4": (90, 210), "6/8": (50, 112)},
        comping={"strummed": 3, "stabs": 2},
        bass={"eighths": 5, "syncopated": 1},
        chords_on={"distorted guitar": 1},
        bass_on={"electric bass": 1},
        lead_on={"distorted guitar": 5, "choir": 2, "strings": 1, "synth lead": 1},
        pad_on={"strings": 2, "choir": 2, "organ": 1},
        grooves={"backbeat": 4, "double-time": 3},
        drumless=0.02,
        pad=0.25,
        arpeggio=0.1,
        sevenths=0.03,
        inversions=0.03,
        power=0.85,
        drive=0.3,
        density=(0.35, 0.7),
    ),
    "punk": Style(
        metres={"4/4": 6, "3/4": 0.3},
        tempi={"4/4": (140, 220), "3/4": (150, 210)},
        comping={"strummed": 1},
        bass={"eighths": 5},
        chords_on={"distorted guitar": 6, "electric guitar": 1},
        bass_on={"electric bass": 1},
        lead_on={"choir": 4, "distorted guitar": 3, "saxophone": 0.5},
        pad_on={"organ": 1},
        grooves={"backbeat": 3, "double-time": 2},
        drumless=0.01,
        pad=0.1,
        arpeggio=0.05,
        sevenths=0.03,
        inversions=0.03,
        power=0.7,
        drive=0.5,
    ),
    "drum and bass": Style(
        metres={"4/4": 8},
        tempi={"4/4": (156, 184)},
        comping={"held": 4, "stabs": 2, "offbeat": 1},
        bass={"syncopated": 4, "held": 2, "eighths": 1},
        chords_on={"synth pad": 4, "electric piano": 2, "piano": 2},
        bass_on={"synth bass": 1},
        lead_on={"synth lead": 4, "choir": 2, "mallets": 1},
        pad_on={"synth pad": 3, "strings": 2, "choir": 1},
        grooves={"breakbeat": 1},
        kits={"electronic": 1, "acoustic": 1},
        drumless=0.0,
        pad=0.7,
        sevenths=0.5,
        drive=0.3,
    ),
    "house": Style(
        metres={"4/4": 6},
        tempi={"4/4": (112, 152)},
        comping={"offbeat": 4, "stabs": 4, "held": 1},
        bass={"octaves": 3, "syncopated": 3, "eighths": 2},
        chords_on={"piano": 3, "organ": 2, "synth pad": 3, "synth lead": 1},
        bass_on={"synth bass": 1},
        lead_on={"synth lead": 4, "choir": 2, "saxophone": 1},
        pad_on={"synth pad": 3, "strings": 2},
        grooves={"four-on-the-floor": 1},
        kits={"electronic": 1},
        drumless=0.0,
        pad=0.6,
        arpeggio=0.5,
        sevenths=0.5,
        drive=0.2,
    ),
    "trap": Style(
        metres={"4/4": 5},
        tempi={"4/4": (60, 92)},
        comping={"held": 3, "broken": 2, "stabs": 1},
        bass={"syncopated": 3, "held": 2},
        chords_on={"synth pad": 3, "piano": 2, "mallets": 2, "electric piano": 1},
        bass_on={"synth bass": 1},
        lead_on={"synth lead": 3, "choir": 2, "woodwind": 1, "mallets": 2},
        pad_on={"synth pad": 3, "strings": 2, "choir": 1},
        grooves={"backbeat": 1, "funk": 1},
        kits={"electronic": 1},
        drumless=0.0,
        sevenths=0.3,
        drive=0.4,
    ),
    "ska": Style(
        metres={"4/4": 4},
        tempi={"4/4": (108, 210)},
        comping={"offbeat": 1},
        bass={"walking": 3, "eighths": 1, "root-fifth": 1},
        chords_on={"electric guitar": 3, "organ": 2, "piano": 1},
        bass_on={"electric bass": 1},
        lead_on={"brass": 4, "saxophone": 3, "choir": 2},
        pad_on={"organ": 2, "brass": 1},
        grooves={"backbeat": 2, "one-drop": 1},
        drumless=0.02,
        pad=0.2,
        sevenths=0.2,
    ),
    "chiptune": Style(
        metres={"4/4": 7, "3/4": 1, "6/8": 1},
        tempi={"4/4": (84, 220), "3/4": (90, 210), "6/8": (50, 112)},
        comping={"broken": 5, "stabs": 2, "offbeat": 1},
        bass={"eighths": 3, "octaves": 4, "root-fifth": 2},
        chords_on={"synth lead": 1},
        bass_on={"synth bass": 2},
        lead_on={"synth lead": 1},
        pad_on={"synth lead": 1, "synth pad": 1},
        grooves={"backbeat": 2, "four-on-the-floor": 1, "train": 1},
        kits={"electronic": 1},
        drumless=0.15,
        pad=0.1,
        arpeggio=0.7,
        density=(0.4, 0.75),
    ),
    "orchestral": Style(
        metres={"4/4": 7, "3/4": 5, "6/8": 4},
        tempi={"4/4": (54, 190), "3/4": (66, 200), "6/8": (40, 112)},
        comping={"held": 3, "strummed": 2, "broken": 2, "stabs": 2},
        bass={"held": 3, "root-fifth": 1, "eighths": 3, "octaves": 1},
        chords_on={"strings": 5, "brass": 2, "choir": 1},
        bass_on={"low strings": 1},
        lead_on={"brass": 4, "woodwind": 3, "strings": 3, "choir": 1, "solo strings": 1},
        pad_on={"choir": 3, "strings": 2, "brass": 2},
        grooves={"toms": 3, "train": 2},
        drumless=0.4,
        pad=0.7,
        arpeggio=0.2,
        sevenths=0.1,
        inversions=0.25,
        pushes=0.05,
    ),
    "quartet": Style(
        metres={"4/4": 2, "3/4": 2, "6/8": 1},
        tempi={"4/4": (54, 180), "3/4": (66, 190), "6/8": (40, 104)},
        comping={"held": 2, "broken": 3, "offbeat": 1, "strummed": 1},
        bass={"held": 3, "root-fifth": 2, "walking": 1},
        chords_on={"solo strings": 1},
        bass_on={"low strings": 1},
        lead_on={"solo strings": 1},
        pad_on={"solo strings": 1},
        drumless=1.0,
        pad=0.1,
        arpeggio=0.0,
        inversions=0.35,
        pushes=0.0,
        density=(0.35, 0.7),
    ),
    "solo piano": Style(
        metres={"4/4": 4, "3/4": 3, "6/8": 2},
        tempi={"4/4": (54, 200), "3/4": (66, 200), "6/8": (40, 104)},
        comping={"broken": 4, "boom-chick": 2, "strummed": 2, "stabs": 1},
        bass={"held": 2, "root-fifth": 3, "octaves": 3, "walking": 1},
        chords_on={"piano": 1},
        bass_on={"piano": 1},
        lead_on={"piano": 1},
        pad_on={"piano": 1},
        drumless=1.0,
        pad=0.0,
        arpeggio=0.0,
        sevenths=0.3,
        inversions=0.25,
        swing=0.15,
        density=(0.35, 0.7),
        alone=True,
    ),
    "vocal": Style(
        metres={"4/4": 2, "3/4": 1, "6/8": 0.5},
        tempi={"4/4": (54, 120), "3/4": (66, 120), "6/8": (40, 70)},
        comping={"held": 2, "strummed": 2, "broken": 1},
        bass={"held": 2, "root-fifth": 1},
        chords_on={"choir": 1},
        bass_on={"choir": 1},
        lead_on={"choir": 1},
        pad_on={"choir": 1},
        drumless=0.9,
        pad=0.0,
        arpeggio=0.0,
        inversions=0.3,
        pushes=0.0,
    ),
}


def choose_metre_style_and_tempo(
    dice: Dice, reserved: bool, metre: Metre | None = None
) -> tuple[Metre, str, float]:
    """Draws metre and tempo, then one of the styles that go with both.

    Args:
        dice: of the style.
        reserved: whether the tempo is one of those for held-out songs.
        metre: this one; None: any.
    """
    drawn: Metre = dice.weighted(METRE_WEIGHTS) if metre is None else metre
    low, high = TEMPI[drawn]
    while True:
        tempo = dice.uniform(low, high)
        # So that tempi are even over their logarithm.
        if dice.chance(low / tempo) and is_reserved_tempo(tempo) == reserved:
            break
    weights = {
        name: style.metres[drawn]
        for name, style in STYLES.items()
        if drawn in style.metres and style.tempi[drawn][0] <= tempo <= style.tempi[drawn][1]
    }
    return drawn, dice.weighted(weights), tempo
