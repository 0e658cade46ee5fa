"""Structure: where sections begin, and what they are.

Outputs at 8 Hz: a boundary activation and seven functions, after Wang, Hung and Smith, "To catch a
chorus, verse, intro, or anything else" (ICASSP 2022, arXiv 2205.14700): free labels are mapped to
functions by rules, boundaries are pulses of 0.6 s, and the loss is 0.9 of the boundaries' and 0.1
of the functions'. Peaks are picked as in Ullrich, Schlüter and Grill, "Boundary detection in music
structure analysis using convolutional neural networks" (ISMIR 2014); a segment has the function of
the highest mean probability. MusicFM's own protocol was not published.

Metrics: frame accuracy at 8 Hz; mir_eval's boundary F-measure within 0.5 s and 3 s, with the first
and the last boundary trimmed and untrimmed, since the paper does not say which. As in mir_eval's
own evaluation, an estimate counts from the start of the recording to the end of the reference.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.ndimage import maximum_filter1d
from torch import Tensor
from torch.nn import functional as F

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.tasks.base import (
    Array,
    Constant,
    Decoding,
    Loss,
    Scores,
    Targets,
    Task,
    binary_logits,
    class_loss,
    nan_mean,
    one_hot_logits,
    sigmoid,
    softmax,
)
from musicfm.tasks.spans import UNKNOWN, class_targets, classes_at

FUNCTIONS = ("intro", "verse", "chorus", "bridge", "inst", "outro", "silence")

_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("silence", ("silence",)),
    ("verse", ("prechorus",)),
    ("chorus", ("refrain", "chorus", "theme", "stutter")),
    ("verse", ("verse", "rap", "section", "slow", "build", "dialog")),
    ("intro", ("intro", "fadein", "opening")),
    ("bridge", ("bridge", "trans")),
    ("outro", ("out", "coda", "ending")),
    ("inst", ("break", "inst", "interlude", "impro", "solo")),
)
"""The first rule of which a word occurs in a label, without case, blanks and hyphens, applies."""
_NO_FUNCTIONS = ("end", "nofunction")
"""Labels that name none: of what comes after the music (Harmonix), and of what has none (SALAMI).
"""

PULSE_SECONDS = 0.6
PEAK_SECONDS = 6.0
"""Seconds on either side within which a boundary is the highest (Ullrich et al.)."""
MEAN_SECONDS = (12.0, 6.0)
"""Seconds before and after, over which the mean is taken that a boundary has to exceed."""
BOUNDARY_WEIGHT = 0.9


class StructureDecoding(Decoding):
    """From what prominence on a peak is a boundary."""

    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1


class Structure(Task[StructureDecoding]):
    """Structure analysis."""

    name = "structure"
    clip_seconds = 24.0
    rate = 8.0
    metrics = ("structure", "hr_05", "hr_3", "hr_05_trimmed", "hr_3_trimmed")
    num_logits = 1 + len(FUNCTIONS)
    is_relative = True  # a chorus is one by what the rest of the song is like

    @property
    def decodings(self) -> Sequence[StructureDecoding]:
        return [
            StructureDecoding(threshold=threshold)
            for threshold in (0.1, 0.02, 0.05, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
        ]

    def is_labelled(self, annotations: Annotations) -> bool:
        return annotations.segments is not None

    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """(outputs, 2): whether it lies in a boundary's pulse, and the function."""
        values = np.zeros((len(times), 2))
        known = np.zeros((len(times), 2), dtype=bool)
        segments = annotations.segments
        if segments is not None:
            # A little more, lest rounding makes pulses of different lengths.
            for start in segments.intervals[:, 0]:
                values[np.abs(times - start) <= PULSE_SECONDS / 2 + 1e-6, 0] = 1.0
            functions = classes_at(segments, times, _number)
            known[:, 0] = True
            values[:, 1], known[:, 1] = class_targets(functions)
        return Targets(values, known)

    def loss(self, logits: Tensor, values: Tensor, known: Tensor) -> Loss:
        boundary = F.binary_cross_entropy_with_logits(
            logits[..., 0], values[..., 0], reduction="none"
        )
        counted = known[..., 0].to(logits.dtype)
        function = class_loss(logits[..., 1:], values[..., 1], known[..., 1])
        total = BOUNDARY_WEIGHT * (boundary * counted).sum()
        return Loss(total + (1.0 - BOUNDARY_WEIGHT) * function.total, counted.sum())

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: StructureDecoding
    ) -> Annotations:
        boundaries = _boundaries(sigmoid(logits[:, 0]), times, decoding.threshold)
        half = PULSE_SECONDS / 2  # a pulse at either end is that end's
        inner = boundaries[(boundaries > half) & (boundaries < duration - half)]
        bounds = np.concatenate([[0.0], inner, [duration]])
        probabilities = softmax(logits[:, 1:])
        labels, sure = [], []
        for start, end in itertools.pairwise(bounds):
            inside = (times >= start) & (times < end)
            if not inside.any():
                inside[np.abs(times - (start + end) / 2).argmin()] = True
            mean = probabilities[inside].mean(axis=0)
            labels.append(FUNCTIONS[int(mean.argmax())])
            sure.append(mean.max())
        intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
        return Annotations(segments=Spans(intervals, tuple(labels), np.array(sure)))

    def objective(self, summary: Mapping[str, float]) -> float:
        return nan_mean([summary["structure"], summary["hr_05"]])

    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """Boundaries are those of the segments; NaN where trimming leaves the reference none."""
        assert reference.segments is not None
        assert estimate.segments is not None
        truth, found = _until_end(reference.segments), estimate.segments
        times = np.arange(0.0, truth.intervals[-1, 1], 1 / self.rate) + 0.5 / self.rate
        functions = classes_at(truth, times, _number)
        counted = functions != UNKNOWN
        right = functions == classes_at(found, times, _number)
        scores = {"structure": float(right[counted].mean()) if counted.any() else float("nan")}
        for suffix, trim in (("", False), ("_trimmed", True)):
            for name, window in (("hr_05", 0.5), ("hr_3", 3.0)):
                scores[name + suffix] = _hit_rate(truth, found, window, trim)
        return scores

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """The commonest function throughout, undivided or in sections of some equal length."""
        seconds: dict[str, float] = {}
        for annotations in train:
            assert annotations.segments is not None
            for label, length in annotations.segments.total().items():
                if function := function_of(label):
                    seconds[function] = seconds.get(function, 0.0) + length
        commonest = max(sorted(seconds), key=lambda name: seconds[name], default="inst")
        for length in (math.inf, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0):
            yield partial(_division, commonest, length)

    def oracle_logits(self, targets: Targets) -> Array:
        """See :meth:`musicfm.tasks.base.Task.oracle_logits`."""
        values, known = targets
        boundary = binary_logits(values[:, :1], known[:, :1])
        functions = one_hot_logits(values[:, 1], known[:, 1], len(FUNCTIONS))
        return np.concatenate([boundary, functions], axis=1)


