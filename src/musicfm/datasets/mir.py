"""Datasets that mirdata reads (https://github.com/mir-dataset-loaders/mirdata).

Their layouts, file formats and corrections are mirdata's, and so is the list of each dataset's
files, its index. That is not part of the package, and downloaded once. Nothing is downloaded here.

What is done here beyond mirdata: functions of SALAMI's sections and names of Billboard's, which it
does not read as they are meant; GuitarSet's JAMS files; GTZAN's fault-filtered split.
"""

import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from musicfm.datasets.annotations import (
    Annotations,
    Beats,
    Read,
    Spans,
    make_beats,
    make_spans,
    read_jams,
)
from musicfm.datasets.gtzan import filtered_split
from musicfm.datasets.pieces import Collected, Piece, key_name, lines_of
from musicfm.errors import ConfigError, DataError

NO_FUNCTION = "no_function"
"""SALAMI's name for a section without a function."""

Mirdata = Any
"""A track of mirdata's, which has no types."""


@dataclass(frozen=True)
class Loader:
    """How to read one of mirdata's datasets."""

    name: str
    """mirdata's name of the dataset."""
    annotate: Callable[[Mirdata, float], Read]
    """Annotations of a track, of its duration in seconds."""
    about: Callable[[Mirdata], Mapping[str, Any]] = lambda _: {}
    """Artist, album, title and split of a piece."""
    audio: str = "audio_path"


@dataclass(frozen=True)
class Part:
    """Annotations of one kind."""

    path: str
    """The attribute of a track that says where they lie; None there: there are none."""
    value: Callable[[Mirdata, float], Any]


def collect_mir(loader: Loader, home: Path) -> Collected:
    """The tracks that mirdata knows of a dataset in a folder.

    Raises:
        ConfigError: mirdata or its index of the dataset is missing.
        DataError: the dataset's table of metadata is missing.
    """
    dataset = _initialize(loader.name, home)
    pieces, problems = [], []
    for name in dataset.track_ids:
        try:
            track = dataset.track(name)
            audio = getattr(track, loader.audio)
            if audio is None:
                raise ValueError("its list has no audio")
            facts = loader.about(track)
        except FileNotFoundError as error:  # of a table for all tracks
            raise DataError(
                f"{home} lacks what {loader.name} says of its tracks: {error}"
            ) from error
        except Exception as error:  # whatever a loader makes of a damaged file
            problems.append(f"track {name} of {loader.name} in {home} cannot be used: {error!r}")
            continue
        pieces.append(Piece(Path(audio), partial(loader.annotate, track), **facts))
    return Collected(pieces, problems)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Importing mirdata and its datasets sets up the logging of the whole program; undone here."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _initialize(name: str, home: Path) -> Any:
    """The dataset as mirdata has it, with its index read."""
    with _logging_kept():
        try:
            import mirdata
        except ImportError as error:
            raise ConfigError(
                f"{name} is read with mirdata; pip install 'musicfm[data]'"
            ) from error
        dataset = mirdata.initialize(name, data_home=str(home))
    try:
        dataset.track_ids  # noqa: B018  (reads the index)
    except FileNotFoundError as error:
        command = f"import mirdata; mirdata.initialize({name!r}, {str(home)!r}).download(['index'])"
        raise ConfigError(
            f"mirdata has no list of the files of {name} at {dataset.index_path}; download it with "
            f'python -c "{command}"'
        ) from error
    except ValueError as error:
        raise DataError(
            f"{dataset.index_path} is damaged; delete it, and download again"
        ) from error
    return dataset


def _parts(**parts: Part) -> Callable[[Mirdata, float], Read]:
    """Reads annotations by kind; one that cannot be used is left out and reported."""

    def annotate(track: Mirdata, duration: float) -> Read:
        found: dict[str, Any] = {}
        problems = []
        for kind, part in parts.items():
            path = getattr(track, part.path)
            if path is None:
                continue
            try:
                found[kind] = part.value(track, duration)
            except FileNotFoundError:
                problems.append(f"{path} is not there")
            except Exception as error:  # whatever a loader makes of a damaged file
                reason = str(error) or type(error).__name__
                problems.append(f"{path}: the {kind} are not used: {reason}")
        return Read(Annotations(**found), None, tuple(problems))

    return annotate


def _beats(track: Mirdata, _: float) -> Beats | None:
    data = track.beats
    if data is None:
        return None
    return make_beats(data.times, None if data.positions is None else data.positions.astype(int))


def _spans(data: Any, labels: str = "labels") -> Spans | None:
    if data is None:
        return None
    rows = zip(data.intervals, getattr(data, labels), strict=True)
    return make_spans((start, end, label) for (start, end), label in rows)


def _genre(track: Mirdata, _: float) -> dict[str, float]:
    if track.track_id not in filtered_split():
        raise DataError(f"the fault-filtered split leaves {track.track_id} out")
    return {track.genre: 1.0}


def _single_key(text: str, duration: float) -> Spans:
    key = key_name(text)
    if key is None:
        raise DataError(f"'{text.strip()}' is not a single major or minor key")
    return Spans.whole(key, duration)


