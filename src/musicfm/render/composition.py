"""Composing: from a seed to a song, the same on any machine."""

from dataclasses import replace

from musicfm.render.annotation import label, tags
from musicfm.render.arrangement import ROLES, choose_instruments, level_instruments
from musicfm.render.lead_sheets import LeadSheet
from musicfm.render.performance import make_clock, perform
from musicfm.render.plan import make_plan
from musicfm.render.production import choose_production
from musicfm.render.scoring import Phrases, write_harmony, write_score
from musicfm.render.song import Beat, Labels, Song, Span, Version
from musicfm.render.splits import split_of

GENERATOR_VERSION: Version = 2
"""Rises whenever any seed gives other notes, labels or productions than before."""


def compose(
    seed: int,
    take: int = 0,
    max_seconds: float | None = None,
    *,
    anywhere: bool = False,
    version: Version = GENERATOR_VERSION,
    sheet: LeadSheet | None = None,
) -> Song:
    """Composes a song.

    Args:
        seed: from 0 to 1,399,999,999; see ``splits`` for which are for testing.
        take: the same composition for all: same bars, chords, melodies and labels but the tags,
            with other instruments, mix and production.
        max_seconds: return only so much of the song.
        anywhere: not always from its beginning: half of the songs begin in the middle then.
        version: of the generator; 1 is that of rendered-v1.
        sheet: a melody with its chords to arrange, in the key that the seed's song has.

    Raises ConfigError if the seed is out of range.
    """
    plan = make_plan(seed, version, sheet)
    phrases = Phrases(plan)
    chords = write_harmony(plan, phrases)
    score = write_score(plan, phrases, chords)
    clock = make_clock(plan)
    cast = choose_instruments(
        plan.dice.child("instruments"), plan.style, plan.roles, take, plan.reserved
    )
    if version > 1:
        levels = plan.dice.child("levels", take)
        power = plan.power and take == 0  # other takes are played on other instruments
        cast = level_instruments(levels, plan.style, cast, plan.reserved, power)
    dice = plan.dice.child("performance", take)
    parts = tuple(
        perform(dice.child(role), plan, role, cast[role], score[role], clock)
        for role in ROLES
        if score.get(role)
    )
    labels, duration = label(plan, chords, score, parts, cast, clock)
    degraded = split_of(seed) == "degraded"
    production = choose_production(dice.child("production"), degraded=degraded, version=version)
    name = "" if sheet is None else sheet.name
    song = Song(seed, take, duration, parts, production, labels, name)
    if max_seconds is None or max_seconds >= duration:
        return song
    where = plan.dice.child("excerpt")
    later = anywhere and where.chance(0.5)
    start = round(where.uniform(0.0, duration - max_seconds), 3) if later else 0.0
    song = excerpt(song, start, max_seconds)
    if version > 1:
        heard = tags(plan, song.parts, cast, max_seconds)
        song = replace(song, labels=replace(song.labels, tags=heard))
    return song


def excerpt(song: Song, start: float, seconds: float) -> Song:
    """A part of a song; notes and labels that go on before or after it are cut.

    A note that sounds at the beginning keeps its start, which is below zero then.
    """
    end = start + seconds
    parts = tuple(
        replace(
            part,
            notes=tuple(
                replace(note, start=note.start - start, end=min(note.end, end) - start)
                for note in part.notes
                if note.end > start and note.start < end
            ),
        )
        for part in song.parts
    )
    labels = song.labels

    def cut(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(
            Span(
                round(max(span.start - start, 0.0), 6),
                round(min(span.end - start, seconds), 6),
                span.value,
            )
            for span in spans
            if span.start < end and span.end > start
        )

    return replace(
        song,
        duration=seconds,
        parts=tuple(part for part in parts if part.notes),
        labels=Labels(
            beats=tuple(
                Beat(round(beat.time - start, 6), beat.position)
                for beat in labels.beats
                if start <= beat.time < end
            ),
            chords=cut(labels.chords),
            segments=cut(labels.segments),
            keys=cut(labels.keys),
            tags=labels.tags,
        ),
    )
