"""An analysis for other programs: tables, label tracks for Audacity, a MIDI file, a click track."""

import csv
import io
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.midi import tempo_map
from musicfm.audio import reading
from musicfm.datasets.annotations import Span
from musicfm.errors import printable
from musicfm.files import atomic_write, write_file
from musicfm.remote import Location

LABEL_TRACKS = ("beats", "chords", "sections", "key")
CLICK_RATE = 44_100
_CLICK_SECONDS = 0.03
_CLICK_HERTZ = {True: 1_760.0, False: 1_175.0}
"""Pitch of a click, in Hz, by whether it is a downbeat."""
_CLICK_LEVEL = 0.5


def rows(analysis: Analysis) -> dict[str, list[Span]]:
    """What is known, as lines, by kind; a beat's label is its position in the bar."""
    known, tags = analysis.annotations, analysis.tags.items()
    beats = [Span(b.time, b.time, str(b.position or ""), b.confidence) for b in analysis.beats]
    found = {
        "beats": (known.beats, beats),
        "chords": (known.chords, analysis.chords),
        "sections": (known.segments, analysis.sections),
        "key": (known.keys, analysis.keys),
        "tags": (known.tags, [Span(0.0, analysis.duration, tag, sure) for tag, sure in tags]),
    }
    return {kind: lines for kind, (part, lines) in found.items() if part is not None}


def csv_table(analysis: Analysis) -> str:
    """A table with a line for everything: kind, start and end in seconds, label, confidence."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["kind", "start", "end", "label", "confidence"])
    for kind, lines in rows(analysis).items():
        for row in lines:
            sure = "" if row.confidence is None else f"{row.confidence:.4f}"
            writer.writerow([kind, f"{row.start:.6f}", f"{row.end:.6f}", row.label, sure])
    return file.getvalue()


def label_tracks(analysis: Analysis) -> dict[str, str]:
    """Label tracks for Audacity, by suffix: one for each kind, since labels of one track hide each
    other. A line has start, end and label, separated by tabs.
    """
    lines = rows(analysis)
    return {
        f".{kind}.labels.txt": "".join(
            f"{row.start:.6f}\t{row.end:.6f}\t{printable(row.label)}\n" for row in lines[kind]
        )
        for kind in LABEL_TRACKS
        if kind in lines
    }


def write_csv(analysis: Analysis, recording: Location, stem: Path) -> None:
    """See :func:`csv_table`."""
    write_file(named(stem, ".csv"), csv_table(analysis))


def write_labels(analysis: Analysis, recording: Location, stem: Path) -> None:
    """See :func:`label_tracks`."""
    for suffix, text in label_tracks(analysis).items():
        write_file(named(stem, suffix), text)


def write_midi(analysis: Analysis, recording: Location, stem: Path) -> None:
    """See :func:`musicfm.analysis.midi.tempo_map`."""
    with atomic_write(named(stem, ".mid")) as temporary:
        tempo_map(analysis).save(temporary)


def write_click(analysis: Analysis, recording: Location, stem: Path) -> None:
    """The recording, mono, with a click on each beat, a higher one on downbeats.

    Of a damaged one it is what comes before the damage, with an AudioWarning. Raises AudioError if
    nothing can be read.
    """
    beats = analysis.beats
    starts = np.array([round(beat.time * CLICK_RATE) for beat in beats], np.int64)
    clicks = {is_down: _click(hertz) for is_down, hertz in _CLICK_HERTZ.items()}
    with (
        atomic_write(named(stem, ".click.wav")) as temporary,
        wave.open(str(temporary), "wb") as file,
    ):
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(CLICK_RATE)
        first = 0
        for block in reading.stream(recording, CLICK_RATE, on_damage="warn"):
            mixed = (1.0 - _CLICK_LEVEL) * block
            length = len(clicks[True])
            near = range(*np.searchsorted(starts, [first - length + 1, first + len(block)]))
            for index in near:
                _add(mixed, clicks[beats[index].position == 1], int(starts[index]) - first)
            file.writeframes((32_767 * mixed.clip(-1.0, 1.0)).astype("<i2").tobytes())
            first += len(block)


@dataclass(frozen=True)
class Export:
    """A kind of file, or of files that belong together."""

    suffixes: tuple[str, ...]
    """The suffixes of all files that it may write."""
    write: Callable[[Analysis, Location, Path], None]
    """Writes them, given the analysis, the recording, and the path of the files without suffix."""


EXPORTS: Mapping[str, Export] = {
    "csv": Export((".csv",), write_csv),
    "labels": Export(tuple(f".{kind}.labels.txt" for kind in LABEL_TRACKS), write_labels),
    "midi": Export((".mid",), write_midi),
    "click": Export((".click.wav",), write_click),
}


def named(stem: Path, suffix: str) -> Path:
    """A file of a name that may have dots, which Path.with_suffix would take for suffixes."""
    return stem.with_name(stem.name + suffix)


def _click(hertz: float) -> npt.NDArray[np.float32]:
    time = np.arange(round(_CLICK_SECONDS * CLICK_RATE)) / CLICK_RATE
    click = _CLICK_LEVEL * np.sin(2 * np.pi * hertz * time) * np.exp(-time / 0.006)
    return click.astype(np.float32)


def _add(block: npt.NDArray[np.float32], click: npt.NDArray[np.float32], start: int) -> None:
    """Adds the part of a click that lies within a block."""
    begin, end = max(0, start), min(len(block), start + len(click))
    block[begin:end] += click[begin - start : end - start]
