"""Beats and downbeats.

Two activations at 50 Hz, for beats and for downbeats, as in Böck and Davies (ISMIR 2020). The loss
is the shift-tolerant one of Foscarin et al., "Beat This! Accurate beat tracking without DBN
postprocessing" (ISMIR 2024): annotations are some frames off, so a beat is found if there is a peak
within ``TOLERANCE`` frames, and the frames around it are neither right nor wrong. Decoding follows
that paper too: local maxima within 70 ms, and downbeats snapped to beats; or, where that does
better on validation, the path of a bar pointer.

Metrics: mir_eval's F-measure within 70 ms, after the first 5 s. MusicFM's own loss and decoding
were not published.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.ndimage import maximum_filter1d
from torch import Tensor
from torch.nn import functional as F

from musicfm.datasets.annotations import Annotations, Beats
from musicfm.errors import ConfigError
from musicfm.tasks.bar_pointer import NEAR, bar_pointer
from musicfm.tasks.base import (
    Array,
    Constant,
    Decoding,
    Loss,
    Scores,
    Targets,
    Task,
    binary_logits,
    nan_mean,
    sigmoid,
)
from musicfm.tasks.peaks import local_maxima

TOLERANCE = 3
"""Frames that a peak may be off in training."""
PEAK_SECONDS = 0.07
"""Seconds on either side within which a beat is the highest."""


SLOWEST, FASTEST = 20.0, 400.0
"""Beats per minute that can be asked for."""
_OCTAVES = {"half": 0.5, "double": 2.0}

_THRESHOLDS = (0.5, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)


class BeatDecoding(Decoding):
    """Peaks, or the path of a bar pointer, which needs a steady metre and fills in what is missing.

    The thresholds are of peaks: from what activation on one is a beat.
    """

    decoder: Literal["peaks", "bar_pointer"] = "peaks"
    beat_threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    downbeat_threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    tempo: str = ""
    """The tempo, if it is known, for the bar pointer; see :func:`read_tempo`."""


def read_tempo(text: str) -> tuple[float, float] | float:
    """What a hint of a tempo says: "80-160" is from 80 to 160 beats per minute, "half" and "double"
    are of the tempo that would be found.

    Returns:
        The lowest and the highest tempo; or 0.5 or 2.0.

    Raises ConfigError if it says nothing.
    """
    if text in _OCTAVES:
        return _OCTAVES[text]
    low, _, high = text.partition("-")
    try:
        found = float(low), float(high)
    except ValueError:
        found = 0.0, 0.0
    if not SLOWEST <= found[0] < found[1] <= FASTEST:
        raise ConfigError(
            f"the tempo is '{text}'; give two numbers from {SLOWEST:g} to {FASTEST:g} beats per "
            "minute, such as 80-160, or half, or double"
        )
    return found


class Beat(Task[BeatDecoding]):
    """Beat and downbeat tracking."""

    name = "beat"
    clip_seconds = 6.0
    rate = 50.0
    metrics = ("beat", "downbeat")
    num_logits = 2

    positive_weights = (8.0, 24.0)
    """Of beats and downbeats: about how many frames that count there are to one of them."""

    @property
    def decodings(self) -> Sequence[BeatDecoding]:
        return [
            *(BeatDecoding(beat_threshold=threshold) for threshold in _THRESHOLDS),
            BeatDecoding(decoder="bar_pointer"),
        ]

    def choose(self, objective: Callable[[BeatDecoding], float]) -> BeatDecoding:
        """The threshold of downbeats is chosen after that of beats, and not with it."""
        *peaks, path = self.decodings
        best = max(peaks, key=objective)
        refined = [best.replace(downbeat_threshold=threshold) for threshold in _THRESHOLDS]
        return max([*refined, path], key=objective)

    def is_labelled(self, annotations: Annotations) -> bool:
        return annotations.beats is not None

    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """(outputs, 2): 1 at the output nearest to a beat."""
        values = np.zeros((len(times), 2))
        known = np.zeros((len(times), 2), dtype=bool)
        beats = annotations.beats
        if beats is not None:
            has_positions = bool((beats.positions > 0).any())
            half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.0
            for column, events in enumerate((beats.times, beats.downbeats)):
                inside = events[(events >= times[0] - half) & (events < times[-1] + half)]
                values[_nearest(times, inside), column] = 1.0
                known[:, column] = column == 0 or has_positions
        return Targets(values, known)

    def loss(self, logits: Tensor, values: Tensor, known: Tensor) -> Loss:
        peaks = widest(logits, TOLERANCE)
        # The frames beside a beat that is just outside of a clip count as none: one or two of 300.
        around = widest(values, 2 * TOLERANCE)
        weight = values * logits.new_tensor(self.positive_weights) + (1.0 - around)
        losses = F.binary_cross_entropy_with_logits(peaks, values, weight, reduction="none")
        counted = known.to(losses.dtype)
        return Loss((losses * counted).sum(), (weight * counted).sum())

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: BeatDecoding
    ) -> Annotations:
        if decoding.decoder == "bar_pointer" or decoding.tempo:
            path = _path(logits, times, decoding.tempo)
            sure = _confidence(logits[:, 0], times, path.times)
            return Annotations(beats=replace(path, times=_from_start(path.times), confidences=sure))
        beats, downbeats = (
            local_maxima(column, times, PEAK_SECONDS, np.log(threshold / (1.0 - threshold)))
            for column, threshold in zip(
                logits.T, (decoding.beat_threshold, decoding.downbeat_threshold), strict=True
            )
        )
        positions = np.zeros(len(beats), dtype=np.int64)
        if len(beats) and len(downbeats):
            positions[_nearest(beats, downbeats)] = 1
            _count(positions)
        sure = _confidence(logits[:, 0], times, beats)
        return Annotations(beats=Beats(_from_start(beats), positions, sure))

    def objective(self, summary: Mapping[str, float]) -> float:
        return nan_mean([summary["beat"], summary["downbeat"]])

    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """NaN where the reference has no beats, or no downbeats, after the first 5 s."""
        assert reference.beats is not None
        assert estimate.beats is not None
        return {
            "beat": _f_measure(reference.beats.times, estimate.beats.times),
            "downbeat": _f_measure(reference.beats.downbeats, estimate.beats.downbeats),
        }

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """Constant tempi, from common ones, with 2, 3 or 4 beats to a bar."""
        periods = np.concatenate([np.diff(a.beats.times) for a in train if a.beats is not None])
        if not len(periods):
            periods = np.array([0.5])
        for percentile in (10, 25, 40, 50, 60, 75, 90):
            period = float(np.percentile(periods, percentile))
            for bar in (2, 3, 4):
                yield partial(_grid, period, bar)

    def oracle_logits(self, targets: Targets) -> Array:
        """See :meth:`musicfm.tasks.base.Task.oracle_logits`."""
        return binary_logits(targets.values, targets.known)


def _path(logits: Array, times: Array, tempo: str) -> Beats:
    """The path of the bar pointer, at a tempo of which something is known."""
    if not tempo:
        return bar_pointer(logits, times)
    known = read_tempo(tempo)
    if isinstance(known, tuple):
        return bar_pointer(logits, times, known)
    found = bar_pointer(logits, times)
    if len(found.times) < 2:
        return found
    usual = known * 60.0 / float(np.median(np.diff(found.times)))
    return bar_pointer(logits, times, (usual / NEAR, usual * NEAR))


def _grid(period: float, bar: int, duration: float) -> Annotations:
    times = np.arange(0.0, duration, period)
    return Annotations(beats=Beats(times, 1 + np.arange(len(times)) % bar))


def _f_measure(reference: Array, estimate: Array) -> float:
    import mir_eval  # takes a second, and only scores need it

    reference, estimate = mir_eval.beat.trim_beats(reference), mir_eval.beat.trim_beats(estimate)
    if not len(reference):
        return float("nan")
    return float(mir_eval.beat.f_measure(reference, estimate)) if len(estimate) else 0.0


def _confidence(logits: Array, times: Array, beats: Array) -> Array:
    """The highest activation within the tolerance of each beat."""
    highest = maximum_filter1d(logits, 2 * TOLERANCE + 1, mode="nearest")
    return sigmoid(highest[_nearest(times, beats)])


def _from_start(times: Array) -> Array:
    """The first output of a rate above the model's has its middle before the recording's start."""
    return np.maximum(times, 0.0)


def _nearest(grid: Array, events: Array) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Indices of the points of a rising grid that lie next to the events."""
    right = np.clip(np.searchsorted(grid, events), 1, max(1, len(grid) - 1))
    right = np.minimum(right, len(grid) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(events - grid[left] <= grid[right] - events, left, right)


def widest(x: Tensor, reach: int) -> Tensor:
    """The maximum within ``reach`` frames on either side; (batch, time, channels)."""
    return F.max_pool1d(x.transpose(1, 2), 2 * reach + 1, 1, reach).transpose(1, 2)


def _count(positions: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Numbers the beats between downbeats; those before the first as if its bar had come before."""
    downbeats = np.flatnonzero(positions == 1)
    for i in range(downbeats[0] + 1, len(positions)):
        if positions[i] != 1:
            positions[i] = positions[i - 1] + 1
    bar = int(positions[downbeats[0] : downbeats[1] if len(downbeats) > 1 else None].max())
    for i in range(downbeats[0] - 1, -1, -1):
        positions[i] = positions[i + 1] - 1 or bar
