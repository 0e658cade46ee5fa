"""Annotations of a recording: what is known about its beats, chords, segments, keys and tags.

They are read from JAMS (Humphrey et al., "JAMS: a JSON Annotated Music Specification for
Reproducible MIR Research", ISMIR 2014). The format is JSON, and is read as such: the package jams
checks whole files against schemas, which takes a second for a song, and does not name the file.
What is checked here is what is used: times, durations and values of the namespaces below.
"""

import hashlib
import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from musicfm.errors import DataError
from musicfm.files import parse_json

Array = npt.NDArray[np.float64]
Observed = TypeVar("Observed")

BEAT_NAMESPACES = ("beat_position", "beat")
CHORD_NAMESPACES = ("chord", "chord_harte")
SEGMENT_NAMESPACES = ("segment_open", "segment_salami_function", "segment_tut")
KEY_NAMESPACES = ("key_mode",)
TAG_PREFIX = "tag_"
"""Every namespace of tags begins so."""
_READ = (*BEAT_NAMESPACES, *CHORD_NAMESPACES, *SEGMENT_NAMESPACES, *KEY_NAMESPACES)
_OTHER_FORMS = {
    "chord_roman": "chords",
    "multi_segment": "segments",
    "segment_salami_lower": "segments",
    "segment_salami_upper": "segments",
}
"""Namespaces that are not read, and which kind of annotation they are another form of."""
_OTHER_KINDS = frozenset(
    """
    blob lyrics lyrics_bow mood_thayer note_hz note_midi onset pattern_jku pitch_class
    pitch_contour pitch_hz pitch_midi scaper tempo vector
    """.split()
)
"""The other namespaces of JAMS: nothing that is used here."""

_ROUNDING = 0.01
"""Seconds that spans may overlap, or lie apart, by rounding; they are joined."""
_BEYOND = 1.0
"""Seconds that annotations may reach beyond the end of the audio."""
_NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BRIEF = 100
"""Characters of a value in a message."""
_LAST_PLACE = 10_000
"""More beats than any bar has."""


class Beat(NamedTuple):
    """A beat."""

    time: float
    """In seconds."""
    position: int
    """Place in the bar, from 1, the downbeat; 0 if not known."""
    confidence: float | None


class Span(NamedTuple):
    """A chord, section or key, for as long as it holds."""

    start: float
    """In seconds; likewise the end."""
    end: float
    label: str
    confidence: float | None


@dataclass(frozen=True, eq=False)
class Beats:
    """Beats in order."""

    times: Array
    """(beats,) in seconds."""
    positions: npt.NDArray[np.int64]
    """(beats,) places in the bar from 1, the downbeat; 0 where they are not known."""
    confidences: Array | None = None
    """(beats,) from 0 to 1, of what was predicted."""

    @property
    def downbeats(self) -> Array:
        """(downbeats,) in seconds; empty where positions are not known."""
        return self.times[self.positions == 1]

    def __iter__(self) -> Iterator[Beat]:
        sure = _each(self.confidences, len(self.times))
        return map(Beat, self.times.tolist(), self.positions.tolist(), sure)


@dataclass(frozen=True, eq=False)
class Spans:
    """Labels that hold for a time, in order, without overlaps; there may be gaps."""

    intervals: Array
    """(spans, 2) starts and ends in seconds."""
    labels: tuple[str, ...]
    confidences: Array | None = None
    """(spans,) from 0 to 1, of what was predicted."""

    @classmethod
    def whole(cls, label: str, duration: float, confidences: Array | None = None) -> "Spans":
        """A label that holds for all of a recording of so many seconds."""
        return cls(np.array([[0.0, duration]]), (label,), confidences)

    def __iter__(self) -> Iterator[Span]:
        sure = _each(self.confidences, len(self.labels))
        return map(Span, *self.intervals.T.tolist(), self.labels, sure)

    def at(self, times: Array) -> list[str | None]:
        """The label at each time, None in gaps and outside."""
        index = np.searchsorted(self.intervals[:, 0], times, side="right") - 1
        inside = (index >= 0) & (times < self.intervals[np.maximum(index, 0), 1])
        return [self.labels[i] if ok else None for i, ok in zip(index, inside, strict=True)]

    def total(self) -> dict[str, float]:
        """Seconds of each label."""
        seconds: dict[str, float] = {}
        for start, end, label, _ in self:
            seconds[label] = seconds.get(label, 0.0) + (end - start)
        return seconds


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is known about a recording, or what was predicted. None: not known, rather than none."""

    beats: Beats | None = None
    chords: Spans | None = None
    """Chords in Harte's notation (ISMIR 2005)."""
    segments: Spans | None = None
    keys: Spans | None = None
    """Keys in JAMS's spelling of key_mode, such as "Eb:minor"."""
    tags: Mapping[str, float] | None = None
    """Tags that apply, each with its confidence from 0 to 1."""


