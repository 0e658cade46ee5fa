"""The nearest of many vectors, exactly, in memory that does not grow with their number."""

import numpy as np
import numpy.typing as npt

from musicfm.library.matrices import ROWS_AT_ONCE, Matrix

Rows = npt.NDArray[np.int64]


def nearest(
    matrix: Matrix, query: Matrix, count: int, rows: Rows | None = None
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """The rows whose product with a vector is largest, the largest first, and these products.

    Args:
        matrix: (rows, dim), of which some are read at a time.
        query: (dim,).
        count: how many; all rows if there are fewer.
        rows: those to search, in rising order; None: all.
    """
    total = len(matrix) if rows is None else len(rows)
    best = np.empty(0, np.int64)
    products = np.empty(0, np.float32)
    for first in range(0, total, ROWS_AT_ONCE):
        stop = min(first + ROWS_AT_ONCE, total)
        numbers = np.arange(first, stop) if rows is None else rows[first:stop]
        found = (matrix[first:stop] if rows is None else matrix[numbers]) @ query
        kept = _largest(found, count)
        best = np.concatenate([best, numbers[kept]])
        products = np.concatenate([products, found[kept]])
        kept = _largest(products, count)
        best, products = best[kept], products[kept]
    order = np.lexsort((best, -products))
    return best[order], products[order]


def _largest(values: npt.NDArray[np.float32], count: int) -> Rows:
    """The places of the largest values, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(-values, count)[:count]
