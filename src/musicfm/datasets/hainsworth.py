"""Hainsworth's dataset: beats and downbeats of 222 excerpts of about a minute.

The layout is mirdata's, ``H_1.0/annotations/beats/hains001.beats`` and
``H_1.0/audio/hains001.flac``, or another format. mirdata's own loader cannot be used: the list of
files that it needs was not published.

S. Hainsworth and M. Macleod, "Particle filtering applied to musical tempo tracking", EURASIP
Journal on Applied Signal Processing, 2004.
"""

from functools import partial
from pathlib import Path

from musicfm.datasets.annotations import Annotations, Read
from musicfm.datasets.pieces import Collected, Piece, read_beats
from musicfm.errors import DataError


def collect_hainsworth(home: Path) -> Collected:
    """The tracks that have a file of beats. Raises DataError if there is none."""
    folder = home / "H_1.0" / "annotations" / "beats"
    paths = sorted(folder.glob("*.beats"))
    if not paths:
        raise DataError(f"there are no .beats files in {folder}; check the folder's layout")
    return Collected(
        [
            Piece(home / "H_1.0" / "audio" / f"{path.stem}.flac", partial(_annotate, path))
            for path in paths
        ]
    )


def _annotate(path: Path, duration: float) -> Read:
    return Read(Annotations(beats=read_beats(path)), None)
