"""Drum patterns of a bar, fills, and percussion, as keys of General MIDI."""

from musicfm.render.accompaniment import Grid
from musicfm.render.dice import Dice
from musicfm.render.score import ScoreNote
from musicfm.render.styles import Groove

KICK, STICK, SNARE, CLAP, HAT, PEDAL, OPEN, CRASH, RIDE = 36, 37, 38, 39, 42, 44, 46, 49, 51
TOMS = (50, 48, 47, 45, 43)
TAMBOURINE, HIGH_CONGA, LOW_CONGA, SHAKER, CLAVES = 54, 62, 64, 70, 75
PERCUSSION = frozenset({TAMBOURINE, HIGH_CONGA, LOW_CONGA, SHAKER, CLAVES})

_LENGTH = 1  # steps; drums ring as long as they ring

Hit = tuple[int, int, float]
"""Step, key, accent."""


def drum_pattern(
    dice: Dice, groove: Groove, grid: Grid, *, syncopated: bool, percussion: bool
) -> list[list[Hit]]:
    """Draws the pattern of a section: two bars that alternate.

    Args:
        dice: of the section.
        groove: its kind.
        grid: of the metre.
        syncopated: whether kicks may avoid the first beat.
        percussion: whether hands play along.
    """
    cymbals = [*_cymbals(dice, groove, grid), *(_percussion(dice, grid) if percussion else [])]
    snares = _snares(dice, groove, grid)
    kicks = [_kicks(dice, groove, grid, syncopated) for _ in range(2)]
    return [sorted([*cymbals, *snares, *kick]) for kick in kicks]


def write_drums(pattern: list[list[Hit]], bars: int, grid: Grid) -> list[ScoreNote]:
    """The pattern over some bars, in steps from their start."""
    return [
        ScoreNote(start := bar * grid.steps_per_bar + step, start + _LENGTH, key, accent)
        for bar in range(bars)
        for step, key, accent in pattern[bar % 2]
    ]


