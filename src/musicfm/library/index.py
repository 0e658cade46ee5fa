"""An approximate index of many vectors (USearch): a graph that is searched from neighbour to
neighbour. It lies beside its matrix; rows that are not in it yet are searched exactly.
"""

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from musicfm.errors import DataError
from musicfm.files import atomic_write
from musicfm.library.database import KINDS, Database, Kind
from musicfm.library.matrices import ROWS_AT_ONCE, Matrix
from musicfm.library.search import Rows, nearest

if TYPE_CHECKING:
    from usearch.index import Index

SUFFIX = ".usearch"
MOST_EXACT = 1_000_000
"""The number of vectors up to which all are compared, which takes 40 ms of a core."""
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 24, 128, 256
"""The neighbours of a vector in the graph, and how many candidates are kept while one is added and
while one is searched: recall against time, see ``benchmarks/library.py``."""


def path_of(matrix: Path) -> Path:
    """The file of the index of a matrix."""
    return matrix.with_suffix(SUFFIX)


def build(path: Path, matrix: Matrix) -> None:
    """Adds the rows of a matrix that are not in its index yet, which is made if need be.

    Args:
        path: of the file of the matrix.
        matrix: (rows, dim), of length 1.

    Raises DataError if there is one that is damaged, OutputError.
    """
    from usearch.index import Index

    index = Index(
        ndim=matrix.shape[1],
        metric="ip",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
    )
    target = path_of(path)
    if os.path.isfile(target):
        with _making_sense(target):
            index.load(str(target))
    for first in range(len(index), len(matrix), ROWS_AT_ONCE):
        block = matrix[first : first + ROWS_AT_ONCE]
        index.add(np.arange(first, first + len(block), dtype=np.uint64), block)
    with atomic_write(target) as temporary:
        index.save(str(temporary))


def build_all(database: Database) -> list[Kind]:
    """Makes or completes the indices that are useful to a library whose lock is held.

    Raises OutputError. Returns what has one.
    """
    settings = database.settings()
    found: list[Kind] = []
    for kind in KINDS if settings.transform else ():
        matrix = database.matrix(kind)
        if len(matrix) > MOST_EXACT:
            build(database.searched_path(kind, settings), matrix)
            found.append(kind)
    return found


def is_installed() -> bool:
    """Whether USearch is."""
    return find_spec("usearch") is not None


def is_useful(path: Path, matrix: Matrix) -> bool:
    """Whether a matrix is large, and its file has an index that can be searched."""
    return len(matrix) > MOST_EXACT and os.path.isfile(path_of(path)) and is_installed()


def near(
    path: Path, matrix: Matrix, query: Matrix, count: int
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """As :func:`musicfm.library.search.nearest`, of nearly all the nearest.

    Opening the index takes about as long as comparing all; it stays open, until it is replaced.

    Args:
        path: of the file of the matrix, beside which there is an index.
        matrix: (rows, dim); what the index finds is measured with it again.
        query: (dim,).
        count: how many.

    Raises DataError if the index is damaged.
    """
    target = path_of(path)
    with _SEARCHING:
        index = _opened(target, os.stat(target).st_mtime_ns, matrix.shape[1])
        index.expansion_search = max(EXPANSION_SEARCH, 2 * count)  # type: ignore[misc]
        keys = index.search(np.asarray(query), count, threads=1).keys.astype(np.int64)
        indexed = len(index)
    # Another process may have added rows since the number of rows was read.
    keys = np.sort(keys[keys < len(matrix)])
    late = np.arange(indexed, len(matrix), dtype=np.int64)
    return nearest(matrix, query, count, np.concatenate([keys, late]))


def _open(path: Path, modified: int, dim: int) -> "Index":
    """An index, mapped into memory, as it was written at a time. Raises DataError."""
    from usearch.index import Index

    # Looking up vectors by key would need all pages of the file.
    index = Index(
        ndim=dim, metric="ip", dtype="f16", connectivity=CONNECTIVITY, enable_key_lookups=False
    )
    with _making_sense(path):
        index.view(str(path))
    return index


@contextlib.contextmanager
def _making_sense(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it, and make it anew: "
            f"musicfm library index {path.parent}"
        ) from error


# Windows does not let a file be replaced while somebody has it open.
_opened = _open if os.name == "nt" else lru_cache(maxsize=4)(_open)
_SEARCHING = Lock()