def _each(confidences: Array | None, count: int) -> list[float] | list[None]:
    return [None] * count if confidences is None else confidences.tolist()


def digest(annotations: Annotations) -> str:
    """SHA-256 of all that is known about a recording, in hexadecimal."""
    parts: list[object] = []
    for item in fields(annotations):
        value = getattr(annotations, item.name)
        if isinstance(value, Beats):
            value = [value.times.tolist(), value.positions.tolist()]
        elif isinstance(value, Spans):
            value = [value.intervals.tolist(), value.labels]
        elif value is not None:
            value = sorted(value.items())
        parts.append(value)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Read:
    """An annotation file."""

    annotations: Annotations
    duration: float | None
    """Duration of the recording in seconds, as the file says."""
    problems: tuple[str, ...] = field(default=())
    """Reasons why something could not be used; it is missing from the annotations."""


def make_beats(times: Sequence[float] | Array, positions: Sequence[int] | None = None) -> Beats:
    """Beats, checked.

    Args:
        times: in seconds.
        positions: places in the bar from 1, 0 for unknown; None: none is known. Before the first
            bar they need not be; if any is missing later, none counts as known.

    Raises DataError if there are none, they are not in order, or a place is impossible.
    """
    beats = np.asarray(times, dtype=np.float64)
    if not len(beats):
        raise DataError("it is empty")
    if not (np.isfinite(beats).all() and (beats >= 0).all()):
        raise DataError("a beat's time is below zero, or no number")
    falling = np.flatnonzero(np.diff(beats) <= 0)
    if len(falling):
        raise DataError(
            f"its beats are not in order: {beats[falling[0] + 1]:.3f} s follows "
            f"{beats[falling[0]]:.3f} s"
        )
    if positions is not None and max(positions) > _LAST_PLACE:
        raise DataError(f"a beat has a place in its bar beyond {_LAST_PLACE}")
    places = np.zeros(len(beats), dtype=np.int64) if positions is None else np.array(positions)
    first = int((places >= 1).argmax())  # after a pickup
    return Beats(beats, places if (places[first:] >= 1).all() else np.zeros_like(places))


def make_spans(rows: Iterable[tuple[float, float, str]]) -> Spans:
    """Spans, checked, sorted, and joined where only rounding parts them; those without duration are
    left out.

    Args:
        rows: start and end in seconds, and label.

    Raises DataError if none has a duration, or if they overlap by more than rounding does.
    """
    spans = sorted((float(start), float(end), label) for start, end, label in rows)
    if not all(math.isfinite(value) for start, end, _ in spans for value in (start, end)):
        raise DataError("a span's time is not a number")
    if spans and spans[0][0] < 0:
        raise DataError(f"a span begins at {spans[0][0]:g} s, which is below zero")
    if backwards := [span for span in spans if span[1] < span[0]]:
        start, end, label = backwards[0]
        raise DataError(f"'{label}' ends at {end:.3f} s, before it begins at {start:.3f} s")
    spans = [span for span in spans if span[1] > span[0]]
    if not spans:
        raise DataError("none of its spans has a duration")
    intervals = np.array([(start, end) for start, end, _ in spans])
    ends, nexts = intervals[:-1, 1], intervals[1:, 0]
    over = np.flatnonzero(ends > nexts + _ROUNDING)
    if len(over):
        (_, end, label), (start, _, after) = spans[over[0]], spans[over[0] + 1]
        raise DataError(
            f"its spans overlap: '{label}' goes on until {end:.3f} s, and '{after}' begins at "
            f"{start:.3f} s"
        )
    # A boundary that is there twice can only be hit once.
    intervals[:-1, 1] = np.where(ends >= nexts - _ROUNDING, nexts, ends)
    return Spans(intervals, tuple(label for _, _, label in spans))


