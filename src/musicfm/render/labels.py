"""The labels of a song in JAMS."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from musicfm.datasets.jams import document, observation
from musicfm.render.composition import GENERATOR_VERSION
from musicfm.render.song import Beat, Song, Span
from musicfm.render.soundfont import SoundFont
from musicfm.render.splits import split_of
from musicfm.render.synthesis import cast

GENERATOR = "musicfm render"


def to_jams(song: Song, fonts: SoundFont | Sequence[SoundFont]) -> dict[str, Any]:
    """All labels of a song, and where it comes from.

    Args:
        song: whose labels.
        fonts: that it was played with; see :func:`musicfm.render.synthesis.cast`.

    Returns:
        A JAMS object with the namespaces beat, beat_position, chord, segment_open, key_mode and
        tag_open; its sandbox names the generator, its version, seed, take, split, and the fonts of
        its parts. A beat of 6/8 is a dotted quarter, of which a bar has two.
    """
    labels = song.labels
    annotations: dict[str, list[dict[str, Any]]] = {
        "beat": [observation(beat.time, 0.0, beat.position) for beat in labels.beats],
        "beat_position": _positions(labels.beats),
        "chord": _observations(labels.chords),
        "segment_open": _observations(labels.segments),
        "key_mode": _observations(labels.keys),
        "tag_open": [observation(0.0, song.duration, tag) for tag in labels.tags],
    }
    if not labels.segments:
        del annotations["segment_open"]
    composition = {"composition": song.composition} if song.composition else {}
    return document(
        annotations,
        song.duration,
        title=f"Song {song.seed}, take {song.take}",
        tool=GENERATOR,
        version=str(GENERATOR_VERSION),
        sandbox={
            "generator": GENERATOR,
            "generator_version": GENERATOR_VERSION,
            "seed": song.seed,
            "take": song.take,
            "split": split_of(song.seed),
            "sound_fonts": describe(cast(song, fonts)),
            **composition,
        },
    )


def describe(fonts: Iterable[SoundFont]) -> list[dict[str, str]]:
    """Name, SHA-256 and licence of fonts, each once, by name."""
    different = {font.sha256: font for font in fonts}
    return [
        {"name": font.name, "sha256": font.sha256, "licence": font.licence}
        for font in sorted(different.values(), key=lambda font: (font.name, font.sha256))
    ]


def jams_text(song: Song, fonts: SoundFont | Sequence[SoundFont]) -> str:
    """:func:`to_jams` as JSON; the same text for the same song on any machine."""
    return json.dumps(to_jams(song, fonts), indent=1) + "\n"


def _positions(beats: Iterable[Beat]) -> list[dict[str, Any]]:
    """Beats with their bar; bar 0 is a pickup's, if there is one."""
    beats = list(beats)
    num_beats = max((beat.position for beat in beats), default=4)
    unit = 8 if num_beats == 2 else 4  # JAMS has no dotted quarter: its eighths stand for it
    measure = 0
    data = []
    for beat in beats:
        measure += beat.position == 1
        value = {
            "position": beat.position,
            "measure": measure,
            "num_beats": num_beats,
            "beat_units": unit,
        }
        data.append(observation(beat.time, 0.0, value))
    return data


def _observations(spans: Iterable[Span]) -> list[dict[str, Any]]:
    return [observation(span.start, span.end - span.start, span.value) for span in spans]
