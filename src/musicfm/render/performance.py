"""Playing a score: in time and out of it, loud and soft, on instruments of limited range."""

from musicfm.render.arrangement import Instrument
from musicfm.render.clock import Clock
from musicfm.render.dice import Dice
from musicfm.render.instruments import FAMILIES
from musicfm.render.plan import Plan
from musicfm.render.score import BASS_TOP, ScoreNote
from musicfm.render.song import Note, Part

_VELOCITIES: dict[str, float] = {
    "drums": 100, "bass": 98, "chords": 82, "pad": 70, "arpeggio": 76, "lead": 104, "solo": 104,
}  # fmt: skip
_GATES: dict[str, float] = {
    "drums": 1.0, "bass": 0.93, "chords": 0.95, "pad": 0.99, "arpeggio": 1.0, "lead": 0.93,
    "solo": 0.93,
}  # fmt: skip
"""Part of its length that a note is held."""

_EARLIEST, _SHORTEST, _DRUM_SECONDS = 0.02, 0.05, 0.12  # seconds


def make_clock(plan: Plan) -> Clock:
    grid = plan.grid
    pickup = plan.pickup_beats * grid.steps_per_beat * grid.step_seconds
    pauses = {
        section.first_bar: section.silence_before
        for section in plan.sections
        if section.silence_before
    }
    return Clock(
        plan.dice.child("clock"),
        plan.feel,
        grid.steps_per_bar,
        grid.steps_per_beat,
        plan.num_bars,
        plan.lead_in + 1.05 * pickup,
        pauses,
    )


def perform(
    dice: Dice,
    plan: Plan,
    role: str,
    instrument: Instrument,
    notes: list[ScoreNote],
    clock: Clock,
) -> Part:
    """Plays a role: adds what no player can help, and fits it to the instrument."""
    loose = dice.uniform(0.001, 0.010)
    late = dice.triangular(0.005)
    loudness = _loudness(plan, role)
    gate, drums = _GATES[role], role == "drums"
    shift = 0 if role in ("drums", "bass") else _octave(instrument.family, role, notes)
    steps_per_bar = plan.grid.steps_per_bar
    played = []
    triangular, starts, ends = dice.triangular, clock.start, clock.end
    for start, end, pitch, accent in notes:
        begin = starts(start)
        onset = begin + late + triangular(loose)
        if onset < _EARLIEST:
            onset = _EARLIEST
        held = _DRUM_SECONDS if drums else (ends(end) - begin) * gate
        if held < _SHORTEST:
            held = _SHORTEST
        level = loudness[start // steps_per_bar if start > 0 else 0] * accent + triangular(8.0)
        velocity = 127 if level > 127 else 8 if level < 8 else int(level)
        played.append(Note(onset, onset + held, pitch + shift, velocity))
    played.sort(key=lambda note: (note.start, note.pitch))
    return Part(
        role,
        instrument.program,
        drums,
        tuple(played),
        instrument.gain_db,
        instrument.pan,
        instrument.reverb_db,
        instrument.levelled,
        instrument.drive_db,
    )


def _loudness(plan: Plan, role: str) -> list[float]:
    """Velocity of an unaccented note in each bar."""
    base = _VELOCITIES[role]
    levels = []
    for section, scene in zip(plan.sections, plan.scenes, strict=True):
        levels += [base * (0.62 + 0.45 * scene.energy)] * section.bars
    if plan.fade_out and not plan.final_chord:
        fading = min(8, len(levels))
        for i in range(fading):
            levels[-1 - i] *= 0.3 + 0.7 * i / fading
    return [*levels, levels[-1], levels[-1]]


def _octave(family: str, role: str, notes: list[ScoreNote]) -> int:
    """How far to move a part so that it lies within its instrument, in semitones."""
    lowest, highest = min(note.pitch for note in notes), max(note.pitch for note in notes)
    instrument = FAMILIES[family]
    if role not in ("lead", "solo", "arpeggio"):
        return 0
    shift = 0
    while highest + shift > instrument.high and lowest + shift - 12 > BASS_TOP + 2:
        shift -= 12
    while lowest + shift < instrument.low and highest + shift + 12 <= instrument.high:
        shift += 12
    return shift
