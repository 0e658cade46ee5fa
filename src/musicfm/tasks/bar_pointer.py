"""Beats and downbeats of a steady metre: the bar-pointer model.

A pointer runs through the bar. While a beat lasts it only advances; where a beat ends, the next one
may be a little longer or shorter. That is the state space of Krebs, Böck and Widmer, "An efficient
state-space model for joint tempo and meter tracking" (ISMIR 2015), with all whole numbers of
outputs as lengths of a beat.

What is observed differs from theirs. A network whose loss lets peaks be some outputs off
(:mod:`musicfm.tasks.beat`) says that there is a beat somewhere near, so that a beat is observed
once, where its log-odds are highest within ``WINDOW`` outputs. They count as far as they exceed a
level of the recording itself: where all is weak, beats are no rarer for it, and where all is
strong, no more frequent.

Nothing is chosen within a beat, so it is one step here. What has to be remembered is how long the
beat before was.

A path that counts eighth notes explains all that one of quarter notes does. So in the end one of
about half the tempo is looked for, and taken where beats are seen on it and none between them. Slow
tempi are rare, and have to be plain: or else the path is one of half notes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import maximum_filter1d

from musicfm.datasets.annotations import Beats
from musicfm.tasks.base import Array
from musicfm.tasks.peaks import peak_time

BEATS_PER_BAR = (2, 3, 4)
"""A recording has one of these metres throughout: that of the best path."""
SHORT_BAR = 0.8
"""What each bar of two beats costs, in log-odds. Music in four seems to be in two where the third
beat of a bar is strong, and is far more frequent."""
BEATS_PER_MINUTE = (40.0, 240.0)
TRANSITION_LAMBDA = 60.0
"""How unlikely it is that the next beat has another length."""
LARGEST_CHANGE = 0.15
"""Fraction of its length by which a beat may differ from the one before."""
WINDOW = 4
"""Outputs within which a beat is observed."""
CLIP = 4.0
"""Log-odds beyond which something is not surer."""
BEAT_LEVEL, DOWNBEAT_LEVEL = 0.2, 1.0
"""In standard deviations above the mean over the recording: the log-odds from which on a beat, or a
downbeat, is rather there than not. Lower ones give twice as many beats, higher ones half as many.
"""
ACTIVE = -2.9
"""Log-odds (0.05). Before the first and after the last output of this size there are no beats."""
FAINT = -5.0
"""Log-odds (0.007) that nothing exceeds where there is no pulse at all, as in silence."""
EVEN = 1.0
"""Log-odds that differ by less all the time show no beats."""
NEAR = 1.25
"""A tempo about half or double another is looked for from so many times slower to so many times
faster."""
BETWEEN = -0.4
"""Mean log-odds between the beats of half the tempo, below which nothing is there: at 170 beats per
minute, where both tempi are equally usual."""
USUAL_TEMPO = 120.0
"""Beats per minute. What is above or below is rarer: a normal distribution over the logarithm, an
octave wide. The middle is that of van Noorden and Moelants, "Resonance in the perception of musical
pulse" (1999); theirs is narrower."""
SLOW = 75.0
"""Beats per minute. A slower tempo has to be plain to be taken."""
PLAIN_DOWNBEATS, PLAIN_BEATS = 1.4, -3.3
"""A tempo is plain if, in the mean, the log-odds of downbeats are at least ``PLAIN_DOWNBEATS``
higher on its beats than half-way between them; or if those of beats half-way between them are below
``PLAIN_BEATS``, or hardly above the median of the recording."""


class Path(NamedTuple):
    """A way through the bars: the beats, in order."""

    starts: npt.NDArray[np.int64]
    """(beats,) outputs at which they begin; that of the first may be negative."""
    lengths: npt.NDArray[np.int64]
    """(beats,) in outputs; the last may go on beyond the end."""
    positions: npt.NDArray[np.int64]
    """(beats,) from 1."""


