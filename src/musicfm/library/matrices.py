"""Matrices in files, mapped into memory: rows are appended, or the whole is written anew.

A file holds rows of float32 and nothing else; how many of them count, the database says. Rows that
a killed run left behind the last one that counts are overwritten by the next.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musicfm.errors import DataError
from musicfm.files import atomic_write, writing

Matrix = npt.NDArray[np.float32]
_BYTES = np.dtype("<f4").itemsize

ROWS_AT_ONCE = 16_384
"""The number of rows that are read of a matrix at a time."""


def read(path: Path, num_rows: int, dim: int) -> Matrix:
    """(num_rows, dim), mapped into memory, not to be written to.

    Raises DataError if the file is not there, or too short.
    """
    if not num_rows:
        return np.empty((0, dim), np.float32)
    try:
        return np.memmap(path, "<f4", "r", shape=(num_rows, dim))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not there, or damaged; restore the library from a copy, or make a new one"
        ) from error


def append(path: Path, num_rows: int, rows: Matrix) -> None:
    """Writes rows behind the first ``num_rows``, and waits until they are on the disk.

    Raises OutputError.
    """
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            file.seek(num_rows * rows.shape[1] * _BYTES)
            file.write(rows.astype("<f4", copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())


def write(path: Path, blocks: Iterable[Matrix]) -> None:
    """Writes a file of all rows in some blocks, whole or not at all. Raises OutputError."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for block in blocks:
            file.write(block.astype("<f4", copy=False).tobytes())
