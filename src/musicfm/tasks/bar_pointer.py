"""Beats and downbeats of a steady metre: the bar-pointer model.

A pointer runs through the bar. While a beat lasts it only advances; where a beat ends, the next one
may be longer or shorter. That is the state space of Krebs, Böck and Widmer, "An efficient
state-space model for joint tempo and meter tracking" (ISMIR 2015), and activations are observed as
in Böck, Krebs and Widmer, "Joint beat and downbeat tracking with recurrent neural networks" (ISMIR
2016), where beats and downbeats exclude each other; here downbeats are beats, and are told apart
first. Their numbers of outputs per beat are spaced logarithmically, 60 of them; at 50 Hz there are
only 42 whole numbers from 55 to 215 beats per minute, and all are used.

Nothing is chosen within a beat, so it is one step here: its score is a difference of cumulative
sums, and what has to be remembered is how long the beat before was.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from musicfm.datasets.annotations import Beats
from musicfm.tasks.base import Array

BEATS_PER_BAR = (2, 3, 4)
"""A recording has one of these metres throughout: that of the best path."""
BEATS_PER_MINUTE = (55.0, 215.0)
TRANSITION_LAMBDA = 100.0
"""How unlikely it is that the next beat has another length."""
OBSERVATION_LAMBDA = 16
"""The first part in so many of a beat is where it is to be heard."""
ACTIVE = 0.05
"""Before the first and after the last activation of this size there are no beats."""
_FLOOR = 1e-5  # of probabilities: what is sure may still be wrong


class Path(NamedTuple):
    """A way through the bars: the beats, in order."""

    starts: npt.NDArray[np.int64]
    """(beats,) outputs at which they begin; that of the first may be negative."""
    lengths: npt.NDArray[np.int64]
    """(beats,) in outputs; the last may go on beyond the end."""
    positions: npt.NDArray[np.int64]
    """(beats,) from 1."""


def bar_pointer(activations: Array, times: Array) -> Beats:
    """The beats on the most likely path.

    Args:
        activations: (outputs, 2) from 0 to 1, of beats, downbeats among them, and of downbeats.
        times: (outputs,) in seconds, evenly spaced.

    Returns:
        The beats, each where the activation is highest within the part of the beat in which it is
        to be heard. None if nothing is active, or if there is but one output.
    """
    strength = activations.max(axis=1)
    active = np.flatnonzero(strength >= ACTIVE)
    if len(times) < 2 or not len(active):
        return Beats(np.empty(0), np.empty(0, dtype=np.int64))
    inside = slice(active[0], active[-1] + 1)
    strength, inner_times = strength[inside], times[inside]
    per_minute = 60.0 / (times[1] - times[0])
    shortest, longest = (round(per_minute / tempo) for tempo in reversed(BEATS_PER_MINUTE))
    lengths = np.arange(shortest, longest + 1)
    path = best_path(log_densities(activations[inside]), lengths, BEATS_PER_BAR)
    found, positions = [], []
    for start, length, position in zip(*path, strict=True):
        first = max(start, 0)
        heard = strength[first : max(first, start + heard_outputs(length))]
        if len(heard):
            # Of a plateau, as repeated frames make it, the middle.
            found.append(inner_times[first + np.flatnonzero(heard == heard.max())].mean())
            positions.append(position)
    return Beats(np.array(found), np.array(positions, dtype=np.int64))


def log_densities(activations: Array) -> Array:
    """(outputs, 3) log-densities of a downbeat, of another beat, and of none of them.

    The two activations are taken for independent, so that one that is slightly higher than the
    other does not rule anything out. What is no beat spreads over all but the first part of a beat,
    and is so much thinner.
    """
    beat, downbeat = activations.T
    none = (1.0 - beat) * (1.0 - downbeat) / (OBSERVATION_LAMBDA - 1)
    densities = np.stack([downbeat, beat * (1.0 - downbeat), none], axis=1)
    return np.log(np.maximum(densities, _FLOOR))


def heard_outputs(length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """In how many of its outputs a beat of a length is to be heard."""
    return -(-length // OBSERVATION_LAMBDA)


def log_transitions(lengths: npt.NDArray[np.int64]) -> Array:
    """(lengths, lengths) log-probabilities, from rows to columns."""
    change = -TRANSITION_LAMBDA * np.abs(lengths[None, :] / lengths[:, None] - 1.0)
    return change - np.log(np.exp(change).sum(axis=1, keepdims=True))


def best_path(
    densities: Array, lengths: npt.NDArray[np.int64], beats_per_bar: Sequence[int]
) -> Path:
    """The most likely path, which may begin and end anywhere in a bar.

    Args:
        densities: (outputs, 3), see :func:`log_densities`.
        lengths: that a beat may have, in outputs, rising by one.
        beats_per_bar: metres, which do not change within a path.

    No beat is shorter than ``lengths[0]``, so the beats that begin within so many outputs all
    follow beats that are known already: these are one step. It takes as many operations as there
    are outputs, times beats of all metres, times pairs of lengths; one small integer is kept for
    each output, beat and length.
    """
    positions = np.concatenate([np.arange(1, n + 1) for n in beats_per_bar])
    bar_starts = np.repeat(np.cumsum([0, *beats_per_bar[:-1]]), beats_per_bar)
    bars = np.repeat(beats_per_bar, beats_per_bar)
    previous = bar_starts + (positions - 2) % bars
    kind = (positions > 1).astype(np.int64)
    num_outputs, step, longest = len(densities), int(lengths[0]), int(lengths[-1])
    sums = np.concatenate([np.zeros((1, 3)), densities.cumsum(axis=0)])
    transitions = log_transitions(lengths).T.copy()

    def scores(starts: npt.NDArray[np.int64]) -> Array:
        """Of beats of all lengths, (..., lengths), from their starts, (..., lengths, all beats)."""
        start, heard, end = (
            np.clip(at, 0, num_outputs)
            for at in (starts, starts + heard_outputs(lengths), starts + lengths)
        )
        heard_score = sums[heard, :2] - sums[start, :2]
        unheard_score = sums[end, 2] - sums[heard, 2]
        return (heard_score + unheard_score[..., None])[..., kind]

    # The best score before a beat that begins at an output, for each length and beat: of the last
    # ``longest`` outputs, and room for a step. All states are equally likely at first.
    before = np.full((longest + step, len(lengths), len(positions)), -np.inf)
    starts = np.arange(1 - longest, 1)
    before[step:][starts[:, None] > -lengths] = -np.log(bars * lengths.sum())
    chosen = np.zeros(
        (num_outputs + step, len(positions), len(lengths)), np.min_scalar_type(len(lengths))
    )
    outputs, every = np.arange(1, 1 + step), np.arange(len(lengths))
    while outputs[0] < num_outputs:
        before[:-step] = before[step:]
        starts = outputs[:, None] - lengths
        after = before[starts - outputs[0] + longest, every] + scores(starts)
        options = after[..., previous].transpose(0, 2, 1)[:, :, None] + transitions
        choice = options.argmax(axis=-1)
        chosen[outputs] = choice
        best = np.take_along_axis(options, choice[..., None], axis=-1)[..., 0]
        before[-step:] = best.transpose(0, 2, 1)
        outputs = outputs + step
    # The path ends in a beat that begins before the end and does not end before it.
    starts = np.arange(outputs[0] - longest - step, outputs[0])[:, None] + np.zeros_like(lengths)
    total = before + scores(starts)
    total[(starts >= num_outputs) | (starts + lengths < num_outputs)] = -np.inf
    row, length, beat = np.unravel_index(total.argmax(), total.shape)
    start = int(starts[row, 0])
    path = [(start, lengths[length], positions[beat])]
    while start > 0:
        length, beat = chosen[start, beat, length], previous[beat]
        start -= int(lengths[length])
        path.append((start, lengths[length], positions[beat]))
    return Path(*np.array(path[::-1], dtype=np.int64).T)