def bar_pointer(
    logits: Array, times: Array, tempi: tuple[float, float] = BEATS_PER_MINUTE
) -> Beats:
    """The beats on the most likely path.

    Args:
        logits: (outputs, 2) log-odds of beats, downbeats among them, and of downbeats.
        times: (outputs,) in seconds, evenly spaced.
        tempi: the lowest and the highest tempo of a path, in beats per minute.

    Returns:
        The beats, each where its log-odds are highest around the window in which it is observed,
        or between its neighbours if they are low there. None if nothing stands out, or if there is
        but one output.
    """
    found = _beats(logits, times, tempi)
    if len(found.times) < 2:
        return found
    tempo = 60.0 / float(np.median(np.diff(found.times)))
    if tempo / 2 >= tempi[0]:
        slower = _beats(logits, times, (max(tempi[0], tempo / 2 / NEAR), tempo / 2 * NEAR))
        if _is_better(slower.times, tempo, logits, times):
            return slower
    if 2 * tempo <= tempi[1] and not _is_plain(found.times, tempo, logits, times):
        return _beats(logits, times, (2 * tempo / NEAR, min(tempi[1], 2 * tempo * NEAR)))
    return found


def _is_better(slower: Array, tempo: float, logits: Array, times: Array) -> bool:
    """Whether beats of half a tempo are there, and nothing is between them."""
    if len(slower) < 2:
        return False
    on, between = _on_and_between(slower, logits, times)[:, 0]
    # How much more usual half the tempo is: the difference of two normal densities' logarithms.
    usual = np.log2(tempo / USUAL_TEMPO) - 0.5
    there = on > 0.0 and between < BETWEEN + usual
    return bool(there and _is_plain(slower, tempo / 2, logits, times))


def _is_plain(beats: Array, tempo: float, logits: Array, times: Array) -> bool:
    """Whether a tempo is not slow, or plain all the same (see ``PLAIN_DOWNBEATS``)."""
    if tempo >= SLOW:
        return True
    on, between = _on_and_between(beats, logits, times)
    nothing_between = max(PLAIN_BEATS, np.median(logits[:, 0]) + EVEN)
    return bool(on[1] - between[1] >= PLAIN_DOWNBEATS or between[0] < nothing_between)


def _on_and_between(beats: Array, logits: Array, times: Array) -> Array:
    """(2, 2) mean log-odds, of beats and of downbeats, on beats and half-way between them."""
    highest = maximum_filter1d(logits, WINDOW + 1, axis=0, mode="nearest")
    events = (beats, (beats[1:] + beats[:-1]) / 2)
    return np.array([[np.interp(e, times, odds).mean() for odds in highest.T] for e in events])


