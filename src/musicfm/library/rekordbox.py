"""Tracks as a collection that rekordbox imports: beat grids, keys, and sections as memory cues.

The format is that of AlphaTheta's "rekordbox xml" for developers. It was not tried with rekordbox
itself, but with other programs that read it.

**Time in MP3 files.** Encoders put silence before the sound, and state in a header how much. Our
decoder cuts it off, as FFmpeg does, and rekordbox plays it (its release notes, since 1.5.4): there,
everything is later by what was cut, which is 25 ms for LAME at 44.1 kHz. Files without the header
have the same times in both. Mixxx moves what it imports from rekordbox by 26 ms for files with a
valid header and by nothing for those without one.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO
from xml.etree import ElementTree as xml

import av
import numpy as np

import musicfm
from musicfm.analysis.analyzer import Analysis
from musicfm.datasets.annotations import Array, Beats
from musicfm.errors import printable
from musicfm.library.database import Track
from musicfm.library.keys import write_key
from musicfm.remote import is_url

KINDS = {
    ".mp3": "MP3 File",
    ".m4a": "M4A File",
    ".mp4": "M4A File",
    ".aac": "M4A File",
    ".flac": "FLAC File",
    ".wav": "WAV File",
    ".aif": "AIFF File",
    ".aiff": "AIFF File",
}
"""The formats that rekordbox plays, by suffix."""

_TOLERANCE_SECONDS = 0.035
"""The distance of a beat from a grid above which another grid begins."""
_FEWEST = 8
"""The number of beats below which a grid gets the tempo of the track."""


@dataclass(frozen=True)
class Grid:
    """Beats at one tempo, until the next grid begins."""

    start: float
    """The time of its first beat in seconds."""
    bpm: float
    position: int
    """The position of its first beat in the bar, from 1."""
    meter: int
    """Beats in a bar."""


def plays(track: Track) -> bool:
    """Whether rekordbox could play a track."""
    return not is_url(track.path) and PurePath(track.path).suffix.lower() in KINDS


def write_collection(tracks: Iterable[tuple[Track, Analysis | None]], file: IO[bytes]) -> None:
    """Writes a collection.

    Args:
        tracks: those that :func:`plays` is true of, and what is known of them.
        file: open for writing.
    """
    root = xml.Element("DJ_PLAYLISTS", Version="1.0.0")
    xml.SubElement(root, "PRODUCT", Name="musicfm", Version=musicfm.__version__, Company="")
    collection = xml.SubElement(root, "COLLECTION")
    for track, analysis in tracks:
        collection.append(_element(track, analysis))
    collection.set("Entries", str(len(collection)))
    playlists = xml.SubElement(root, "PLAYLISTS")
    xml.SubElement(playlists, "NODE", Type="0", Name="ROOT", Count="0")
    xml.indent(root)
    xml.ElementTree(root).write(file, encoding="UTF-8", xml_declaration=True)


def _element(track: Track, analysis: Analysis | None) -> xml.Element:
    element = xml.Element(
        "TRACK",
        TrackID=str(track.id),
        Name=printable(track.title),
        Artist=printable(track.artist),
        Album=printable(track.album),
        Kind=KINDS[PurePath(track.path).suffix.lower()],
        Size=str(track.size),
        TotalTime=str(round(track.duration)),
        Location=Path(track.path).as_uri().replace("file://", "file://localhost", 1),
    )
    if track.tempo is not None:
        element.set("AverageBpm", f"{track.tempo:.2f}")
    if track.key is not None:
        element.set("Tonality", write_key(track.key))
    if analysis is not None:
        offset = cut_by_decoder(track.path)
        for grid in grids(analysis.annotations.beats, track.tempo):
            xml.SubElement(
                element,
                "TEMPO",
                Inizio=f"{grid.start + offset:.3f}",
                Bpm=f"{grid.bpm:.2f}",
                Metro=f"{grid.meter}/4",
                Battito=str(grid.position),
            )
        for section in analysis.sections:
            xml.SubElement(
                element,
                "POSITION_MARK",
                Name=printable(section.label),
                Type="0",
                Start=f"{section.start + offset:.3f}",
                Num="-1",
            )
    return element


def cut_by_decoder(path: str) -> float:
    """Seconds at the beginning of an MP3 file that our decoder cuts off, and rekordbox plays; 0 of
    other files, and of what is not there.
    """
    if PurePath(path).suffix.lower() != ".mp3" or not os.path.isfile(path):
        return 0.0
    try:
        with av.open(path) as container:
            stream = container.streams.audio[0]
            return float((stream.start_time or 0) * (stream.time_base or 0))
    except (av.FFmpegError, IndexError):
        return 0.0


def grids(beats: Beats | None, bpm: float | None) -> list[Grid]:
    """Grids that fit beats, from the first downbeat on; one alone where the tempo is steady.

    Args:
        beats: that were found.
        bpm: the tempo of the track.
    """
    if beats is None or bpm is None or len(beats.times) < 2:
        return []
    downbeats = np.flatnonzero(beats.positions == 1)
    first = int(downbeats[0]) if len(downbeats) else 0
    times, positions = beats.times[first:], beats.positions[first:]
    lengths = np.diff(downbeats)
    meter = int(np.bincount(lengths).argmax()) if len(lengths) else 4
    found = []
    for start, stop in _steady(times):
        origin, seconds = _line(times[start:stop]) if stop - start > 1 else (times[start], 0.0)
        if stop - start < _FEWEST:
            origin, seconds = times[start], 60.0 / bpm
        position = max(1, int(positions[start]))
        if origin < 0.0:  # which rekordbox does not take
            origin, position = origin + seconds, position % meter + 1
        found.append(Grid(float(origin), 60.0 / seconds, position, meter))
    return found


def _steady(times: Array) -> Iterator[tuple[int, int]]:
    """Runs of beats at one tempo, as long as can be found by bisection."""
    start = 0
    while start < len(times):
        good, bad = start + 1, len(times) + 1
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if _is_steady(times[start:middle]) else (good, middle)
        yield start, good
        start = good


def _is_steady(times: Array) -> bool:
    origin, seconds = _line(times)
    errors = origin + seconds * np.arange(len(times)) - times
    return bool(np.abs(errors).max() <= _TOLERANCE_SECONDS)


def _line(times: Array) -> tuple[float, float]:
    """The first beat and the length of a beat that fit best, of two beats or more."""
    numbers = np.arange(len(times)) - (len(times) - 1) / 2
    seconds = float((numbers * times).sum() / (numbers**2).sum())
    return float(times.mean() + seconds * numbers[0]), seconds
