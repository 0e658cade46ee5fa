"""Melodies: a few rhythmic and melodic motifs over the chords of a phrase."""

from dataclasses import dataclass

from musicfm.render.dice import Dice
from musicfm.render.score import ChordSpan, ScoreNote, nearest

_STEPS: dict[int, float] = {-2: 1, -1: 3, 0: 1.2, 1: 3, 2: 1, 3: 0.5, -3: 0.4, 4: 0.25}
_ORDERS = ("ABAC", "AABC", "ABBC", "ABCA", "AAAB", "ABAB")


@dataclass(frozen=True, slots=True)
class MelodyStyle:
    """What the melodies of a section have in common."""

    density: float
    """Probability of a note on an eighth off the beat."""
    centre: int
    """MIDI pitch around which the melody moves."""
    steps_per_bar: int
    steps_per_beat: int
    step_seconds: float
    """A sixteenth at the nominal tempo."""


@dataclass(frozen=True, slots=True)
class _Motif:
    """A bar of melody, whatever the harmony."""

    onsets: tuple[int, ...]
    moves: tuple[int, ...]
    """Intervals from each note to the next, in notes of the scale."""


class Melodist:
    """Writes the phrases of a material, out of the same motifs.

    Args:
        dice: of the material.
        style: of its melody.
    """

    def __init__(self, dice: Dice, style: MelodyStyle) -> None:
        self._style = style
        self._motifs = {name: _motif(dice.child(name), style) for name in "ABC"}
        self._ending = _motif(dice.child("ending"), style, density=0.1)
        self._dice = dice

    def phrase(self, letter: str, spans: list[ChordSpan], bars: int) -> list[ScoreNote]:
        """The melody of a phrase.

        Args:
            letter: which phrase; decides on the order of the motifs.
            spans: its chords, from step 0 on, in order.
            bars: its length.
        """
        dice, style = self._dice.child("phrase", letter), self._style
        order = dice.choice(_ORDERS)
        onsets: list[tuple[int, int]] = []
        for bar in range(bars):
            motif = self._ending if bar + 1 == bars > 1 else self._motifs[order[bar % 4]]
            start = bar * style.steps_per_bar
            onsets += [
                (start + onset, move) for onset, move in zip(motif.onsets, motif.moves, strict=True)
            ]
        if dice.chance(0.35):
            onsets = [*_pickup(dice, style), *onsets]
        breath = dice.choice([2, 4, style.steps_per_beat])
        end = bars * style.steps_per_bar - breath
        ends = [*(onset for onset, _ in onsets[1:]), max(end, onsets[-1][0] + 2)]
        return _pitches(dice, style, onsets, ends, spans)


def vary(dice: Dice, notes: list[ScoreNote], spans: list[ChordSpan]) -> list[ScoreNote]:
    """The same melody as it might come back: some notes left out, some moved to another of the
    chord.
    """
    varied = []
    for note in notes:
        point = dice.unit()
        if point < 0.03 and note.end - note.start <= 4:
            continue
        if point > 0.94:
            chord = next((s for s in spans if note.start < s.end), spans[-1]).chord
            note = note._replace(
                pitch=nearest(chord.pitch_classes, note.pitch + dice.choice([-4, 4]))
            )
        varied.append(note)
    return varied


def _motif(dice: Dice, style: MelodyStyle, density: float | None = None) -> _Motif:
    """A rhythm with more notes on the beats than off them, and how it moves."""
    density = style.density if density is None else density
    seconds = style.step_seconds * 2
    if seconds < 0.2:  # fast: eighths are short
        density *= 0.6
    fine = 1 if style.step_seconds > 0.16 and dice.chance(0.5) else 2
    on_beat = 0.35 + 0.6 * density
    onsets = [0] if dice.chance(0.8) or density < 0.2 else []
    for step in range(fine, style.steps_per_bar, fine):
        if step % style.steps_per_beat == 0:
            probability = on_beat
        elif step % 2 == 0:
            probability = density
        else:
            probability = density * 0.3
        if dice.chance(probability):
            onsets.append(step)
    if not onsets:
        onsets = [style.steps_per_beat]
    return _Motif(tuple(onsets), tuple(dice.weighted(_STEPS) for _ in onsets))


def _pickup(dice: Dice, style: MelodyStyle) -> list[tuple[int, int]]:
    """One to three notes before the phrase."""
    count = dice.integer(1, 3)
    length = 2 if style.step_seconds > 0.09 else 4
    count = min(count, style.steps_per_bar // length // 2)
    return [(-length * i, dice.choice([1, 1, -1])) for i in range(count, 0, -1)]


def _pitches(
    dice: Dice,
    style: MelodyStyle,
    onsets: list[tuple[int, int]],
    ends: list[int],
    spans: list[ChordSpan],
) -> list[ScoreNote]:
    """Gives each note a pitch: a chord's where it is long or on a beat, else the scale's."""
    pitch = nearest(spans[0].chord.pitch_classes, style.centre + dice.integer(-4, 4))
    notes = []
    long = 0.3 / style.step_seconds
    index = 0
    for (start, move), end in zip(onsets, ends, strict=True):
        while index + 1 < len(spans) and spans[index].end <= start:
            index += 1
        span = spans[index]
        chord = span.chord
        scale = chord.scale
        target = _move(scale, pitch, move)
        if target > style.centre + 9 or target < style.centre - 8:
            target = _move(scale, pitch, -move)
        end = min(end, max(span.end, start + 1) if start >= 0 else 0)
        if start >= 0 and (end - start > long or start % style.steps_per_beat == 0):
            target = nearest(chord.pitch_classes, target)
        pitch = target
        accent = 1.0 if start % style.steps_per_beat == 0 else 0.88
        notes.append(ScoreNote(start, end, pitch, accent))
    return notes


def _move(scale: frozenset[int], pitch: int, steps: int) -> int:
    """The note of a scale some notes above or below a pitch."""
    direction = 1 if steps > 0 else -1
    pitch = nearest(scale, pitch)
    for _ in range(abs(steps)):
        pitch += direction
        while pitch % 12 not in scale:
            pitch += direction
    return pitch
