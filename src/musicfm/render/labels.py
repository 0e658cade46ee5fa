"""The labels of a song in JAMS (Humphrey et al., "JAMS: a JSON Annotated Music Specification for
Reproducible MIR Research", ISMIR 2014).

Written as JSON directly: the package jams, with which it is read, would take longer over it than
the song takes to compose.
"""

import json
from collections.abc import Iterable
from typing import Any

from musicfm.render.composition import GENERATOR_VERSION
from musicfm.render.song import Beat, Song, Span
from musicfm.render.soundfont import SoundFont
from musicfm.render.splits import split_of

GENERATOR = "musicfm render"

_JAMS_VERSION = "0.3.5"
_DIGITS = 6  # of times in seconds


def to_jams(song: Song, font: SoundFont) -> dict[str, Any]:
    """All labels of a song, and where it comes from.

    Args:
        song: whose labels.
        font: that plays it.

    Returns:
        A JAMS object with the namespaces beat, beat_position, chord, segment_open, key_mode and
        tag_open; its sandbox names the generator, its version, seed, take, split, and font. A beat
        of 6/8 is a dotted quarter, of which a bar has two.
    """
    labels = song.labels
    annotations = {
        "beat": [_observation(beat.time, 0.0, beat.position) for beat in labels.beats],
        "beat_position": _positions(labels.beats),
        "chord": _observations(labels.chords),
        "segment_open": _observations(labels.segments),
        "key_mode": _observations(labels.keys),
        "tag_open": [_observation(0.0, song.duration, tag) for tag in labels.tags],
    }
    return {
        "annotations": [
            _annotation(namespace, data, song.duration) for namespace, data in annotations.items()
        ],
        "file_metadata": {
            "title": f"Song {song.seed}, take {song.take}",
            "artist": "",
            "release": "",
            "duration": round(song.duration, _DIGITS),
            "identifiers": {},
            "jams_version": _JAMS_VERSION,
        },
        "sandbox": {
            "generator": GENERATOR,
            "generator_version": GENERATOR_VERSION,
            "seed": song.seed,
            "take": song.take,
            "split": split_of(song.seed),
            "sound_font": font.name,
            "sound_font_sha256": font.sha256,
            "sound_font_licence": font.licence,
        },
    }


def jams_text(song: Song, font: SoundFont) -> str:
    """:func:`to_jams` as JSON; the same text for the same song on any machine."""
    return json.dumps(to_jams(song, font), indent=1) + "\n"


def _annotation(namespace: str, data: list[dict[str, Any]], duration: float) -> dict[str, Any]:
    return {
        "namespace": namespace,
        "data": data,
        "time": 0,
        "duration": round(duration, _DIGITS),
        "annotation_metadata": {
            "curator": {"name": "", "email": ""},
            "annotator": {},
            "version": str(GENERATOR_VERSION),
            "corpus": "",
            "annotation_tools": GENERATOR,
            "annotation_rules": "",
            "validation": "",
            "data_source": "program",
        },
        "sandbox": {},
    }


def _positions(beats: Iterable[Beat]) -> list[dict[str, Any]]:
    """Beats with their bar; bar 0 is a pickup's, if there is one."""
    beats = list(beats)
    num_beats = max(beat.position for beat in beats)
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
        data.append(_observation(beat.time, 0.0, value))
    return data


def _observations(spans: Iterable[Span]) -> list[dict[str, Any]]:
    return [_observation(span.start, span.end - span.start, span.value) for span in spans]


def _observation(time: float, duration: float, value: object) -> dict[str, Any]:
    return {
        "time": round(time, _DIGITS),
        "duration": round(duration, _DIGITS),
        "value": value,
        "confidence": 1.0,
    }
