"""Recordings that are in a library more than once: in other encodings, at other levels, or cut.

Vectors tell what may be the same, and fingerprints of the sound what is. Another performance of a
piece, or the same notes played by other instruments, may have the same vectors, but not the same
fingerprint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from musicfm.errors import AudioError
from musicfm.library.database import Track
from musicfm.library.fingerprints import Alignment, Fingerprint, align, fingerprint
from musicfm.library.matrices import Matrix
from musicfm.library.search import Rows, nearest

AGREEMENT = 0.9
"""The correlation of fingerprints from which on two recordings are taken for one."""
SIMILARITY = 0.5
"""The least similarity of two tracks, or of two segments, whose fingerprints are compared: copies
have .85 and more, segments that begin elsewhere .6, and one pair in a thousand that is none .5."""
_FEW_TRACKS = 20
"""The number of tracks up to which all are compared with all: their transform knows little."""
_NEIGHBOURS = 10
_SEGMENTS_OF_A_TRACK = 3
_MOST_TRACKS = 20_000
"""The number of tracks up to which segments are compared: of more, it would take hours."""


@dataclass(frozen=True)
class Duplicate:
    """A recording that is the same as another, or a part of it."""

    track: Track
    start: float
    """The time in the other recording, in seconds, at which this one begins; may be negative."""
    agreement: float
    """The correlation of their fingerprints: 1 for the same sound."""


@dataclass(frozen=True)
class Duplicates:
    """A recording, the longest of its kind, and what is the same."""

    track: Track
    others: tuple[Duplicate, ...]


def find(
    tracks: Sequence[Track],
    vectors: Matrix,
    segments: Matrix,
    progress: Callable[[int, int], object] = lambda done, count: None,
) -> tuple[list[Duplicates], list[str]]:
    """Finds duplicates.

    Args:
        tracks: whose files are there.
        vectors: of tracks, as they are compared.
        segments: of segments; those of more than 20,000 tracks are not compared, so that cuts which
            do not sound like the whole are not found.
        progress: is told how many pairs of how many are compared.

    Returns:
        Duplicates, by the path of the longest; and why recordings could not be read.
    """
    failures: dict[str, str] = {}

    @lru_cache(maxsize=256)
    def sound(path: str) -> Fingerprint | None:
        try:
            return fingerprint(path)
        except AudioError as error:
            failures[path] = str(error)
            return None

    def compare(one: Track, other: Track) -> Alignment | None:
        if one.sound == other.sound:
            return Alignment(1.0, 0.0, other.duration)
        here, there = sound(one.path), sound(other.path)
        return None if here is None or there is None else align(here, there)

    leader = {track.id: track for track in tracks}  # of each, the longest that is the same
    found: dict[int, list[Duplicate]] = {}
    pairs = sorted(
        candidates(tracks, vectors, segments),
        key=lambda pair: (-pair[0].duration, pair[0].path, pair[1].path),
    )
    for number, (longer, shorter) in enumerate(pairs):
        progress(number, len(pairs))
        if leader[shorter.id] is not shorter or leader[longer.id] is not longer:
            continue
        alignment = compare(longer, shorter)
        if alignment is not None and alignment.agreement >= AGREEMENT:
            leader[shorter.id] = longer
            duplicate = Duplicate(shorter, alignment.offset, alignment.agreement)
            found.setdefault(longer.id, []).append(duplicate)
    by_id = {track.id: track for track in tracks}
    groups = [
        Duplicates(by_id[track], tuple(sorted(others, key=lambda other: other.track.path)))
        for track, others in found.items()
    ]
    return sorted(groups, key=lambda group: group.track.path), [*failures.values()]


def candidates(
    tracks: Sequence[Track], vectors: Matrix, segments: Matrix
) -> set[tuple[Track, Track]]:
    """Pairs of tracks that may be the same, the longer one first."""
    if len(tracks) <= _FEW_TRACKS:
        return _pairs(tracks, tracks)
    found: set[tuple[Track, Track]] = set()
    by_vector: dict[int, list[Track]] = {}
    for track in tracks:
        by_vector.setdefault(track.vector, []).append(track)
    rows = np.array(sorted(by_vector), np.int64)
    queries = {row: [row] for row in rows.tolist()}
    for row, other in _neighbours(vectors, queries, rows, SIMILARITY):
        found |= _pairs(by_vector[row], by_vector[other])
    for copies in by_vector.values():
        found |= _pairs(copies, copies)
    if len(tracks) > _MOST_TRACKS:
        return found
    owner = {row: track for track in tracks for row in track.segments}
    rows = np.array(sorted(owner), np.int64)
    queries = {
        track.id: np.linspace(track.first_segment, track.segments.stop - 1, _SEGMENTS_OF_A_TRACK)
        .round()
        .astype(int)
        .tolist()
        for track in tracks
    }
    by_id = {track.id: track for track in tracks}
    for track_id, other in _neighbours(segments, queries, rows, SIMILARITY):
        found |= _pairs([by_id[track_id]], [owner[other]])
    return found


def _neighbours(
    matrix: Matrix, queries: Mapping[int, Sequence[int]], rows: Rows, least: float
) -> Iterator[tuple[int, int]]:
    """The names of queries, which are some rows each, with the rows that are near to each."""
    for name, own in queries.items():
        for query in own:
            numbers, products = nearest(matrix, matrix[query], _NEIGHBOURS + len(own), rows)
            for number, product in zip(numbers.tolist(), products.tolist(), strict=True):
                if product >= least:
                    yield name, number


def _pairs(some: Sequence[Track], others: Sequence[Track]) -> set[tuple[Track, Track]]:
    return {
        (one, other) if (one.duration, other.path) > (other.duration, one.path) else (other, one)
        for one in some
        for other in others
        if one.id != other.id
    }
