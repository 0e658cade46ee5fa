"""An analysis for other programs: tables, labels of Audacity, a MIDI file and a click track."""

import csv
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mido
import numpy as np
import numpy.typing as npt

from musicfm import audio
from musicfm.analysis.analyzer import Analysis
from musicfm.datasets.annotations import Beats, Spans
from musicfm.files import atomic_write
from musicfm.remote import Location

CLICK_RATE = 44_100
_CLICK_SECONDS = 0.03
_CLICK_HERTZ = {True: 1_760.0, False: 1_175.0}
"""By whether it is a downbeat."""
_CLICK_LEVEL = 0.5

_TICKS = 480  # of a MIDI file, per beat
_SIDE_STICK, _CLAVES = 37, 75  # General MIDI percussion
_DRUMS = 9
_DEFAULT_BEAT_SECONDS = 0.5
_LONGEST_BAR = 255  # beats; a MIDI file has a byte for them
_SLOWEST = 2**24 - 1  # microseconds per beat; a MIDI file has three bytes for them


@dataclass(frozen=True)
class Row:
    """A line of a table: an instant, or a span, and what is there."""

    start: float
    end: float
    label: str
    confidence: float | None


def rows(analysis: Analysis) -> dict[str, list[Row]]:
    """What is known, as lines, by kind; a beat's label is its place in the bar."""
    found = analysis.annotations
    spans = {"chords": found.chords, "sections": found.segments, "key": found.keys}
    lines = {} if found.beats is None else {"beats": list(_of_beats(found.beats))}
    lines.update({kind: list(_of_spans(part)) for kind, part in spans.items() if part is not None})
    if found.tags is not None:
        ranked = sorted(found.tags.items(), key=lambda item: (-item[1], item[0]))
        lines["tags"] = [Row(0.0, analysis.duration, tag, sure) for tag, sure in ranked]
    return lines


