"""The nearest of many vectors, exactly, in memory that does not grow with their number."""

import numpy as np
import numpy.typing as npt

from musicfm.library.matrices import ROWS_AT_ONCE, Matrix


def nearest(
    matrix: Matrix, query: Matrix, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows whose product with a vector is largest, the largest first, and these products.

    Args:
        matrix: (rows, dim), of which some are read at a time.
        query: (dim,).
        count: how many; all rows if there are fewer.
    """
    rows = np.empty(0, np.int64)
    products = np.empty(0, np.float32)
    for first in range(0, len(matrix), ROWS_AT_ONCE):
        found = matrix[first : first + ROWS_AT_ONCE] @ query
        best = _largest(found, count)
        rows = np.concatenate([rows, best + first])
        products = np.concatenate([products, found[best]])
        kept = _largest(products, count)
        rows, products = rows[kept], products[kept]
    order = np.lexsort((rows, -products))
    return rows[order], products[order]


def _largest(values: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Where the largest values are, in no order."""
    if count >= len(values):
        return np.arange(len(values))
    return np.argpartition(-values, count)[:count]
