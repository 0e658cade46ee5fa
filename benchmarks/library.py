"""How long a library is searched, in how much memory, and what an index finds of what is nearest.

    python benchmarks/library.py
    python benchmarks/library.py --indexed 1000000

Vectors are drawn, as those of music lie: around a point for each track, which lie around points for
albums; with --uniform, all over the sphere, the hardest case for an index. Queries are vectors with
noise added (cosine about .9). Times are CPU time, the median of some queries; memory is what the
process holds more than before the first query, without the pages of the matrices, which the system
may take back at any time.

Then a library of so many tracks and segments is searched by a command, from its start to its end:
its CPU time, of that what `Library.similar` takes, and the memory of its own. Asked is for tracks
like one of the library; the same of those in a range of tempi that half of them have; and for parts
like 10 s of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from musicfm.library import index, matrices
from musicfm.library.database import Database, Kind, Settings, write_settings
from musicfm.library.matrices import Matrix
from musicfm.library.search import nearest
from musicfm.library.transform import DIM, unit

BLOCK = 100_000
QUERIES = 20
OF_A_TRACK = 20
"""Segments: three minutes."""
OF_AN_ALBUM = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--segments", type=int, default=1_000_000)
    parser.add_argument("--indexed", type=int, default=0, help="of the segments, for the index")
    parser.add_argument(
        "--expansion-add",
        type=int,
        default=index.EXPANSION_ADD,
        help="fewer make an index in less time, which finds less, but is opened as quickly",
    )
    parser.add_argument("--uniform", action="store_true")
    arguments = parser.parse_args()
    print(f"{DIM} dimensions, {os.environ.get('OMP_NUM_THREADS', 'all')} threads")
    with tempfile.TemporaryDirectory() as folder:
        lib = Database(Path(folder, "lib"))
        settings = Settings("nano", "f" * 64, 2, DIM // 2, (), "", transform=1)
        with lib.alone():
            Database.create(lib.folder, settings)
        found = {}
        counts: list[tuple[Kind, int]] = [
            ("tracks", arguments.tracks),
            ("segments", arguments.segments),
        ]
        for kind, count in counts:
            path = lib.searched_path(kind, settings)
            matrix = found[kind] = drawn(path, count, arguments.uniform)
            before = own_memory()
            seconds = median(matrix, nearest)
            grown = (own_memory() - before) / 1e6
            print(f"{count} {kind}, exactly: {1000 * seconds:.1f} ms, {grown:.1f} MB more")
        fill(lib, settings, len(found["tracks"]), len(found["segments"]))
        song = str(Path(folder, "music", "0.mp3"))
        for options in ({}, {"tempo": (100.0, 150.0)}, {"segment": (10.0, 20.0)}):
            print(f"similar {options}: {searched(lib, song, options)}")
        if arguments.indexed:
            matrix, path = found["segments"][: arguments.indexed], Path(folder, "indexed.f32")
            index.EXPANSION_ADD = arguments.expansion_add
            begin = time.process_time()
            index.build(path, matrix)
            size = index.path_of(path).stat().st_size / 1e6
            print(f"index of {len(matrix)}: {time.process_time() - begin:.0f} s, {size:.0f} MB")
            near = partial(index.near, path)
            begin = time.process_time()
            near(matrix, queries(matrix, 1)[0], 10)
            print(
                f"the first search, which opens it: {1000 * (time.process_time() - begin):.1f} ms"
            )
            seconds = median(matrix, near)
            same = [
                len({*near(matrix, query, 10)[0]} & {*nearest(matrix, query, 10)[0]})
                for query in queries(matrix, 10 * QUERIES)
            ]
            print(f"further ones: {1000 * seconds:.1f} ms, recall at 10 {np.mean(same) / 10:.3f}")


def drawn(path: Path, count: int, is_uniform: bool) -> Matrix:
    """A matrix of unit vectors, in a file."""
    rng = np.random.default_rng(0)

    def directions(size: int) -> Matrix:
        return unit(rng.standard_normal((size, DIM), np.float32))

    def block(size: int) -> Matrix:
        if is_uniform:
            return directions(size)
        of_a_track = OF_A_TRACK if "segments" in path.name else 1
        tracks = size // of_a_track + 1
        albums = directions(tracks // OF_AN_ALBUM + 1)
        centres = unit(albums[np.arange(tracks) // OF_AN_ALBUM] + 1.2 * directions(tracks))
        return unit(centres[np.arange(size) // of_a_track] + 0.8 * directions(size))

    matrices.write(path, (block(min(BLOCK, count - n)) for n in range(0, count, BLOCK)))
    return matrices.read(path, count, DIM)


def fill(lib: Database, settings: Settings, tracks: int, segments: int) -> None:
    """Tracks of a library, whose vectors are there, and raw vectors of nothing."""
    counts: list[tuple[Kind, int]] = [("tracks", tracks), ("segments", segments)]
    for kind, count in counts:
        with lib.raw_path(kind, settings).open("wb") as file:
            file.truncate(count * DIM * 4)
    each = segments // tracks
    rows = (
        (f"{lib.folder.parent}/music/{n}.mp3", str(n), f"song {n}", 75.0 + n % 100, n, each * n)
        for n in range(tracks)
    )
    with lib.connect() as connection:
        write_settings(connection, settings)
        connection.execute(
            "INSERT INTO transforms VALUES (1, ?, ?, ?, ?)",
            (tracks, DIM, np.ones(DIM, "<f4").tobytes(), np.eye(DIM, dtype="<f4").tobytes()),
        )
        connection.executemany(
            "INSERT INTO tracks (path, sound, title, tempo, vector, first_segment, size, modified,"
            " artist, album, duration, key, tags, warnings, num_segments)"
            f" VALUES (?, ?, ?, ?, ?, ?, 1, 1, 'a', 'b', {10.0 * each}, 'A minor',"
            f""" '{{"rock": 0.9, "drums": 0.8}}', '[]', {each})""",
            rows,
        )


def searched(lib: Database, song: str, options: dict[str, Any]) -> str:
    """What a process says that searches once."""
    program = (
        "import json, sys, time\n"
        "from musicfm.library.library import Library\n"
        "lib, song, options = json.loads(sys.argv[1])\n"
        "begin, clock = time.process_time(), time.perf_counter()\n"
        "found = Library(lib).similar(song, **options)\n"
        "took, waited = time.process_time() - begin, time.perf_counter() - clock\n"
        "own = next(each for each in open('/proc/self/status') if each.startswith('RssAnon'))\n"
        "print(f'{len(found)} found; {time.process_time():.2f} s of CPU time from start to end, '\n"
        "      f'of which the search {1000 * took:.0f} ms ({1000 * waited:.0f} by the clock); '\n"
        "      f'{int(own.split()[1]) / 1024:.0f} MB')\n"
    )
    asked = json.dumps([str(lib.folder), song, options])
    command = [sys.executable, "-c", program, asked]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def queries(matrix: Matrix, count: int) -> list[Matrix]:
    """Some rows, with noise."""
    rng = np.random.default_rng(1)
    rows = matrix[rng.integers(0, len(matrix), count)]
    noise = unit(rng.standard_normal(rows.shape, np.float32))
    return [*unit(rows + 0.5 * noise)]


def median(matrix: Matrix, search: Callable[[Matrix, Matrix, int], Any]) -> float:
    """The CPU time of a search, in seconds, after one that reads the file into memory."""
    first, *others = queries(matrix, QUERIES)
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
