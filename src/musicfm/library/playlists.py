"""Orders of tracks in which each sounds like the one before."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from musicfm.library.matrices import Matrix
from musicfm.library.transform import unit

POOL = 30
"""The number of tracks that are tried for each place."""
BEAM = 64
"""The width of the beam search."""

Penalty = Callable[[int, int], float]
"""The cost of a step between two tracks, by their numbers, in addition to that of their sound."""


def waypoints(first: Matrix, last: Matrix, count: int) -> Matrix:
    """(count, dim) unit vectors on the shortest way from one unit vector to another."""
    cosine = float(np.clip(first @ last, -1.0, 1.0))
    angle = np.arccos(cosine)
    place = np.linspace(0.0, 1.0, count, dtype=np.float32)[:, None]
    if angle < 1e-3:  # or the sines below are as good as zero
        return unit((1 - place) * first + place * last)
    return unit(np.sin((1 - place) * angle) * first + np.sin(place * angle) * last)


def between(
    vectors: Matrix, first: int, last: int, count: int, penalty: Penalty | None = None
) -> list[int]:
    """An order of tracks from one to another whose steps are small, each once.

    For each place, the tracks nearest to the shortest way between the two are tried. A beam search
    looks for the order whose squared distances (1 - cosine), of steps and of tracks from that way,
    add up to the least.

    Args:
        vectors: (tracks, dim), of length 1.
        first: which track it begins with.
        last: which one it ends with.
        count: tracks in all, both included; all there are if there are fewer.
        penalty: what a step costs besides.

    Returns:
        Numbers of tracks.
    """
    count = min(count, len(vectors))
    if count <= 2:
        return [first, last][: max(count, 1)]
    targets = waypoints(vectors[first], vectors[last], count)[1:-1]
    similarity = vectors @ targets.T
    similarity[[first, last]] = -np.inf
    size = min(max(POOL, count), len(vectors))  # so that no place is left without a track
    pools = np.argpartition(-similarity, size - 1, axis=0)[:size].T
    paths: list[tuple[float, list[int]]] = [(0.0, [first])]
    for place, pool in enumerate(pools):
        candidates = [track for track in pool.tolist() if track not in (first, last)]
        off_way = (1.0 - similarity[candidates, place]) ** 2
        longer: list[tuple[float, list[int]]] = []
        for cost, path in paths:
            steps = cost + off_way + _squared(vectors, path[-1], candidates)
            longer += [
                (float(total) + _extra(penalty, path[-1], track), [*path, track])
                for track, total in zip(candidates, steps.tolist(), strict=True)
                if track not in path
            ]
        longer.sort(key=lambda item: item[0])
        paths = longer[:BEAM]
    ends = [
        (
            cost + float(_squared(vectors, path[-1], [last])[0]) + _extra(penalty, path[-1], last),
            path,
        )
        for cost, path in paths
    ]
    return [*min(ends, key=lambda item: item[0])[1], last]


def around(vectors: Matrix, first: int, count: int, penalty: Penalty | None = None) -> list[int]:
    """A track and those most similar to it, each followed by the most similar one that is left."""
    similarity = vectors @ vectors[first]
    similarity[first] = np.inf
    nearest = np.argsort(-similarity, kind="stable")[:count].tolist()
    order = [nearest.pop(0)]
    while nearest:
        costs = _squared(vectors, order[-1], nearest)
        extra = [_extra(penalty, order[-1], track) for track in nearest]
        order.append(nearest.pop(int(np.argmin(costs + np.array(extra)))))
    return order


def _squared(vectors: Matrix, track: int, others: Sequence[int]) -> npt.NDArray[np.float32]:
    return (1.0 - vectors[list(others)] @ vectors[track]) ** 2


def _extra(penalty: Penalty | None, one: int, other: int) -> float:
    return 0.0 if penalty is None else penalty(one, other)