def write_csv(analysis: Analysis, recording: Location, path: Path) -> None:
    """A table with a line for everything: kind, start and end in seconds, label, confidence."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "start", "end", "label", "confidence"])
        for kind, lines in rows(analysis).items():
            for row in lines:
                sure = "" if row.confidence is None else f"{row.confidence:.4f}"
                writer.writerow([kind, f"{row.start:.6f}", f"{row.end:.6f}", row.label, sure])


def write_labels(analysis: Analysis, recording: Location, path: Path) -> None:
    """A label track of Audacity: start, end and label, separated by tabs, in order of time."""
    lines = [row for kind, part in rows(analysis).items() if kind != "tags" for row in part]
    with atomic_write(path) as temporary:
        temporary.write_text(
            "".join(
                f"{row.start:.6f}\t{row.end:.6f}\t{row.label}\n"
                for row in sorted(lines, key=lambda row: (row.start, -row.end))
            ),
            encoding="utf-8",
        )


def write_midi(analysis: Analysis, recording: Location, path: Path) -> None:
    """A MIDI file whose tempo follows the beats, with a click at each and the sections as markers.

    A quarter note is a beat, and a bar is one, so that a sequencer's grid lies on the music.
    """
    beats = _beats(analysis)
    file = mido.MidiFile(ticks_per_beat=_TICKS)
    file.tracks += [_tempo_track(analysis, beats), _click_track(beats)]
    with atomic_write(path) as temporary:
        file.save(temporary)


def write_click(analysis: Analysis, recording: Location, path: Path) -> None:
    """The recording, mono, with a click on each beat, a higher one on downbeats.

    Of a damaged one it is what comes before the damage, with an AudioWarning. Raises AudioError if
    nothing can be read.
    """
    beats = _beats(analysis)
    starts = np.round(beats.times * CLICK_RATE).astype(np.int64)
    clicks = {is_down: _click(hertz) for is_down, hertz in _CLICK_HERTZ.items()}
    with atomic_write(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(CLICK_RATE)
        first = 0
        for block in audio.stream(recording, CLICK_RATE, on_damage="warn"):
            mixed = (1.0 - _CLICK_LEVEL) * block
            length = len(clicks[True])
            near = range(*np.searchsorted(starts, [first - length + 1, first + len(block)]))
            for index in near:
                _add(mixed, clicks[bool(beats.positions[index] == 1)], int(starts[index]) - first)
            file.writeframes((32_767 * mixed.clip(-1.0, 1.0)).astype("<i2").tobytes())
            first += len(block)


@dataclass(frozen=True)
class Export:
    """A kind of file."""

    suffix: str
    write: Callable[[Analysis, Location, Path], None]
    """Takes the analysis, the recording, and where the file goes."""


EXPORTS: Mapping[str, Export] = {
    "csv": Export(".csv", write_csv),
    "labels": Export(".labels.txt", write_labels),
    "midi": Export(".mid", write_midi),
    "click": Export(".click.wav", write_click),
}


def _beats(analysis: Analysis) -> Beats:
    """Of a recording in which none was found, or looked for: none."""
    none = Beats(np.empty(0), np.empty(0, np.int64))
    return none if analysis.annotations.beats is None else analysis.annotations.beats


def _of_beats(beats: Beats) -> Iterator[Row]:
    sure = [None] * len(beats.times) if beats.confidences is None else beats.confidences.tolist()
    for time, position, confidence in zip(
        beats.times.tolist(), beats.positions.tolist(), sure, strict=True
    ):
        yield Row(time, time, str(position or ""), confidence)


def _of_spans(spans: Spans) -> Iterator[Row]:
    sure = [None] * len(spans.labels) if spans.confidences is None else spans.confidences.tolist()
    for (start, end), label, confidence in zip(
        spans.intervals.tolist(), spans.labels, sure, strict=True
    ):
        yield Row(start, end, label, confidence)


def _tempo_track(analysis: Analysis, beats: Beats) -> mido.MidiTrack:
    """A tempo for each beat, metres, and sections as markers at the beat that is nearest."""
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=_latin(analysis.title))])
    # What comes before the first beat is a beat too, of whatever length.
    times = np.concatenate([[0.0], beats.times[beats.times > 0.0]])
    metres = _metres(np.concatenate([np.zeros(len(times) - len(beats.times)), beats.positions]))
    markers: dict[int, list[str]] = {}
    sections = analysis.annotations.segments
    if sections is not None:
        for start, label in zip(sections.intervals[:, 0], sections.labels, strict=True):
            markers.setdefault(int(np.abs(times - start).argmin()), []).append(label)
    lengths = np.diff(times)
    lengths = np.append(lengths, lengths[-1:] if len(lengths) else _DEFAULT_BEAT_SECONDS)
    for index, length in enumerate(lengths.tolist()):
        tempo = min(max(1, round(1e6 * length)), _SLOWEST)
        delta = _TICKS if index else 0
        track.append(mido.MetaMessage("set_tempo", tempo=tempo, time=delta))
        if index in metres:
            track.append(mido.MetaMessage("time_signature", numerator=metres[index]))
        track += [mido.MetaMessage("marker", text=label) for label in markers.get(index, [])]
    return track


def _metres(positions: npt.NDArray[np.float64]) -> dict[int, int]:
    """Beats in a bar, by the beat at which that begins to hold; what comes before the first
    downbeat is a bar, too.

    Args:
        positions: of the beats in their bars; 1 is a downbeat.
    """
    downbeats = np.flatnonzero(positions == 1)
    if not len(downbeats):
        return {}
    starts = np.union1d(0, downbeats)
    lengths = np.minimum(np.diff(starts), _LONGEST_BAR)
    changes = np.flatnonzero(np.diff(lengths, prepend=0))
    return {int(starts[change]): int(lengths[change]) for change in changes}


def _click_track(beats: Beats) -> mido.MidiTrack:
    track = mido.MidiTrack([mido.MetaMessage("track_name", name="clicks")])
    wait = _TICKS if len(beats.times) and beats.times[0] > 0.0 else 0
    for position in beats.positions.tolist():
        note, velocity = (_CLAVES, 112) if position == 1 else (_SIDE_STICK, 80)
        sound = {"channel": _DRUMS, "note": note}
        track.append(mido.Message("note_on", velocity=velocity, time=wait, **sound))
        track.append(mido.Message("note_off", time=_TICKS // 8, **sound))
        wait = _TICKS - _TICKS // 8
    return track


def _latin(text: str) -> str:
    """As MIDI files have text."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _click(hertz: float) -> npt.NDArray[np.float32]:
    time = np.arange(round(_CLICK_SECONDS * CLICK_RATE)) / CLICK_RATE
    click = _CLICK_LEVEL * np.sin(2 * np.pi * hertz * time) * np.exp(-time / 0.006)
    return click.astype(np.float32)


def _add(block: npt.NDArray[np.float32], click: npt.NDArray[np.float32], start: int) -> None:
    """Adds the part of a click that lies within a block."""
    begin, end = max(0, start), min(len(block), start + len(click))
    block[begin:end] += click[begin - start : end - start]
