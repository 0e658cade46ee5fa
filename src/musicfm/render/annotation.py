"""The labels of a song, from its plan and its score."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from musicfm.render.arrangement import Instrument
from musicfm.render.clock import Clock
from musicfm.render.drums import PERCUSSION
from musicfm.render.instruments import FAMILIES
from musicfm.render.plan import Plan
from musicfm.render.score import ChordSpan
from musicfm.render.scoring import Score
from musicfm.render.song import Beat, Labels, Note, Part, Span
from musicfm.render.theory import Chord

_HEARD = 0.05  # seconds from which on a note is part of a chord
_SILENCE = 1.0  # seconds from which on a silence at either end is a segment of its own


def label(
    plan: Plan,
    chords: list[list[ChordSpan]],
    score: Score,
    parts: Sequence[Part],
    cast: dict[str, Instrument],
    clock: Clock,
) -> tuple[Labels, float]:
    """The labels, and how long the song is."""
    steps_per_bar, steps_per_beat = plan.grid.steps_per_bar, plan.grid.steps_per_beat
    last_step = plan.num_bars * steps_per_bar
    music_end = clock.end(last_step + (steps_per_bar if plan.final_chord else 0))
    duration = round(music_end + plan.lead_out, 6)
    first_step = min(0, min(note.start for notes in score.values() for note in notes))
    first_step = first_step // steps_per_beat * steps_per_beat
    beat_steps = [*range(first_step, last_step, steps_per_beat)]
    if plan.final_chord:
        beat_steps.append(last_step)
    beats = tuple(
        Beat(round(clock.start(step), 6), step % steps_per_bar // steps_per_beat + 1)
        for step in beat_steps
    )
    chord_spans = [
        (start := clock.start(span.start), end := clock.end(span.end),
         _power_name(span.chord, start, end, parts) if plan.power else span.chord.name)
        for spans in chords
        for span in spans
    ]  # fmt: skip
    segment_spans = _segment_spans(plan, clock, clock.start(first_step), music_end, duration)
    labels = Labels(
        beats=beats,
        chords=_filled(chord_spans, "N", duration),
        segments=(
            ()
            if plan.sheet is not None and not plan.sheet.sections
            else _filled(segment_spans, "silence", duration, keep_boundaries=True)
        ),
        keys=_key_spans(plan, clock, duration),
        tags=tags(plan, parts, cast, duration),
    )
    return labels, duration


def _power_name(chord: Chord, start: float, end: float, parts: Sequence[Part]) -> str:
    """The name of a chord, or of the power chord that is left of it where nobody plays the rest."""
    tones = chord.pitch_classes
    fifth = (chord.root + 7) % 12
    rest = set(tones) - {chord.root, fifth}
    if fifth not in tones:
        return chord.name
    for part in parts:
        if part.is_drums:
            continue
        for note in part.notes:
            if note.start >= end:
                break
            if min(note.end, end) - max(note.start, start) > _HEARD and note.pitch % 12 in rest:
                return chord.name
    return replace(chord, quality="5", bass=0).name


def _segment_spans(
    plan: Plan, clock: Clock, music_start: float, music_end: float, duration: float
) -> list[tuple[float, float, str]]:
    """Sections in seconds; short silences at the ends belong to what is beside them."""
    steps = plan.grid.steps_per_bar
    spans = [
        (
            clock.start(section.first_bar * steps),
            clock.end((section.first_bar + section.bars) * steps),
            section.label if len(section.label) > 1 else "no_function",  # of a letter
        )
        for section in plan.sections
    ]
    first = music_start if music_start >= _SILENCE else 0.0
    last = music_end if duration - music_end >= _SILENCE else duration
    spans[0] = (first, *spans[0][1:])
    spans[-1] = (spans[-1][0], last, spans[-1][2])
    return spans


def _key_spans(plan: Plan, clock: Clock, duration: float) -> tuple[Span, ...]:
    steps = plan.grid.steps_per_bar
    starts = [
        (clock.start(section.first_bar * steps), section.key.name) for section in plan.sections
    ]
    if not plan.roles - {"drums"}:
        return (Span(0.0, duration, "N"),)
    starts[0] = (0.0, starts[0][1])
    ends = [*(start for start, _ in starts[1:]), duration]
    spans = [(start, end, name) for (start, name), end in zip(starts, ends, strict=True)]
    return _filled(spans, "N", duration)


def _filled(
    spans: list[tuple[float, float, str]],
    gap: str,
    duration: float,
    *,
    keep_boundaries: bool = False,
) -> tuple[Span, ...]:
    """Spans from 0 to the end, with gaps labelled, and neighbours of one value joined."""
    filled: list[Span] = []
    time = 0.0
    for start, end, value in [*spans, (duration, duration, gap)]:
        start, end = round(start, 6), round(end, 6)
        if start > time:
            filled.append(Span(time, start, gap))
        if end > start:
            if filled and filled[-1].value == value and not keep_boundaries:
                filled[-1] = Span(filled[-1].start, end, value)
            else:
                filled.append(Span(start, end, value))
        time = end
    return tuple(filled)


def tags(
    plan: Plan, parts: Sequence[Part], cast: dict[str, Instrument], duration: float
) -> tuple[str, ...]:
    """What can be heard: a part counts if it sounds in at least an eighth of the song."""
    found = {plan.style_name}
    for part in parts:
        if _covered(part.notes) < duration / 8:
            continue
        family = cast[part.role].family
        if part.is_drums:
            found.add(f"{family} drums")
            if any(note.pitch in PERCUSSION for note in part.notes):
                found.add("percussion")
        else:
            found.add(FAMILIES[family].tag)
    if "drums" not in plan.roles:
        found.add("no drums")
    elif plan.groove == "four-on-the-floor":
        found.add("four on the floor")
    beats_per_minute = plan.feel.beats_per_minute * (1.5 if plan.metre == "6/8" else 1)
    if beats_per_minute < 80:
        found.add("slow")
    elif beats_per_minute > 130:
        found.add("fast")
    if plan.feel.swing_steps:
        found.add("swing")
    if plan.metre == "3/4":
        found.add("waltz")
    elif plan.metre == "6/8":
        found.add("compound metre")
    return tuple(sorted(found))


def _covered(notes: Sequence[Note]) -> float:
    """Seconds from each onset to the next, where there is one within two seconds."""
    total = 0.0
    for note, following in itertools.pairwise(notes):
        gap = following.start - note.start
        total += min(gap, 2.0)
    return total