def read_jams(path: str | os.PathLike[str]) -> Read:
    """Reads the annotations that are used here; of several of a kind, the first, of tags all.

    Malformed observations are left out and reported. So is an annotation that is empty, contradicts
    itself, or is malformed in more than half of its observations; then the next one of its kind is
    taken. Namespaces that JAMS does not know, and forms that are not read, are reported too.
    Numbers may be written as strings. Downbeats come from the namespace beat_position, or from
    beat, where its values are places in the bar.

    Raises DataError if the file cannot be read or is not JAMS.
    """
    path = Path(path)
    content = _content(path)
    annotations: list[Any] = content["annotations"]
    problems: list[str] = []

    def usable(
        namespaces: Iterable[str],
        read: Callable[[Mapping[str, Any]], Observed],
        collect: Callable[[list[Observed]], Any],
    ) -> Iterator[Any]:
        """Annotations that can be used; what is wrong with the others is noted."""
        for namespace in namespaces:
            for annotation in annotations:
                if not isinstance(annotation, dict) or annotation.get("namespace") != namespace:
                    continue
                try:
                    rows, left_out = _rows(_observations(annotation), read)
                    found = collect(rows)
                except (DataError, TypeError, ValueError, AttributeError) as error:
                    reason = str(error) if isinstance(error, DataError) else "it is malformed"
                    problems.append(f"{path}: the annotation '{namespace}' is not used: {reason}")
                    continue
                if left_out:
                    problems.append(f"{path}: '{namespace}' is used without {left_out}")
                yield found

    def beats_of(rows: list[tuple[float, int, object]]) -> Beats:
        times, places, values = zip(*rows, strict=True)
        found = make_beats(times, places)
        if not found.positions.any() and any(value is not None for value in values):
            wrong = next(value for value, place in zip(values, places, strict=True) if not place)
            problems.append(
                f"{path}: downbeats are not used: not all beats have a place in the bar; one has "
                f"{_brief(wrong)}"
            )
        return found

    names = [item.get("namespace") if isinstance(item, dict) else None for item in annotations]
    texts = sorted({name for name in names if isinstance(name, str)})
    found = Annotations(
        beats=next(usable(BEAT_NAMESPACES, _beat, beats_of), None),
        chords=next(usable(CHORD_NAMESPACES, _span, make_spans), None),
        segments=next(usable(SEGMENT_NAMESPACES, _span, make_spans), None),
        keys=next(usable(KEY_NAMESPACES, _span, make_spans), None),
        tags=_together(
            list(usable([name for name in texts if name.startswith(TAG_PREFIX)], _tag, dict))
        ),
    )
    unread = [
        name
        for name in texts
        if not (name in _READ or name in _OTHER_KINDS or name.startswith(TAG_PREFIX))
        # Another form is not missed where there is one that is read.
        and not (name in _OTHER_FORMS and getattr(found, _OTHER_FORMS[name]) is not None)
    ]
    if unread:
        problems.append(
            f"{path}: nothing is read from the namespace {' or '.join(map(_brief, unread))}; "
            f"those that are read are {', '.join(_READ)} and {TAG_PREFIX}..."
        )
    if not all(isinstance(name, str) for name in names):
        problems.append(f"{path}: an annotation without a namespace is not used")
    return Read(found, _duration(content.get("file_metadata")), tuple(problems))


