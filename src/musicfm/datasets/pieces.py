"""Pieces of a published dataset: where audio and annotations lie, before either is read.

What a dataset's folder says about its tracks becomes pieces; from pieces comes labelled data, with
whatever cannot be used reported by file and reason.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TextIO, Unpack

from musicfm.audio.folders import AUDIO_SUFFIXES
from musicfm.audio.processes import Work
from musicfm.datasets.annotations import Annotations, Beats, Read, Spans, fit, make_beats
from musicfm.datasets.labelled import Labelled, LabelledTrack, divided
from musicfm.datasets.scanning import scan
from musicfm.datasets.splits import Folding, Splitting, fold, split
from musicfm.datasets.tracks import Split, Track
from musicfm.errors import DataError


@dataclass(frozen=True)
class Piece:
    """A track of a dataset."""

    audio: Path
    """Where the recording should be; any other format of the same name will do."""
    annotate: Callable[[float], Read]
    """Annotations, by the duration in seconds. Raises DataError if there are none."""
    artist: str | None = None
    """The artist, or what else is never divided between splits; None: what the file's tags say."""
    album: str | None = None
    title: str | None = None
    split: Split | None = None
    """The dataset's own split."""


@dataclass(frozen=True)
class Collected:
    """The pieces of a dataset."""

    pieces: Sequence[Piece]
    problems: Sequence[str] = field(default=())


def read_pieces(
    collected: Collected,
    splitting: Splitting | Folding | None,
    **work: Unpack[Work],
) -> Labelled:
    """Scans the audio of pieces and reads their annotations.

    Args:
        collected: the pieces.
        splitting: how to split them; None keeps the dataset's own splits.
        work: see :class:`musicfm.audio.processes.Work`.

    Raises DataError if no piece can be used.
    """
    problems = [*collected.problems]
    found: dict[str, Piece] = {}
    names = cache(_by_stem)
    for piece in collected.pieces:
        audio = Path(os.path.abspath(piece.audio))  # as scan names it
        if not os.path.isfile(audio):
            audio = names(audio.parent).get(audio.stem, audio)
        if str(audio) in found:
            problems.append(f"{audio} is listed twice; the first entry is used")
        elif os.path.isfile(audio):
            found[str(audio)] = piece
        else:
            problems.append(f"{audio} is not there, and neither is it in another format")
    tracks: list[LabelledTrack] = []
    if found:
        scanned = scan([*found], **work)
        problems.extend(reason for _, reason in scanned.failures)
        root = Path(scanned.manifest.root)
        manifest = scanned.manifest.map(
            lambda track: _described(track, found[str(root / track.path)], splitting is None)
        )
        for track in manifest:
            audio = root / track.path
            try:
                read = found[str(audio)].annotate(track.duration)
            except DataError as error:
                problems.append(str(error))
                continue
            read = fit(read, track.duration, f"the annotations of {audio}")
            problems.extend(read.problems)
            if all(value is None for value in vars(read.annotations).values()):
                problems.append(f"{audio} has no annotations that can be used")
                continue
            tracks.append(LabelledTrack(track, audio, read.annotations))
    if not tracks:
        more = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise DataError(f"no track of the dataset can be used{more}")
    if isinstance(splitting, Splitting):
        tracks = [*divided(tracks, partial(split, how=splitting))]
    elif isinstance(splitting, Folding):
        tracks = [*divided(tracks, partial(fold, how=splitting))]
    return Labelled(tuple(tracks), tuple(problems))


def whole(annotations: Annotations) -> Callable[[float], Read]:
    """For a piece whose annotations are known and do not depend on its duration."""
    return lambda _: Read(annotations, None)


def whole_key(name: str) -> Callable[[float], Read]:
    """For a piece that is in one key, given as JAMS spells it."""
    return lambda duration: Read(Annotations(keys=Spans.whole(name, duration)), None)


def key_name(text: str) -> str | None:
    """A key such as "D# minor", in JAMS's spelling; None unless it is a single major or minor one.

    What the annotators of electronic dance music write in its place are two keys ("C minor / F
    minor"), a tonic without a mode, or a dash.
    """
    tonic, _, mode = text.strip().partition(" ")
    is_tonic = tonic[:1] in set("ABCDEFG") and tonic[1:] in ("", "#", "b")
    mode = mode.strip().lower()
    return f"{tonic}:{mode}" if tonic and is_tonic and mode in ("major", "minor") else None


def read_beats(path: Path) -> Beats:
    """Beats from a text file: on each line a time in seconds, and a place in the bar.

    Further columns do not count. Raises DataError, which names file and line.
    """
    times, positions = [], []
    for number, line in lines_of(path):
        try:
            time, position, *_ = line.split()
            times.append(float(time))
            positions.append(int(position))
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not a beat: {line!r}") from error
    try:
        return make_beats(times, positions)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, and their numbers from 1. Raises DataError."""
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def rows_of(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[dict[str, str]]:
    """The rows of a table with a head. Raises DataError if it lacks one of the columns."""
    with open_text(path) as file:
        rows = csv.DictReader(file, delimiter=delimiter, restval="")
        if missing := [name for name in columns if name not in (rows.fieldnames or ())]:
            raise DataError(f"{path} has no column '{missing[0]}'; download it again")
        yield from rows


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file of a dataset. Raises DataError, which names it."""
    if "\0" in str(path):  # of a name in a damaged list
        raise DataError(f"no file can be called {path}; download the list that names it again")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; download it again") from error
    except (UnicodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}); download it again") from error


def _described(track: Track, piece: Piece, is_split: bool) -> Track:
    return replace(
        track,
        artist=track.artist if piece.artist is None else piece.artist,
        album=track.album if piece.album is None else piece.album,
        title=track.title if piece.title is None else piece.title,
        split=piece.split if is_split else None,
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    """The recordings in a folder, by name without suffix; the first of several formats."""
    if not os.path.isdir(folder):
        return {}
    paths = sorted(folder.iterdir(), reverse=True)
    return {path.stem: path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES}
