"""MagnaTagATune: 25 863 clips of 29 s, tagged by the players of a game.

What is read lies in one folder: ``mp3`` with the folders ``0`` to ``f`` of the clips (or these
themselves), and either of two:

- ``split``, with ``train.npy``, ``valid.npy``, ``test.npy``, ``binary.npy`` and ``tags.npy`` of
  https://github.com/minzwon/sota-music-tagging-models (``split/mtat``), which MusicFM's authors
  use. Each entry of the first three is a row of the fourth, a tab, and a path.
- ``annotations_final.csv`` of the dataset. Then the 50 usual tags are used, and the split by folder
  that is common in the literature: 0 to b for training, c for validation, d to f for testing.
  Clips with none of the tags are left out.

E. Law et al., "Evaluation of algorithms using games: the case of music tagging", ISMIR 2009.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musicfm.datasets.annotations import Annotations
from musicfm.datasets.pieces import Collected, Piece, rows_of, whole
from musicfm.datasets.tracks import SPLITS, Split
from musicfm.errors import DataError

TAGS = tuple(
    """
    guitar, classical, slow, techno, strings, drums, electronic, rock, fast, piano, ambient, beat,
    violin, vocal, synth, female, indian, opera, male, singing, vocals, no vocals, harpsichord,
    loud, quiet, flute, woman, male vocal, no vocal, pop, soft, sitar, solo, man, classic, choir,
    voice, new age, dance, male voice, female vocal, beats, harp, cello, no voice, weird, country,
    metal, female voice, choral
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)
"""The 50 most frequent ones, as the literature lists them."""

EMPTY = frozenset(
    {
        "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
        "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
        "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
        "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
    }
)
"""Clips that have no bytes in the published archive, as many who use it have noted."""

_VALID, _TEST = "c", "def"


def collect_magnatagatune(home: Path) -> Collected:
    """The clips, with tags and split. Raises DataError if the lists cannot be read."""
    clips = home / "mp3" if os.path.isdir(home / "mp3") else home
    rows = _authors(home / "split") if os.path.isdir(home / "split") else _published(home)
    pieces, problems = [], []
    for path, split, tags in rows:
        if path in EMPTY:
            problems.append(f"{clips / path} is left out: it is empty in the published archive")
            continue
        # All clips of an album are by one artist: "artist-album-number-title-start-end.mp3".
        artist = Path(path).name.split("-")[0].replace("_", " ")
        annotate = whole(Annotations(tags=dict.fromkeys(tags, 1.0)))
        pieces.append(Piece(clips / path, annotate, artist=artist, split=split))
    return Collected(pieces, problems)


def _authors(folder: Path) -> Iterator[tuple[str, Split, list[str]]]:
    """Path, split and tags of each clip, from the authors' files."""
    names = [str(name) for name in _load(folder / "tags.npy")]
    binary = _load(folder / "binary.npy")
    if binary.ndim != 2 or binary.shape[1] != len(names):
        raise DataError(
            f"{folder / 'binary.npy'} has shape {binary.shape}, and {folder / 'tags.npy'} has "
            f"{len(names)} tags; download both again"
        )
    for split in SPLITS:
        path = folder / f"{split}.npy"
        for entry in _load(path):
            try:
                row, clip = str(entry).split("\t")
                applies = binary[range(len(binary)).index(int(row))]
            except (ValueError, IndexError) as error:
                raise DataError(
                    f"{path} has the entry {str(entry)!r}; download it again"
                ) from error
            yield clip, split, [name for name, is_so in zip(names, applies, strict=True) if is_so]


def _published(home: Path) -> Iterator[tuple[str, Split, list[str]]]:
    """Path, split and tags of each clip, from the dataset's table."""
    path = home / "annotations_final.csv"
    if not os.path.exists(path):
        raise DataError(
            f"there is neither {home / 'split'} nor {path}; see the documentation of the datasets"
        )
    for row in rows_of(path, (*TAGS, "mp3_path"), "\t"):
        tags = [tag for tag in TAGS if row[tag] == "1"]
        if tags:
            folder = row["mp3_path"][:1]
            split: Split = "valid" if folder in _VALID else "test" if folder in _TEST else "train"
            yield row["mp3_path"], split, tags


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        # Mapped: what the header says of the size is not trusted. No pickles, which could run
        # anything.
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # of a damaged header NumPy raises nearly anything
        raise DataError(f"{path} is not an array of numbers or texts ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise DataError(f"{path} is not an array of numbers or texts")
    return array
