"""Sections, by what a recording itself repeats: letters, and names where a head is sure of one.

The spectral clustering of McFee and Ellis, "Analyzing song structure with spectral clustering"
(ISMIR 2014). Beats are the nodes of a graph; one is joined to those that sound alike, wherever they
are, and to its neighbours in time. Of the graph's Laplacian, the eigenvectors of the smallest
eigenvalues are constant where much is joined, and sections are what lies together in them. How many
there are follows from the eigenvalues.
"""

import math
from string import ascii_uppercase

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.linalg import eigh
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.spatial.distance import cdist

from musicfm.datasets.annotations import Array, Spans
from musicfm.tasks.structure import FUNCTIONS

UNIT_SECONDS = 0.5
"""The length of nodes if there are no beats."""
MOST_UNITS = 600
"""The largest number of nodes; in longer recordings, several beats are one node."""
CHORD_WEIGHT = 0.5
"""The weight of the distance of chords, relative to that of hidden states."""
SMOOTH, EMBEDDED, APART = 8, 4, 20
"""The number of beats over which nodes are averaged; that are compared on either side of each; and
that nodes have to be apart to be joined for their sound."""
EIGENVECTOR_SMOOTH = 9
"""The width in beats of the median filter over eigenvectors."""
FEWEST_NODES = 32
"""The number of nodes below which there is only one letter."""
MOST_LETTERS = 3
GAP = 2.0
"""The ratio of the third eigenvalue to the second above which there are two letters, not three."""
WHOLE = 5.0
"""The second eigenvalue, times the number of nodes, above which there is only one letter."""
SURE = 0.8
"""The mean probability from which on a section is named by its function."""


def sections(
    frames: npt.NDArray[np.floating],
    chords: Array,
    functions: Array,
    beats: Array,
    duration: float,
) -> Spans:
    """Divides a recording into sections; those that sound alike have the same letter.

    Args:
        frames: (time, dim) hidden states, evenly over the recording; likewise the next two.
        chords: (outputs, 25) probabilities of chords; zero columns where they are not known.
        functions: (outputs, 7) probabilities of the functions of
            :data:`musicfm.tasks.structure.FUNCTIONS`; zero columns where they are not known.
        beats: (beats,) their times in seconds.
        duration: of the recording, in seconds.

    Returns:
        Spans over the whole recording. A label is a letter, "A", or one with a function that the
        head is sure of, "B chorus"; or "silence". A confidence is how much nearer a section's
        beats are to their own letter than to the next, from 0 to 1.
    """
    bounds = nodes(beats, duration)
    hidden = means(frames, bounds)
    hidden = (hidden - hidden.mean(axis=0)) / (hidden.std(axis=0) + 1e-6) / np.sqrt(hidden.shape[1])
    features = np.concatenate([hidden, CHORD_WEIGHT * means(chords, bounds)], axis=1)
    found, sure = clusters(features)
    starts = np.flatnonzero(np.diff(found, prepend=-1))
    ends = np.append(starts[1:], len(found))
    names = names_of(means(functions, bounds), found)
    letters = iter(ascii_uppercase)
    labels: dict[int, str] = {}
    for number in found[starts]:
        if number not in labels:
            name = names[number]
            labels[number] = name if name == "silence" else f"{next(letters)} {name}".rstrip()
    intervals = np.stack([bounds[starts], bounds[ends]], axis=1)
    confidences = [float(sure[start:end].mean()) for start, end in zip(starts, ends, strict=True)]
    return Spans(intervals, tuple(labels[n] for n in found[starts]), np.array(confidences))


