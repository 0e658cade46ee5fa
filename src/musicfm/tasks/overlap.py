"""Whether a model was pretrained on what it is tested on, or a head was trained on it."""

from collections.abc import Sequence
from pathlib import Path

from musicfm.datasets.scanning import identities
from musicfm.model import checkpoint
from musicfm.tasks.corpus import Corpus
from musicfm.tasks.rows import Row

_NO_MODEL = ("mel", "chroma", "trivial", "oracle")


def overlaps(rows: Sequence[Row], corpus: Corpus) -> dict[str, str]:
    """By row: nothing if its model is known to have seen no test recording, else a remark."""
    tests = _names(corpus)
    return {row.name: _of_row(row, tests) for row in rows}


def overlap_of_head(folder: Path, corpus: Corpus) -> str:
    """Nothing if a head is known to have learnt from no test recording, else a remark."""
    found = _count(checkpoint.read_tracks(folder), _names(corpus))
    if found is None:
        return "what it learnt from is unknown, and may hold the test recordings"
    return f"{found} test recordings are among those that it learnt from" if found else ""


def _names(corpus: Corpus) -> list[set[str]]:
    """What each test recording is known by."""
    return [set(identities([item.track])) for items in corpus.tests.values() for item in items]


def _of_row(row: Row, tests: Sequence[set[str]]) -> str:
    if row.name in _NO_MODEL or row.name.startswith(("untrained:", "scratch:")):
        return ""
    found = _count(checkpoint.tracks_of(row.model), tests)
    if found is None:
        return "what its model was pretrained on is unknown, and may hold the test recordings"
    return f"{found} test recordings were in its pretraining" if found else ""


def _count(tracks: Sequence[str] | None, tests: Sequence[set[str]]) -> int | None:
    """How many test recordings are among those that something was trained on, if that is known."""
    if tracks is None:
        return None
    trained_on = set(tracks)
    return sum(not names.isdisjoint(trained_on) for names in tests)
