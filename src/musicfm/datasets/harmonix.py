"""The Harmonix Set: beats, downbeats and functional sections of 912 Western pop tracks.

What is read is the repository as it is published, https://github.com/urinieto/harmonixset. Audio is
not distributed; it is sought in the folder ``audio`` of the repository, as ``0001_12step.mp3`` or
in another format.

O. Nieto et al., "The Harmonix Set: beats, downbeats, and functional segment annotations of Western
popular music", ISMIR 2019.
"""

import itertools
import math
from functools import partial
from pathlib import Path

from musicfm.datasets.annotations import Annotations, Read, Spans, make_spans
from musicfm.datasets.pieces import Collected, Piece, lines_of, read_beats, rows_of
from musicfm.errors import DataError

_COLUMNS = ("File", "Title", "Artist", "Release", "Duration")


def collect_harmonix(home: Path) -> Collected:
    """The tracks that ``dataset/metadata.csv`` lists.

    Raises DataError if that cannot be read.
    """
    rows = rows_of(home / "dataset" / "metadata.csv", _COLUMNS, ",")
    return Collected(
        [
            Piece(
                home / "audio" / f"{row['File']}.mp3",
                partial(_annotate, home / "dataset", row["File"], _seconds(row["Duration"])),
                artist=row["Artist"],
                album=row["Release"],
                title=row["Title"],
            )
            for row in rows
        ]
    )


def _seconds(text: str) -> float | None:
    """How long the music that was annotated is; None if the table does not say."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0.0 < seconds < math.inf else None


def _annotate(folder: Path, name: str, annotated: float | None, duration: float) -> Read:
    problems: list[str] = []
    beats = segments = None
    try:
        beats = read_beats(folder / "beats_and_downbeats" / f"{name}.txt")
    except DataError as error:
        problems.append(str(error))
    try:
        segments = _read_segments(folder / "segments" / f"{name}.txt", duration)
    except DataError as error:
        problems.append(str(error))
    return Read(Annotations(beats=beats, segments=segments), annotated, tuple(problems))


def _read_segments(path: Path, duration: float) -> Spans:
    """Sections: on each line where one begins, in seconds, and its label; the last, which is called
    "end", goes on until all ends.

    The files separate the two by a blank, whatever the repository says of tabs.
    """
    starts, labels = [], []
    for number, line in lines_of(path):
        try:
            start, label = line.split(maxsplit=1)
            starts.append(float(start))
            labels.append(label.strip())
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not a section: {line!r}") from error
    # Music that was cut shorter than what was annotated is reported when held against the audio.
    bounds = [*starts, max(duration, *starts)] if starts else []
    try:
        return make_spans(
            (start, end, label)
            for (start, end), label in zip(itertools.pairwise(bounds), labels, strict=True)
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
