"""From vectors as they were computed to those that are compared: centred, whitened, of length 1.

Hidden states have large means that all music shares, and a few directions in which everything
varies together; cosines of them are near 1 for any two recordings. A transform takes both away. It
is fitted to the vectors of a library, has a version, and stays as it is until another is asked for
or the library has grown by half: what was similar yesterday is as similar today.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from musicfm.library import matrices
from musicfm.library.database import KINDS, Database, making_sense, read_settings, write_settings
from musicfm.library.matrices import ROWS_AT_ONCE, Matrix

DIM = 128
"""The dimension of vectors that are compared, at most."""
RIDGE = 0.3
"""The part of the mean variance that is added to all, so that directions in which nothing but noise
varies stay small; more is added where there are few vectors, whose variances are guesses."""
SAMPLE = 50_000
"""The largest number of segments that a transform is fitted to."""
GROWTH = 1.5
"""The growth of a library after which another transform is fitted."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A version of the transform."""

    version: int
    num_tracks: int
    """The number of tracks when it was fitted."""
    mean: Matrix
    """(2 * dim,) mean of segments."""
    projection: Matrix
    """(2 * dim, compared) matrix that whitens."""

    @property
    def dim(self) -> int:
        """The dimension of vectors that are compared."""
        return self.projection.shape[1]

    def __call__(self, vectors: Matrix) -> Matrix:
        """(rows, compared) of length 1, from (rows, 2 * dim)."""
        return unit(np.matmul(vectors - self.mean, self.projection, dtype=np.float32))


def unit(vectors: Matrix) -> Matrix:
    """Vectors along the last axis, of length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)


def whitening(vectors: Matrix) -> tuple[Matrix, Matrix]:
    """(2 * dim,) mean, and (2 * dim, compared) directions that are scaled to about one variance."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    ridge = float(variances.mean()) * (RIDGE + vectors.shape[1] / len(vectors))
    ridge = max(ridge, float(np.finfo(np.float32).tiny))
    largest = np.argsort(-variances)[:DIM]
    projection = directions[:, largest] / np.sqrt(np.maximum(variances[largest], 0.0) + ridge)
    return mean.astype(np.float32), projection.astype(np.float32)


def current(connection: sqlite3.Connection) -> Transform | None:
    """That of the library; None before the first one."""
    version = read_settings(connection).transform
    query = "SELECT version, num_tracks, dim, mean, projection FROM transforms WHERE version = ?"
    row = connection.execute(query, (version,)).fetchone()
    if row is None:
        return None
    version, num_tracks, dim, mean, projection = row
    with making_sense("the values of the transform"):
        found = Transform(
            version,
            num_tracks,
            np.frombuffer(mean, "<f4"),
            np.frombuffer(projection, "<f4").reshape(-1, dim),
        )
        if len(found.projection) != len(found.mean) or not np.isfinite(found.projection).all():
            raise ValueError
    return found


def is_due(database: Database, least: int = 1) -> bool:
    """Whether a library of at least so many tracks has none yet, or has grown by half since."""
    with database.connect() as connection:
        (count,) = connection.execute("SELECT count(*) FROM tracks").fetchone()
        version = read_settings(connection).transform
        query = "SELECT num_tracks FROM transforms WHERE version = ?"
        row = connection.execute(query, (version,)).fetchone()
        with making_sense("the values of the transform"):
            grown = row is None or count >= GROWTH * row[0]
    return count >= least and grown


def fit(database: Database) -> Transform:
    """Fits the next version to a library whose lock is held. Raises OutputError."""
    settings = database.settings()
    sample = database.matrix("segments", raw=True)
    stride = max(1, len(sample) // SAMPLE)
    mean, projection = whitening(np.asarray(sample[::stride]))
    num_tracks = len(database.tracks())
    fitted = Transform(settings.transform + 1, num_tracks, mean, projection)
    settings = replace(settings, transform=fitted.version)
    for kind in KINDS:
        matrices.write(
            database.searched_path(kind, settings),
            (fitted(block) for block in blocks(database.matrix(kind, raw=True))),
        )
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO transforms VALUES (?, ?, ?, ?, ?)",
            (fitted.version, num_tracks, fitted.dim, mean.tobytes(), projection.tobytes()),
        )
        write_settings(connection, settings)
    database.sweep()
    return fitted


def blocks(matrix: Matrix) -> Iterator[Matrix]:
    """A matrix, some rows at a time."""
    for first in range(0, len(matrix), ROWS_AT_ONCE):
        yield matrix[first : first + ROWS_AT_ONCE]
