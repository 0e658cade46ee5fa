"""Composing: from a seed to a song, the same on any machine."""

from dataclasses import replace

from musicfm.render.annotation import label
from musicfm.render.arrangement import ROLES, choose_instruments
from musicfm.render.performance import make_clock, perform
from musicfm.render.plan import make_plan
from musicfm.render.production import choose_production
from musicfm.render.scoring import Phrases, write_harmony, write_score
from musicfm.render.song import Labels, Song, Span
from musicfm.render.splits import split_of

GENERATOR_VERSION = 1
"""Rises whenever any seed gives other notes, labels or productions than before."""


def compose(seed: int, take: int = 0, max_seconds: float | None = None) -> Song:
    """Composes a song.

    Args:
        seed: from 0 to 1,399,999,999; see ``splits`` for which are for testing.
        take: the same composition for all: same bars, chords, melodies and labels but the tags,
            with other instruments, mix and production.
        max_seconds: return only the beginning of the song.

    Raises ConfigError if the seed is out of range.
    """
    plan = make_plan(seed)
    phrases = Phrases(plan)
    chords = write_harmony(plan, phrases)
    score = write_score(plan, phrases, chords)
    clock = make_clock(plan)
    cast = choose_instruments(
        plan.dice.child("instruments"), plan.style, plan.roles, take, plan.reserved
    )
    dice = plan.dice.child("performance", take)
    parts = tuple(
        perform(dice.child(role), plan, role, cast[role], score[role], clock)
        for role in ROLES
        if score.get(role)
    )
    labels, duration = label(plan, chords, score, parts, cast, clock)
    degraded = split_of(seed) == "degraded"
    production = choose_production(dice.child("production"), degraded=degraded)
    song = Song(seed, take, duration, parts, production, labels)
    return song if max_seconds is None else beginning(song, max_seconds)


def beginning(song: Song, seconds: float) -> Song:
    """The first seconds of a song; notes and labels that go on are cut."""
    if seconds >= song.duration:
        return song
    parts = tuple(
        replace(
            part,
            notes=tuple(
                replace(note, end=min(note.end, seconds))
                for note in part.notes
                if note.start < seconds
            ),
        )
        for part in song.parts
    )
    labels = song.labels

    def cut(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(
            Span(span.start, min(span.end, seconds), span.value)
            for span in spans
            if span.start < seconds
        )

    return replace(
        song,
        duration=seconds,
        parts=tuple(part for part in parts if part.notes),
        labels=Labels(
            beats=tuple(beat for beat in labels.beats if beat.time < seconds),
            chords=cut(labels.chords),
            segments=cut(labels.segments),
            keys=cut(labels.keys),
            tags=labels.tags,
        ),
    )