def _content(path: Path) -> dict[str, Any]:
    """What a JAMS file holds, with a list of annotations in it. Raises DataError."""
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the annotations {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON, hence not JAMS: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise DataError(f"{path} is not JAMS: it has no list of annotations")
    return content


def _duration(metadata: object) -> float | None:
    """Seconds, if they are known."""
    try:
        return (_number(metadata, "duration") or None) if isinstance(metadata, dict) else None
    except DataError:
        return None


def fit(read: Read, duration: float, name: str) -> Read:
    """Annotations held against the audio that they belong to.

    Args:
        read: the annotations.
        duration: of the audio, in seconds.
        name: of the annotations, for messages.

    Returns:
        The annotations, cut at the end of the audio. A kind that reaches far beyond is left out
        and reported, as is a duration that differs from the audio's.
    """
    problems = list(read.problems)
    if read.duration is not None and abs(read.duration - duration) > _BEYOND:
        problems.append(
            f"{name} is about {read.duration:.1f} s of audio, and the audio has {duration:.1f} s; "
            "is it another recording? Labels that do not go on beyond it are used all the same"
        )
    kept: dict[str, Any] = {}
    for kind in ("beats", "chords", "segments", "keys"):
        value = getattr(read.annotations, kind)
        if value is None:
            continue
        end = float(value.times[-1] if isinstance(value, Beats) else value.intervals[-1, 1])
        if end > duration + _BEYOND:
            problems.append(
                f"{name}: the {kind} are not used: they go on until {end:.1f} s, and the audio has "
                f"{duration:.1f} s"
            )
            kept[kind] = None
        elif isinstance(value, Beats):
            inside = value.times < duration
            kept[kind] = Beats(value.times[inside], value.positions[inside])
        else:
            inside = value.intervals[:, 0] < duration
            labels = tuple(itertools.compress(value.labels, inside))
            kept[kind] = Spans(np.minimum(value.intervals[inside], duration), labels)
        left = kept[kind]
        if left is not None and not len(left.times if isinstance(left, Beats) else left.labels):
            problems.append(f"{name}: the {kind} are not used: all lie beyond the audio's end")
            kept[kind] = None
    return Read(replace(read.annotations, **kept), read.duration, tuple(problems))


def _observations(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The data of an annotation; old JAMS has columns in the place of rows."""
    data = annotation.get("data")
    if isinstance(data, dict):
        data = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    if not isinstance(data, list) or not data:
        raise DataError("it is empty")
    return data


def _rows(
    observations: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Observed]
) -> tuple[list[Observed], str]:
    """What is read of each observation, and a sentence about those that cannot be.

    Raises DataError if these are more than half: then something else is wrong.
    """
    rows: list[Observed] = []
    wrong: list[str] = []
    for observation in observations:
        try:
            rows.append(read(observation))
        except DataError as error:
            wrong.append(f"{error} ({_brief(observation)})")
        except (TypeError, AttributeError):
            wrong.append(f"it is malformed ({_brief(observation)})")
    if len(wrong) > len(rows):
        raise DataError(f"{len(wrong)} of {len(observations)} observations are bad: {wrong[0]}")
    return (
        rows,
        f"{len(wrong)} of its {len(observations)} observations: {wrong[0]}" if wrong else "",
    )


def _brief(value: object) -> str:
    """A value as JSON writes it, or the beginning of that."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _BRIEF else f"{text[:_BRIEF]}..."


def _as_number(value: object) -> float | None:
    """A number, which may be written as a string; None if it is none, or not finite."""
    if isinstance(value, str) and _NUMERAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _number(observation: Mapping[str, Any], key: str) -> float:
    value = observation.get(key)
    number = _as_number(value)
    if number is None:
        raise DataError(f"an observation has {key} {value!r}, which is not a number")
    if number < 0:
        raise DataError(f"an observation has {key} {number:g}, which is below zero")
    return number


def _beat(observation: Mapping[str, Any]) -> tuple[float, int, object]:
    value = observation.get("value")
    if isinstance(value, dict):
        value = value.get("position", value)
    place = _as_number(value) or 0.0
    # 0 for what is none, such as a fraction of a bar.
    return _number(observation, "time"), int(place) if place >= 1 and place % 1 == 0 else 0, value


def _span(observation: Mapping[str, Any]) -> tuple[float, float, str]:
    start = _number(observation, "time")
    return start, start + _number(observation, "duration"), _label(observation)


def _tag(observation: Mapping[str, Any]) -> tuple[str, float]:
    """Its confidence is 1 where there is none, as most files have it."""
    label = _label(observation)
    if observation.get("confidence") is None:
        return label, 1.0
    sure = _number(observation, "confidence")
    if sure > 1.0:
        raise DataError(f"a tag has the confidence {sure:g}; give 0 to 1, or none")
    return label, sure


def _label(observation: Mapping[str, Any]) -> str:
    """Composed as Unicode's NFC: the same label in another form is the same."""
    value = observation.get("value")
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"a span has the label {value!r}")
    return unicodedata.normalize("NFC", value.strip())


def _together(annotated: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """The tags of all annotations, each with its highest confidence; None without any."""
    found: dict[str, float] = {}
    for tags in annotated:
        found |= {tag: max(sure, found.get(tag, 0.0)) for tag, sure in tags.items()}
    return found if annotated else None