def with_fill(dice: Dice, notes: list[ScoreNote], end: int, grid: Grid) -> list[ScoreNote]:
    """Replaces the last beat or two before a step by a fill."""
    start = end - grid.steps_per_beat * dice.integer(1, 2)
    every = 1 if grid.step_seconds > 0.09 else 2
    drums = dice.choice([(SNARE, *TOMS), (SNARE, SNARE, TOMS[0]), TOMS])
    fill = []
    for step in range(start, end, every):
        if step == start or dice.chance(0.8):
            key = drums[(step - start) * len(drums) // (end - start)]
            fill.append(ScoreNote(step, step + _LENGTH, key, dice.uniform(0.8, 1.1)))
    kept = [note for note in notes if note.start < start or note.pitch == KICK]
    return [*kept, *fill]


def crash(step: int) -> ScoreNote:
    """A crash cymbal."""
    return ScoreNote(step, step + 4, CRASH, 1.0)


def _cymbals(dice: Dice, groove: Groove, grid: Grid) -> list[Hit]:
    bar, beat = grid.steps_per_bar, grid.steps_per_beat
    if groove == "swing":
        skips = [step + beat // 2 for step in grid.starts(beat)[1::2] if dice.chance(0.85)]
        ride = [(step, RIDE, 0.9) for step in sorted([*grid.starts(beat), *skips])]
        return [*ride, *((step, PEDAL, 0.7) for step in grid.starts(beat)[1::2])]
    key = dice.weighted({HAT: 5, RIDE: 1.5, TAMBOURINE: 0.5})
    if groove == "toms":
        return [
            (step, TOMS[-1 - int(dice.unit() * 3)], 1.0 if step % beat == 0 else 0.7)
            for step in grid.starts(grid.eighth)
            if step % beat == 0 or dice.chance(0.6)
        ]
    if groove == "four-on-the-floor" and beat == 4:
        offbeats = [(step + 2, OPEN, 0.8) for step in grid.starts(4)]
        return [*offbeats, *((step, HAT, 0.55) for step in grid.starts(2) if step % 4 == 0)]
    every = 1 if groove == "funk" and grid.step_seconds > 0.1 else grid.eighth
    if every == 2 and grid.step_seconds > 0.16 and dice.chance(0.35):
        every = 1
    elif dice.chance(0.15):
        every = beat
    hits = [(step, key, 0.8 if step % beat == 0 else 0.6) for step in grid.starts(every)]
    if key == HAT and dice.chance(0.3):
        opened = bar - 2
        hits = [(step, OPEN if step == opened else key, accent) for step, key, accent in hits]
    return hits


def _snares(dice: Dice, groove: Groove, grid: Grid) -> list[Hit]:
    bar, beat = grid.steps_per_bar, grid.steps_per_beat
    if beat == 6:
        steps = [6]
    elif bar == 12:
        steps = dice.choice([[8], [4, 8], [8]])
    else:
        steps = [8] if groove in ("half-time", "one-drop") else [4, 12]
    if groove == "double-time" and beat == 4:
        steps = [step + 2 for step in grid.starts(beat)]
    if groove == "swing":
        return [(step + beat // 2, SNARE, 0.45) for step in grid.starts(beat) if dice.chance(0.25)]
    if groove == "train":
        return [(step, SNARE, 0.9 if step in steps else 0.4) for step in grid.starts(grid.eighth)]
    key = STICK if groove in ("one-drop", "latin") else SNARE
    if groove == "four-on-the-floor" and dice.chance(0.5):
        key = CLAP
    ghosts = []
    if groove in ("funk", "breakbeat"):
        ghosts = [(s, SNARE, 0.35) for s in (3, 7, 9, 11, 15) if s < bar and dice.chance(0.3)]
    return [*((step, key, 1.0) for step in steps), *ghosts]


def _kicks(dice: Dice, groove: Groove, grid: Grid, syncopated: bool) -> list[Hit]:
    bar, beat = grid.steps_per_bar, grid.steps_per_beat
    match groove:
        case "four-on-the-floor" | "double-time" | "toms":
            steps = grid.starts(beat)
        case "one-drop":
            steps = [8] if bar == 16 else [bar // 2]
        case "swing":
            steps = [step for step in grid.starts(beat) if dice.chance(0.4)]
        case "latin":
            steps = [0, 6, 8, 14] if bar == 16 else [0, 4, 8] if beat == 4 else [0, 4, 6, 10]
        case "breakbeat":
            steps = [0, dice.choice([10, 10, 6])]
        case "train":
            steps = [0, 8] if bar == 16 else [0] if beat == 4 else [0, 6]
        case _:
            offbeats = [s for s in range(2, bar, 1 if syncopated else 2) if s % beat]
            steps = [0, *(s for s in offbeats if dice.chance(0.3 if s % 2 == 0 else 0.12))]
            if groove != "half-time" and bar == 16 and dice.chance(0.5):
                steps.append(8)
    if syncopated and dice.chance(0.5):
        steps = [step for step in steps if step] or [bar - 2]
    return [(step, KICK, 1.0 if step == 0 else 0.9) for step in sorted(set(steps))]


def _percussion(dice: Dice, grid: Grid) -> list[Hit]:
    match dice.choice(["shaker", "congas", "tambourine", "claves"]):
        case "shaker":
            return [
                (step, SHAKER, 0.8 if step % grid.steps_per_beat == 0 else 0.55)
                for step in grid.starts(grid.eighth)
            ]
        case "congas":
            return [
                (step, dice.choice([HIGH_CONGA, LOW_CONGA]), dice.uniform(0.6, 0.95))
                for step in grid.starts(grid.eighth)
                if dice.chance(0.7)
            ]
        case "tambourine":
            return [(step, TAMBOURINE, 0.7) for step in grid.starts(grid.steps_per_beat)]
        case _:
            steps = [0, 6, 12] if grid.steps_per_bar == 16 else [0, 4, 10]
            return [(step, CLAVES, 0.9) for step in steps]
