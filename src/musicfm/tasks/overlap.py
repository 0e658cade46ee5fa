"""Whether a model was pretrained on what it is tested on."""

from collections.abc import Sequence

from musicfm import checkpoint
from musicfm.datasets.scanning import rendered_songs
from musicfm.tasks.corpus import Corpus
from musicfm.tasks.rows import Row

_NO_MODEL = ("mel", "chroma", "trivial", "oracle")


def overlaps(rows: Sequence[Row], corpus: Corpus) -> dict[str, str]:
    """By row: nothing if its model is known to have heard no test recording, else a remark."""
    tests = [
        {item.track.sha256, *rendered_songs([item.track])}
        for items in corpus.tests.values()
        for item in items
    ]
    return {row.name: _remark(row, tests) for row in rows}


def _remark(row: Row, tests: Sequence[set[str]]) -> str:
    if row.name in _NO_MODEL or row.name.startswith(("untrained:", "scratch:")):
        return ""
    folder = checkpoint.folder_of(row.model)
    path = None if folder is None else folder / checkpoint.TRACKS
    if path is None or not path.is_file():
        return "what its model was pretrained on is unknown, and may hold the test recordings"
    trained_on = set(path.read_text(encoding="utf-8").splitlines())
    heard = sum(not names.isdisjoint(trained_on) for names in tests)
    return f"{heard} test recordings were in its pretraining" if heard else ""
