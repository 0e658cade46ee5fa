"""How long a library is searched, in how much memory, and what an index finds of what is nearest.

    python benchmarks/library.py
    python benchmarks/library.py --tracks 1000000 --segments 10000000 --indexed 1000000

Vectors are drawn, uniformly on the sphere: of real ones, which lie in clusters, an index finds
more. Queries are vectors with noise added (cosine about .9). Times are CPU time, the median of some
queries; memory is what the process holds more than before the first query, without the pages of the
matrices, which the system may take back at any time.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from musicfm.library import index, matrices
from musicfm.library.matrices import Matrix
from musicfm.library.search import nearest
from musicfm.library.transform import DIM, unit

BLOCK = 100_000
QUERIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--indexed", type=int, default=0, help="of the segments, for the index")
    arguments = parser.parse_args()
    print(f"{DIM} dimensions, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("tracks", arguments.tracks), ("segments", arguments.segments)):
            path = Path(folder, f"{name}.f32")
            matrix = drawn(path, count)
            before = own_memory()
            seconds = median(matrix, nearest)
            grown = (own_memory() - before) / 1e6
            print(f"{count} {name}, exactly: {1000 * seconds:.1f} ms, {grown:.1f} MB more")
        if arguments.indexed:
            matrix = matrix[: arguments.indexed]
            begin = time.process_time()
            index.build(path, matrix)
            size = index.path_of(path).stat().st_size / 1e6
            print(f"index of {len(matrix)}: {time.process_time() - begin:.0f} s, {size:.0f} MB")
            seconds = median(matrix, partial(index.near, path))
            found = sum(
                len({*index.near(path, matrix, query, 10)[0]} & {*nearest(matrix, query, 10)[0]})
                for query in queries(matrix)
            )
            recall = found / 10 / QUERIES
            print(f"by the index: {1000 * seconds:.1f} ms, recall at 10 {recall:.3f}")


def drawn(path: Path, count: int) -> Matrix:
    """A matrix of unit vectors, in a file."""
    rng = np.random.default_rng(0)
    sizes = (min(BLOCK, count - first) for first in range(0, count, BLOCK))
    matrices.write(path, (unit(rng.standard_normal((n, DIM), np.float32)) for n in sizes))
    return matrices.read(path, count, DIM)


def queries(matrix: Matrix) -> list[Matrix]:
    """Some rows, with noise."""
    rng = np.random.default_rng(1)
    rows = matrix[rng.integers(0, len(matrix), QUERIES)]
    noise = unit(rng.standard_normal(rows.shape, np.float32))
    return [*unit(rows + 0.5 * noise)]


def median(matrix: Matrix, search: Callable[[Matrix, Matrix, int], Any]) -> float:
    """The CPU time of a search, in seconds, after one that reads the file into memory."""
    first, *others = queries(matrix)
    search(matrix, first, 10)
    times = []
    for query in others:
        begin = time.process_time()
        search(matrix, query, 10)
        times.append(time.process_time() - begin)
    return float(np.median(times))


def own_memory() -> int:
    """Bytes of this process's own, without files that are mapped."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
