"""JAMS files, written (Humphrey et al., "JAMS: a JSON Annotated Music Specification for
Reproducible MIR Research", ISMIR 2014).

Written as JSON directly: the package jams would take longer over it than all else. Reading is in
:mod:`musicfm.datasets.annotations`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from musicfm.datasets.annotations import Annotations, Array, Beats, Spans

_JAMS_VERSION = "0.3.5"
_DIGITS = 6  # of times in seconds

Observation = dict[str, Any]


def document(
    annotations: Mapping[str, Sequence[Observation]],
    duration: float,
    *,
    title: str,
    artist: str = "",
    tool: str,
    version: str,
    sandbox: Mapping[str, Any],
) -> dict[str, Any]:
    """A JAMS object.

    Args:
        annotations: by namespace.
        duration: of the recording, in seconds.
        title: of the recording.
        artist: of the recording.
        tool: that made the annotations.
        version: of the annotations.
        sandbox: anything else.
    """
    return {
        "annotations": [
            {
                "namespace": namespace,
                "data": list(data),
                "time": 0,
                "duration": round(duration, _DIGITS),
                "annotation_metadata": {
                    "curator": {"name": "", "email": ""},
                    "annotator": {},
                    "version": version,
                    "corpus": "",
                    "annotation_tools": tool,
                    "annotation_rules": "",
                    "validation": "",
                    "data_source": "program",
                },
                "sandbox": {},
            }
            for namespace, data in annotations.items()
        ],
        "file_metadata": {
            "title": title,
            "artist": artist,
            "release": "",
            "duration": round(duration, _DIGITS),
            "identifiers": {},
            "jams_version": _JAMS_VERSION,
        },
        "sandbox": dict(sandbox),
    }


def observation(
    time: float, duration: float, value: object, confidence: float | None = 1.0
) -> Observation:
    """Something that is so from ``time`` on for ``duration`` seconds."""
    return {
        "time": round(time, _DIGITS),
        "duration": round(duration, _DIGITS),
        "value": value,
        "confidence": None if confidence is None else round(confidence, 4),
    }


def observations(annotations: Annotations, duration: float) -> dict[str, list[Observation]]:
    """What is known about a recording, by namespace; what is not known is left out.

    Args:
        annotations: of the recording.
        duration: of the recording, in seconds.
    """
    found: dict[str, list[Observation]] = {}
    if annotations.beats is not None:
        found["beat"] = [
            observation(beat.time, 0.0, beat.position or None, beat.confidence)
            for beat in annotations.beats
        ]
    for namespace, spans in (
        ("chord", annotations.chords),
        ("segment_open", annotations.segments),
        ("key_mode", annotations.keys),
    ):
        if spans is not None:
            found[namespace] = [
                observation(span.start, span.end - span.start, span.label, span.confidence)
                for span in spans
            ]
    if annotations.tags is not None:
        ranked = sorted(annotations.tags.items(), key=lambda item: (-item[1], item[0]))
        found["tag_open"] = [
            observation(0.0, duration, tag, confidence) for tag, confidence in ranked
        ]
    return found


def parse(content: Mapping[str, Any]) -> Annotations:
    """The inverse of :func:`observations`, with confidences and to the microsecond.

    Args:
        content: a JAMS object that :func:`document` made. For those of others, whose annotations
            may be anything, see :func:`musicfm.datasets.annotations.read_jams`.

    Raises KeyError, TypeError or ValueError where it is not one of ours.
    """
    data = {annotation["namespace"]: annotation["data"] for annotation in content["annotations"]}
    beats = None
    if (rows := data.get("beat")) is not None:
        times = np.array([row["time"] for row in rows], dtype=np.float64)
        positions = np.array([row["value"] or 0 for row in rows], dtype=np.int64)
        beats = Beats(times, positions, _confidences(rows))
    tags = data.get("tag_open")
    return Annotations(
        beats,
        _parse_spans(data.get("chord")),
        _parse_spans(data.get("segment_open")),
        _parse_spans(data.get("key_mode")),
        None if tags is None else {row["value"]: float(row["confidence"]) for row in tags},
    )


def _parse_spans(rows: Sequence[Observation] | None) -> Spans | None:
    if rows is None:
        return None
    ends = [(row["time"], round(row["time"] + row["duration"], _DIGITS)) for row in rows]
    intervals = np.array(ends, dtype=np.float64).reshape(-1, 2)
    return Spans(intervals, tuple(str(row["value"]) for row in rows), _confidences(rows))


def _confidences(rows: Sequence[Observation]) -> Array | None:
    values = [row["confidence"] for row in rows]
    return None if None in values else np.array(values, dtype=np.float64)