def _beats(logits: Array, times: Array, tempi: tuple[float, float]) -> Beats:
    """The beats on the most likely path at some tempi."""
    strength = logits.max(axis=1)
    # A song whose beats are all weak has a pulse, too.
    active = np.flatnonzero(strength >= min(ACTIVE, strength.max() - EVEN))
    if len(times) < 2 or np.ptp(strength) < EVEN or strength.max() < FAINT:
        return Beats(np.empty(0), np.empty(0, dtype=np.int64))
    inside = slice(active[0], active[-1] + 1)
    per_minute = 60.0 / (times[1] - times[0])
    shortest, longest = (max(1, round(per_minute / tempo)) for tempo in reversed(tempi))
    lengths = np.arange(shortest, longest + 1)
    found = evidence(logits[inside])
    path = best_path(found, lengths, BEATS_PER_BAR)
    begun = path.starts >= 0  # the first may have begun before
    starts = path.starts[begun]
    peaks = []
    for start in starts + inside.start:
        # Lengths are whole outputs: a path that is one or two of them off still finds the peak.
        first = max(start - WINDOW // 2, inside.start)
        near = logits[first : min(start + WINDOW + WINDOW // 2, inside.stop), 0]
        peaks.append(peak_time(logits[:, 0], times, int(first + near.argmax())))
    # Beats of which nothing is seen lie on the path between those that are.
    seen = np.flatnonzero(found[starts, 1] > 0.0)
    on_path = times[inside][starts]
    if len(seen):
        offsets = np.array(peaks) - on_path
        on_path = on_path + np.interp(np.arange(len(starts)), seen, offsets[seen])
    return Beats(on_path, path.positions[begun])


def evidence(logits: Array) -> Array:
    """(outputs, 2) for a downbeat, and for another beat, that begins at an output."""
    # Where all is weak, the range in which log-odds count begins lower.
    lowest = np.minimum(logits.max(axis=0), 0.0) - CLIP
    clipped = np.pad(logits.clip(lowest, CLIP), ((0, WINDOW - 1), (0, 0)), mode="edge")
    highest = sliding_window_view(clipped, WINDOW, axis=0).max(axis=-1)
    levels = highest.mean(axis=0) + highest.std(axis=0) * (BEAT_LEVEL, DOWNBEAT_LEVEL)
    beat, downbeat = (highest - levels).T
    return np.stack([beat + downbeat, beat], axis=1)


def log_transitions(lengths: npt.NDArray[np.int64]) -> Array:
    """(lengths, lengths) log-probabilities, from rows to columns."""
    ratio = lengths[None, :] / lengths[:, None]
    change = -TRANSITION_LAMBDA * np.abs(ratio - 1.0)
    change[np.abs(np.log(ratio)) > np.log1p(LARGEST_CHANGE)] = -np.inf
    return change - np.log(np.exp(change).sum(axis=1, keepdims=True))


def best_path(
    evidence: Array, lengths: npt.NDArray[np.int64], beats_per_bar: Sequence[int]
) -> Path:
    """The most likely path, which may begin and end anywhere in a bar.

    Args:
        evidence: (outputs, 2), see :func:`evidence`.
        lengths: that a beat may have, in outputs, rising by one.
        beats_per_bar: metres, which do not change within a path.

    No beat is shorter than ``lengths[0]``, so the beats that begin within so many outputs all
    follow beats that are known already: these are one step. It takes as many operations as there
    are outputs, times beats of all metres, times pairs of lengths that may follow each other; one
    byte is kept for each output, beat and length.
    """
    positions = np.concatenate([np.arange(1, n + 1) for n in beats_per_bar])
    bar_starts = np.repeat(np.cumsum([0, *beats_per_bar[:-1]]), beats_per_bar)
    bars = np.repeat(beats_per_bar, beats_per_bar)
    previous = bar_starts + (positions - 2) % bars
    kind = (positions > 1).astype(np.int64)
    num_outputs, step, longest = len(evidence), int(lengths[0]), int(lengths[-1])
    # Beats may begin before the first output, where nothing is observed, and after the last.
    cost = SHORT_BAR * ((bars == 2) & (positions == 1))
    observed = np.pad(evidence[:, kind] - cost, ((longest, longest + step), (0, 0)))
    # Of a beat of each length, log-probabilities by how much longer the beat before was.
    transitions = log_transitions(lengths)
    rows, columns = np.nonzero(np.isfinite(transitions))
    reach = int(np.abs(rows - columns).max())
    band = np.full((len(lengths), 2 * reach + 1), -np.inf)
    band[columns, rows - columns + reach] = transitions[rows, columns]

    # The best score before a beat that begins at an output, for each length and beat: of the last
    # ``longest`` outputs, and room for a step. All states are equally likely at first.
    before = np.full((longest + step, len(lengths), len(positions)), -np.inf)
    starts = np.arange(1 - longest, 1)
    before[step:][starts[:, None] > -lengths] = -np.log(bars * lengths.sum())
    chosen = np.zeros((num_outputs + step, len(positions), len(lengths)), np.int8)
    options = np.full((step, len(positions), len(lengths) + 2 * reach), -np.inf)
    around = sliding_window_view(options, 2 * reach + 1, axis=2)
    outputs, every = np.arange(1, 1 + step), np.arange(len(lengths))
    while outputs[0] < num_outputs:
        before[:-step] = before[step:]
        starts = outputs[:, None] - lengths
        after = before[starts - outputs[0] + longest, every] + observed[starts + longest]
        options[..., reach : reach + len(lengths)] = after[..., previous].transpose(0, 2, 1)
        scores = around + band
        choice = scores.argmax(axis=-1)
        chosen[outputs] = choice - reach
        best = np.take_along_axis(scores, choice[..., None], axis=-1)[..., 0]
        before[-step:] = best.transpose(0, 2, 1)
        outputs = outputs + step
    # The path ends in a beat that begins before the end and does not end before it.
    starts = np.arange(outputs[0] - longest - step, outputs[0])[:, None]
    total = before + observed[starts + longest]
    total[(starts >= num_outputs) | (starts + lengths < num_outputs)] = -np.inf
    row, length, beat = np.unravel_index(total.argmax(), total.shape)
    start = int(starts[row, 0])
    path = [(start, lengths[length], positions[beat])]
    while start > 0:
        length, beat = length + chosen[start, beat, length], previous[beat]
        start -= int(lengths[length])
        path.append((start, lengths[length], positions[beat]))
    return Path(*np.array(path[::-1], dtype=np.int64).T)
