"""Chords and bass: patterns of a bar, repeated over the chords of a section."""

from dataclasses import dataclass

from musicfm.render.dice import Dice
from musicfm.render.score import BASS_TOP, ChordSpan, ScoreNote, above
from musicfm.render.styles import Bassline, Comping
from musicfm.render.theory import Chord

_LOWEST_CHORD_NOTE = BASS_TOP + 2
_LOWEST_POWER_NOTE = 40  # a guitar's lowest string; an octave above the bass


@dataclass(frozen=True, slots=True)
class Grid:
    """What a pattern has to know about the metre."""

    steps_per_bar: int
    steps_per_beat: int
    step_seconds: float

    @property
    def eighth(self) -> int:
        """Steps of an eighth note, or of a quarter in songs in which eighths are too fast."""
        return 2 if self.step_seconds > 0.075 else 4

    def starts(self, every: int) -> list[int]:
        """Steps of a bar at some distance."""
        return list(range(0, self.steps_per_bar, every))


def comping_pattern(dice: Dice, kind: Comping, grid: Grid) -> list[int]:
    """Where in a bar the chords are struck, in steps."""
    bar, beat = grid.steps_per_bar, grid.steps_per_beat
    match kind:
        case "held":
            return []
        case "strummed":
            return [
                step for step in grid.starts(grid.eighth) if step % beat == 0 or dice.chance(0.6)
            ]
        case "offbeat":
            if beat == 6:
                return [4, 10] if dice.chance(0.5) else [2, 4, 8, 10]
            every = grid.starts(beat)
            return every[1::2] if dice.chance(0.3) else [step + beat // 2 for step in every]
        case "stabs":
            fine = grid.starts(1 if grid.step_seconds > 0.12 else 2)
            count = dice.integer(2, 4)
            return sorted(dice.shuffled(fine)[:count])
        case "broken":
            return grid.starts(1 if grid.step_seconds > 0.15 and dice.chance(0.5) else grid.eighth)
        case "power":
            return _power_pattern(dice, grid)
        case "boom-chick":
            if beat == 6:
                return [2, 4, 8, 10]
            return grid.starts(beat)[1::2] if bar == 16 else grid.starts(beat)[1:]


def _power_pattern(dice: Dice, grid: Grid) -> list[int]:
    """Steady, galloping, syncopated, or one a bar, and as fast as hands are."""
    beat = grid.steps_per_beat
    fast = grid.step_seconds < 0.075
    match dice.weighted({"steady": 4.0, "gallop": 1.5, "syncopated": 2.0, "held": 1.0}):
        case "steady":
            return grid.starts(1 if grid.step_seconds > 0.13 else 4 if fast else 2)
        case "gallop" if not fast:
            return [step for step in grid.starts(1) if step % beat % 4 != 1]
        case "held":
            return [0]
    return [0, *(s for s in range(2, grid.steps_per_bar, 2) if dice.chance(0.5))]


def write_chords(
    kind: Comping,
    pattern: list[int],
    spans: list[ChordSpan],
    grid: Grid,
    *,
    centre: int,
    bass: bool,
) -> list[ScoreNote]:
    """The chords of a section.

    Args:
        kind: whether they are struck, held or broken.
        pattern: where in a bar.
        spans: the chords, in steps from the section's start.
        grid: of the metre.
        centre: MIDI pitch around which they lie.
        bass: whether a bass plays; if not, the lowest voice takes its place.
    """
    notes: list[ScoreNote] = []
    voices: list[int] = []
    for span in spans:
        if kind == "power":
            voices = _power_chord(span.chord)
            sounding = voices
        else:
            voices = voicing(span.chord, voices, centre)
            # Where no bass plays, its note lies below all voices of the chord.
            low = above(span.chord.bass_pitch_class, _LOWEST_CHORD_NOTE - 12)
            sounding = voices if bass else [low, *voices]
        struck = _hits(pattern, span, grid.steps_per_bar)
        always = not bass or kind not in ("offbeat", "boom-chick", "stabs")
        if (always or not struck) and (not struck or struck[0] != span.start):
            struck.insert(0, span.start)
        if kind == "broken":
            notes += _broken(sounding, struck, span)
        else:
            notes += _struck(kind, sounding, struck, span, grid)
    return notes


def _broken(voices: list[int], hits: list[int], span: ChordSpan) -> list[ScoreNote]:
    """One voice after the other, up and down."""
    order = [*voices, *voices[-2:0:-1]]
    return [
        ScoreNote(hit, min(hit + 6, span.end), order[i % len(order)], 1.0 if i == 0 else 0.85)
        for i, hit in enumerate(hits)
    ]


def _struck(
    kind: Comping, voices: list[int], hits: list[int], span: ChordSpan, grid: Grid
) -> list[ScoreNote]:
    longest = {"held": 64, "strummed": 8, "stabs": 3, "offbeat": 2, "boom-chick": 3, "power": 32}[
        kind
    ]
    if kind == "held":
        # Struck again at the next bar, so that the beat can be heard.
        bar = grid.steps_per_bar
        hits = [hits[0], *(step for step in range(hits[0] + 1, span.end) if step % bar == 0)]
    notes = []
    for hit, following in zip(hits, [*hits[1:], span.end], strict=True):
        end = min(following, hit + longest)
        accent = 1.0 if hit % grid.steps_per_beat == 0 else 0.85
        notes += [ScoreNote(hit, end, pitch, accent) for pitch in voices]
    return notes


def _power_chord(chord: Chord) -> list[int]:
    """The bass note, its fifth where the chord has it, and the octave."""
    bass = above(chord.bass_pitch_class, _LOWEST_POWER_NOTE)
    fifth = [bass + 7] if (bass + 7) % 12 in chord.pitch_classes else []
    return [bass, *fifth, bass + 12]


def voicing(chord: Chord, previous: list[int], centre: int) -> list[int]:
    """All notes of a chord in close position, as near as can be to those before, or a centre."""
    pitch_classes = chord.pitch_classes
    around = previous[0] if previous else centre - 5
    best: list[int] = []
    least = 1000
    for i, lowest in enumerate(pitch_classes):
        for low in (above(lowest, around - 6), above(lowest, around - 6) - 12):
            if not max(_LOWEST_CHORD_NOTE, centre - 12) <= low <= centre + 3:
                continue
            distance = abs(low - around) + abs(low - (centre - 5)) // 3
            if distance < least:
                least, best = distance, [low]
                for note in (*pitch_classes[i + 1 :], *pitch_classes[:i]):
                    best.append(above(note, best[-1] + 1))
    if not best:
        best = [above(pitch_classes[0], max(_LOWEST_CHORD_NOTE, centre - 10))]
        for note in pitch_classes[1:]:
            best.append(above(note, best[-1] + 1))
    return best


def write_pad(spans: list[ChordSpan], centre: int) -> list[ScoreNote]:
    """Held chords."""
    notes: list[ScoreNote] = []
    voices: list[int] = []
    for span in spans:
        voices = voicing(span.chord, voices, centre)
        notes += [ScoreNote(span.start, span.end, pitch) for pitch in voices]
    return notes


def write_arpeggio(
    dice: Dice, spans: list[ChordSpan], grid: Grid, *, centre: int
) -> list[ScoreNote]:
    """An ostinato of chord tones, with the same order of voices throughout."""
    every = 1 if grid.step_seconds > 0.13 else 2
    order = dice.shuffled(range(5))[:3]
    order += [dice.integer(0, 4) for _ in range(dice.choice([0, 1, 3, 5]))]
    rests = {i for i in range(8) if dice.chance(0.15)}
    notes = []
    for span in spans:
        voices = voicing(span.chord, [], centre)
        voices = [*voices, voices[0] + 12, voices[1] + 12]
        first = span.start + (-span.start) % every
        for i, step in enumerate(range(first, span.end, every)):
            if i % 8 not in rests or i == 0:
                pitch = voices[order[i % len(order)] % len(voices)]
                accent = 1.0 if step % grid.steps_per_beat == 0 else 0.8
                notes.append(ScoreNote(step, min(step + every + 1, span.end), pitch, accent))
    return notes


def bass_pattern(dice: Dice, kind: Bassline, grid: Grid) -> list[int]:
    """Where in a bar the bass plays besides chord changes, in steps."""
    bar, beat = grid.steps_per_bar, grid.steps_per_beat
    match kind:
        case "held":
            return [0]
        case "root-fifth":
            return [0, bar // 2] if bar == 16 or beat == 6 else [0, 8]
        case "eighths" | "octaves":
            return grid.starts(grid.eighth)
        case "walking":
            return grid.starts(beat)
        case "syncopated":
            fine = grid.starts(1 if grid.step_seconds > 0.13 else 2)[1:]
            return [0, *sorted(dice.shuffled(fine)[: dice.integer(2, 4)])]


def write_bass(
    dice: Dice, kind: Bassline, pattern: list[int], spans: list[ChordSpan], grid: Grid, floor: int
) -> list[ScoreNote]:
    """The bass of a section: each chord begins with its bass note, the lowest there is.

    Args:
        dice: of the notes in between.
        kind: what they are.
        pattern: where in a bar.
        spans: the chords, in steps from the section's start.
        grid: of the metre.
        floor: lowest MIDI pitch.
    """
    notes = []
    for i, span in enumerate(spans):
        hits = _hits(pattern, span, grid.steps_per_bar)
        if not hits or hits[0] != span.start:
            hits.insert(0, span.start)
        root = above(span.chord.bass_pitch_class, floor)
        following = spans[i + 1].chord if i + 1 < len(spans) else span.chord
        target = above(following.bass_pitch_class, floor)
        pitches = _bass_pitches(dice, kind, hits, span.chord, root, target)
        for hit, pitch, end in zip(hits, pitches, [*hits[1:], span.end], strict=True):
            notes.append(ScoreNote(hit, end, pitch, 1.0 if hit == span.start else 0.9))
    return notes


def _bass_pitches(
    dice: Dice, kind: Bassline, hits: list[int], chord: Chord, root: int, target: int
) -> list[int]:
    """A pitch for each hit, none above the bass's range."""
    fifth = _within(above((chord.root + _fifth(chord)) % 12, root + 1), root)
    octave = _within(root + 12, root)
    rest = range(1, len(hits))
    match kind:
        case "held" | "eighths":
            return [root for _ in hits]
        case "root-fifth":
            return [fifth if i % 2 else root for i in range(len(hits))]
        case "octaves":
            return [octave if i % 2 else root for i in range(len(hits))]
        case "syncopated":
            options = [root, root, root, fifth, octave]
            return [root, *(dice.choice(options) for _ in rest)]
        case "walking":
            return _walk(dice, chord, root, target, len(hits))


def _walk(dice: Dice, chord: Chord, root: int, target: int, count: int) -> list[int]:
    """Up or down the chord, and into the next one by a step."""
    tones = [p for p in range(root, BASS_TOP + 1) if p % 12 in chord.pitch_classes]
    pitches, i = [root], 0
    for _ in range(1, count):
        i = max(0, min(len(tones) - 1, i + dice.choice([1, 1, 2, -1])))
        pitches.append(tones[i])
    if count > 2:
        step = dice.choice([-1, 1, 2])
        pitches[-1] = _within(target + step, target)
    return pitches


def _fifth(chord: Chord) -> int:
    return 6 if "dim" in chord.quality else 8 if chord.quality == "aug" else 7


def _within(pitch: int, instead: int) -> int:
    return pitch if pitch <= BASS_TOP else instead


def _hits(pattern: list[int], span: ChordSpan, steps_per_bar: int) -> list[int]:
    """The pattern's steps within a span."""
    first = span.start // steps_per_bar
    last = (span.end - 1) // steps_per_bar
    return [
        step
        for bar in range(first, last + 1)
        for offset in pattern
        if span.start <= (step := bar * steps_per_bar + offset) < span.end
    ]