def nodes(beats: Array, duration: float) -> Array:
    """(nodes + 1,) where one ends and the next begins: beats, or several; from 0 to the end."""
    if len(beats) < 8:
        beats = np.arange(UNIT_SECONDS, duration, UNIT_SECONDS)
    inner = beats[(beats > 0.1) & (beats < duration - 0.1)]
    every = -(-len(inner) // MOST_UNITS) or 1
    return np.concatenate([[0.0], inner[every - 1 :: every], [duration]])


def means(values: npt.NDArray[np.floating], bounds: Array) -> Array:
    """(nodes, dim) means of evenly spaced (time, dim) values between bounds in seconds."""
    places = np.rint(bounds / bounds[-1] * len(values)).astype(int)
    first = np.minimum(places[:-1], len(values) - 1)
    last = np.maximum(places[1:], first + 1)
    spans = zip(first, last, strict=True)
    return np.stack([values[start:end].mean(axis=0, dtype=float) for start, end in spans])


def clusters(features: Array) -> tuple[npt.NDArray[np.int64], Array]:
    """(nodes,) numbers of what sounds alike, and how clear that is for each node, from 0 to 1."""
    count, number = len(features), 1
    if count >= FEWEST_NODES and features.any():
        values, vectors = spectrum(features)
        number = how_many(values, count)
    if number == 1:
        return np.zeros(count, dtype=np.int64), np.ones(count)
    vectors = median_filter(vectors, (EIGENVECTOR_SMOOTH, 1), mode="nearest")[:, :number]
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    found = fcluster(linkage(vectors, "ward"), number, "maxclust")
    centres = np.stack([vectors[found == n].mean(axis=0) for n in np.unique(found)])
    nearest = np.sort(cdist(vectors, centres), axis=1)
    return found, 1.0 - nearest[:, 0] / np.maximum(nearest[:, 1], 1e-9)


def spectrum(features: Array) -> tuple[Array, Array]:
    """The smallest eigenvalues of the graph's normalised Laplacian, rising, and their eigenvectors
    as columns.
    """
    count = len(features)
    smooth = uniform_filter1d(features, SMOOTH, axis=0, mode="nearest")
    padded = np.pad(smooth, ((EMBEDDED, EMBEDDED), (0, 0)), mode="edge")
    between = cdist(padded, padded, "sqeuclidean")
    # Of two nodes with all around them: the mean along the diagonal.
    steps = range(2 * EMBEDDED + 1)
    distance = sum(between[i : i + count, i : i + count] for i in steps) / len(steps)
    apart = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    away = np.where(apart < min(APART, count // 5), np.inf, distance)
    neighbours = min(count - 1, 1 + math.ceil(2 * math.log2(count)))
    order = np.argpartition(away, neighbours, axis=1)
    joined = np.zeros((count, count), dtype=bool)
    joined[np.arange(count)[:, None], order[:, :neighbours]] = True
    scale = np.take_along_axis(away, order[:, neighbours, None], axis=1)
    alike = (joined & joined.T) * np.exp(-distance / np.sqrt(scale * scale.T).clip(min=1e-12))
    step = ((smooth[1:] - smooth[:-1]) ** 2).sum(axis=1)
    following = np.diag(np.exp(-step / max(np.median(step), 1e-9)), 1)
    following += following.T
    # So that neither sound nor time outweighs the other.
    degrees, times = alike.sum(axis=1), following.sum(axis=1)
    share = times @ (times + degrees) / ((times + degrees) ** 2).sum()
    weights = share * alike + (1.0 - share) * following
    root = np.sqrt(weights.sum(axis=1) + 1e-12)
    laplacian = np.eye(count) - weights / np.outer(root, root)
    return eigh(laplacian, subset_by_index=[0, MOST_LETTERS - 1])


def how_many(values: Array, count: int) -> int:
    """How many letters, by the smallest eigenvalues of a graph of so many nodes."""
    if values[1] * count > WHOLE:
        return 1
    return 2 if values[2] > GAP * values[1] else MOST_LETTERS


def names_of(functions: Array, found: npt.NDArray[np.int64]) -> dict[int, str]:
    """The function of each number; an empty one where none is sure."""
    names = {}
    for number in np.unique(found):
        mean = functions[found == number].mean(axis=0)
        best = int(mean.argmax()) if len(mean) else 0
        names[int(number)] = FUNCTIONS[best] if len(mean) and mean[best] >= SURE else ""
    return names