def _functions(track: Mirdata, _: float) -> Spans:
    """SALAMI's functions by the first annotator who gave some; mirdata reads letters only."""
    from mirdata.datasets.salami import load_sections

    for letters in (
        track.sections_annotator1_uppercase_path,
        track.sections_annotator2_uppercase_path,
    ):
        path = Path(str(letters).replace("_uppercase", "_functions"))
        if letters is None or not os.path.isfile(path):
            continue
        data = load_sections(str(path))
        labels = [] if data is None else data.labels
        if any(label.lower() != NO_FUNCTION for label in labels):
            rows = zip(data.intervals, labels, strict=True)
            return make_spans((*span, label) for span, label in rows)
    raise DataError(f"no annotator gave functions to track {track.track_id}")


def _named_sections(track: Mirdata, _: float) -> Spans:
    """Billboard's sections, such as "A, verse, | C | F |"; those without a name have no function.

    A line with a letter begins a section, silence or the end of the music does too. mirdata takes
    what is said of the instruments for a name where there is none.
    """
    sections: list[tuple[float, str]] = []
    path = Path(track.salami_path)
    for number, line in lines_of(path):
        if line.startswith("#"):
            continue
        try:
            time, text = line.split("\t", 1)
            words = text.split(", ")
            if words[0] in ("silence", "end"):
                sections.append((float(time), "silence"))
            elif re.fullmatch(r"[A-Z]+'*", words[0]):
                is_named = len(words) > 1 and not set("|()") & set(words[1])
                sections.append((float(time), words[1] if is_named else NO_FUNCTION))
        except ValueError as error:
            raise DataError(f"line {number} is {line!r}") from error
    pairs = itertools.pairwise(sections)
    return make_spans((start, end, name) for (start, name), (end, _) in pairs)


def _artists(track: Mirdata) -> dict[str, Any]:
    """Of GiantSteps and Beatport, whose metadata are a file for each track."""
    try:
        return {"artist": ", ".join(track.artists), "title": track.title}
    except FileNotFoundError:
        return {"title": track.title}


def _with_key(track: Mirdata) -> dict[str, Any]:
    """Of FMA Keys, whose keys are in one table."""
    if track.key is None:
        raise ValueError("the table of keys does not have it")
    return {}


def _by_artist(track: Mirdata) -> dict[str, Any]:
    return {"artist": track.artist or "", "title": track.title or ""}


def _by_album(track: Mirdata) -> dict[str, Any]:
    """Of one band, whose albums are what is not divided."""
    return {"artist": "", "album": Path(track.audio_path).parent.name, "title": track.title}


_BEATS = Part("beats_path", _beats)
_CHORDS = Part("chords_path", lambda track, _: _spans(track.chords))
_SECTIONS = Part("sections_path", lambda track, _: _spans(track.sections))
_KEYS = Part("keys_path", lambda track, _: _spans(track.key, "keys"))

GTZAN = Loader(
    "gtzan_genre",
    _parts(beats=_BEATS, tags=Part("audio_path", _genre)),
    lambda track: {"split": filtered_split().get(track.track_id)},
)
BALLROOM = Loader("ballroom", _parts(beats=_BEATS))
BEATLES = Loader(
    "beatles", _parts(beats=_BEATS, chords=_CHORDS, segments=_SECTIONS, keys=_KEYS), _by_album
)
QUEEN = Loader("queen", _parts(chords=_CHORDS, segments=_SECTIONS, keys=_KEYS), _by_album)
BILLBOARD = Loader(
    "billboard",
    _parts(
        chords=Part("lab_full_path", lambda track, _: _spans(track.chords_full)),
        segments=Part("salami_path", _named_sections),
    ),
    _by_artist,
)
RWC_POPULAR = Loader(
    "rwc_popular", _parts(beats=_BEATS, chords=_CHORDS, segments=_SECTIONS), _by_artist
)
RWC_JAZZ = Loader("rwc_jazz", _parts(beats=_BEATS, segments=_SECTIONS), _by_artist)
RWC_CLASSICAL = Loader("rwc_classical", _parts(beats=_BEATS, segments=_SECTIONS), _by_artist)
SALAMI = Loader("salami", _parts(segments=Part("audio_path", _functions)), _by_artist)
GUITARSET = Loader(
    "guitarset",
    lambda track, _: read_jams(track.jams_path),  # of its chords, those of the lead sheet
    lambda track: {"artist": f"player {track.player_id}", "title": track.track_id},
    audio="audio_mic_path",
)
GIANTSTEPS_KEY = Loader(
    "giantsteps_key",
    _parts(keys=Part("keys_path", lambda track, seconds: _single_key(track.key, seconds))),
    lambda track: {**_artists(track), "split": "test"},
)
BEATPORT_KEY = Loader(
    "beatport_key",
    _parts(
        keys=Part("keys_path", lambda track, seconds: _single_key("|".join(track.key), seconds))
    ),
    _artists,
)
FMA_KEYS = Loader(
    "fma_keys",
    _parts(
        keys=Part(
            "audio_path",
            lambda track, seconds: _single_key(f"{track.key} {track.mode}", seconds),
        )
    ),
    _with_key,
)