def _division(label: str, length: float, duration: float) -> Annotations:
    count = max(1, round(duration / length))
    bounds = np.linspace(0.0, duration, count + 1)
    intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return Annotations(segments=Spans(intervals, (label,) * count))


def function_of(label: str) -> str | None:
    """The function that a free label names: "inst" if no rule applies, None if it says that there
    is none.
    """
    word = _word(label)
    if word in _NO_FUNCTIONS:
        return None
    for function, words in _RULES:
        if any(part in word for part in words):
            return function
    return "inst"


def _word(label: str) -> str:
    return re.sub(r"[\s_\-]+", "", label.lower())


def _number(label: str) -> int:
    function = function_of(label)
    return UNKNOWN if function is None else FUNCTIONS.index(function)


def _until_end(spans: Spans) -> Spans:
    """Without what comes after the music."""
    count = len(spans.labels)
    while count > 1 and _word(spans.labels[count - 1]) == "end":
        count -= 1
    return Spans(spans.intervals[:count], spans.labels[:count])


def _boundaries(activation: Array, times: Array, threshold: float) -> Array:
    """Peaks after Ullrich et al.: the highest within 6 s, and above the mean around them."""
    if len(times) < 2:
        return np.empty(0)
    step = times[1] - times[0]
    reach = round(PEAK_SECONDS / step)
    highest = maximum_filter1d(activation, 2 * reach + 1, mode="nearest")
    sums = np.concatenate([[0.0], activation.cumsum()])
    at = np.arange(len(activation))
    first = np.maximum(0, at - round(MEAN_SECONDS[0] / step))
    last = np.minimum(len(activation), at + round(MEAN_SECONDS[1] / step) + 1)
    prominence = activation - (sums[last] - sums[first]) / (last - first)
    index = np.flatnonzero((activation == highest) & (prominence > threshold))
    groups = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1) if len(index) else []
    return np.array([times[group].mean() for group in groups])


def _hit_rate(truth: Spans, found: Spans, window: float, trim: bool) -> float:
    import mir_eval  # takes a second, and only scores need it

    reference, _ = mir_eval.util.adjust_intervals(truth.intervals, t_min=0.0)
    end = reference.max()
    inside = found.intervals[found.intervals[:, 0] < end]
    estimate, _ = mir_eval.util.adjust_intervals(inside, t_min=0.0, t_max=end)
    if trim and len(reference) < 2:
        return float("nan")
    if trim and len(estimate) < 2:
        return 0.0
    _, _, f_measure = mir_eval.segment.detection(reference, estimate, window=window, trim=trim)
    return float(f_measure)
