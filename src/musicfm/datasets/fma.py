"""FMA, the Free Music Archive's dataset: Creative Commons music, official splits, genres.

What is read is as it is published: ``fma_metadata`` and one of the trees ``fma_small``,
``fma_medium``, ``fma_large`` (clips of 30 s) and ``fma_full`` (whole recordings), unzipped into one
folder. Each of the first three subsets contains the one before.

M. Defferrard, K. Benzi, P. Vandergheynst and X. Bresson, "FMA: a dataset for music analysis",
ISMIR 2017; https://github.com/mdeff/fma.
"""

import csv
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TextIO, Unpack, get_args

from musicfm.audio.processes import PatientWork
from musicfm.datasets.scanning import Scan, update_manifest
from musicfm.datasets.tracks import Manifest, Split, Track
from musicfm.errors import ConfigError, DataError
from musicfm.files import parse_json

Subset = Literal["small", "medium", "large", "full"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)

URL = "https://os.unil.cloud.switch.ch/fma"
SIZES = {
    "metadata": "342 MiB",
    "small": "7.2 GiB",
    "medium": "22 GiB",
    "large": "93 GiB",
    "full": "879 GiB",
}

_BROKEN_IN_SMALL = (98565, 98567, 98569, 99134, 108925, 133297)
_BROKEN_IN_MEDIUM = (
    *(1486, 5574, 65753, 80391, 98558, 98559, 98560, 98566, 98568, 98571),
    *(105247, 108924, 126981, 127336, 143992),
)
BROKEN = frozenset((*_BROKEN_IN_SMALL, *_BROKEN_IN_MEDIUM))
"""Tracks that are known to be short or empty in the trees of clips.

As the dataset's authors list them (https://github.com/mdeff/fma/wiki).
"""

_SPLITS: dict[str, Split] = {"training": "train", "validation": "valid", "test": "test"}
_NEEDED = [
    ("set", "split"),
    ("set", "subset"),
    ("artist", "name"),
    ("album", "title"),
    ("track", "title"),
    ("track", "genre_top"),
    ("track", "genres"),
]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the metadata say about a track."""

    subset: Subset
    """The smallest subset that holds it."""
    split: Split
    artist: str
    album: str
    title: str
    genres: tuple[str, ...]
    """The top-level one first, if it has a single one."""


def scan_fma(
    out: str | os.PathLike[str],
    root: str | os.PathLike[str],
    subset: Subset,
    *,
    check: bool = False,
    **work: Unpack[PatientWork],
) -> Scan:
    """Scans a subset into a manifest, with the official splits. ``musicfm scan --fma`` is this.

    Tracks of the subset that are missing or unusable are failures; those in ``BROKEN`` are left out
    of all trees of clips.

    Args:
        out: the manifest, ``.parquet`` or ``.jsonl``.
        root: the folder with ``fma_metadata`` and the subset's tree.
        subset: which one.
        check: decode all files, to find damage inside.
        work: see :class:`musicfm.audio.processes.PatientWork`.

    Raises:
        ConfigError: there is no such subset.
        DataError: the metadata or the tree are not there, or the metadata are damaged; the message
            says what to download.
        OutputError: the manifest cannot be written.
    """
    if subset not in SUBSETS:
        raise ConfigError(f"FMA has no subset '{subset}'; there are {', '.join(SUBSETS)}")
    root = Path(root)
    facts = read_metadata(_folder(root, "metadata"))
    tree = _folder(root, subset)
    wanted = SUBSETS[: SUBSETS.index(subset) + 1]
    files = [
        tree / track_path(number)
        for number, fact in sorted(facts.items())
        if fact.subset in wanted and (subset == "full" or number not in BROKEN)
    ]
    if not files:
        raise DataError(f"{root / 'fma_metadata'} lists no tracks of fma_{subset}; replace it")
    annotate = functools.partial(_annotate, facts=facts)
    return update_manifest(out, files, annotate=annotate, check=check, **work)


def track_path(number: int) -> str:
    """Where a tree keeps a track, such as ``000/000002.mp3`` for 2."""
    return f"{number // 1000:03d}/{number:06d}.mp3"


def read_metadata(folder: Path) -> dict[int, Facts]:
    """What ``tracks.csv`` says, by track number. Raises DataError, which names file and line."""
    genres = _read_genres(folder / "genres.csv")
    path = folder / "tracks.csv"
    facts = {}
    with _open_csv(path) as file:
        rows = csv.reader(file)
        # The first two lines together name the columns, the third only says "track_id".
        columns = list(zip(next(rows, []), next(rows, []), strict=False))
        next(rows, [])
        if missing := [".".join(column) for column in _NEEDED if column not in columns]:
            raise DataError(f"{path} has no column {missing[0]}; download fma_metadata.zip again")
        places = [columns.index(column) for column in _NEEDED]
        for row in rows:
            try:
                split, subset, artist, album, title, top, numbers = (row[at] for at in places)
                if subset not in SUBSETS:
                    raise ValueError(f"subset '{subset}'")
                # A genre that genres.csv lacks keeps its number.
                names = [genres.get(number, str(number)) for number in parse_json(numbers)]
                facts[int(row[0])] = Facts(
                    subset,
                    _SPLITS[split],
                    artist,
                    album,
                    title,
                    tuple(dict.fromkeys([top, *names] if top else names)),
                )
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise DataError(
                    f"{path}, line {rows.line_num} is damaged ({error}); "
                    "download fma_metadata.zip again"
                ) from error
    return facts


def _read_genres(path: Path) -> dict[int, str]:
    with _open_csv(path) as file:
        rows = csv.DictReader(file)
        try:
            return {int(row["genre_id"]): row["title"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {rows.line_num} is damaged; download fma_metadata.zip again"
            ) from error


@contextmanager
def _open_csv(path: Path) -> Iterator[TextIO]:
    """Opens a file of the metadata, whose fields hold whole biographies."""
    limit = csv.field_size_limit(1 << 24)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; download fma_metadata.zip again"
        ) from error
    except (UnicodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged ({error}); download fma_metadata.zip again") from error
    finally:
        csv.field_size_limit(limit)


def _folder(root: Path, name: str) -> Path:
    """A part of the dataset. Raises DataError, which says where to get it."""
    folder = root / f"fma_{name}"
    if not os.path.isdir(folder):
        raise DataError(
            f"{folder} is not there; download {URL}/fma_{name}.zip ({SIZES[name]}) and unzip it "
            f"in {root}"
        )
    return folder


def _annotate(manifest: Manifest, facts: dict[int, Facts]) -> Manifest:
    def annotated(track: Track) -> Track:
        fact = facts[int(PurePosixPath(track.path).stem)]
        return replace(
            track,
            artist=fact.artist,
            album=fact.album,
            title=fact.title,
            genres=fact.genres,
            split=fact.split,
        )

    return manifest.map(annotated)
