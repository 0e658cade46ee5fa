"""The interface of a task: annotations to targets, logits to a loss, logits to annotations, scores.

The outputs of a task are its logits at ``rate`` Hz, or one per clip. A prediction is an
:class:`~musicfm.datasets.annotations.Annotations` like any other, of which a task fills in its own
part; so what is scored is what would be exported, at the rate and with the decoding that a user
gets.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from musicfm.datasets.annotations import Annotations
from musicfm.model.config import Config

Array = npt.NDArray[np.float64]
Scores = dict[str, float]
"""Scores of one recording, by name; NaN where it has nothing to measure something on."""
Constant: TypeAlias = Callable[[float], Annotations]
"""The same annotations for all recordings, given their duration in seconds."""

ORACLE_LOGIT = 20.0
"""Log-odds that leave no doubt."""


class Targets(NamedTuple):
    """What the logits of a recording should say."""

    values: Array
    """(outputs, ...)."""
    known: npt.NDArray[np.bool_]
    """(outputs, ...) whether a value is known; the others count neither in loss nor in metrics."""


class Loss(NamedTuple):
    """Sums that add up over batches."""

    total: Tensor
    weight: Tensor

    @property
    def mean(self) -> Tensor:
        """Zero where nothing is known."""
        return self.total / self.weight.clamp(min=1.0)


class Decoding(Config):
    """How logits become annotations; chosen on validation."""

    confidence_scale: float = 1.0
    confidence_shift: float = 0.0
    """Of the log-odds of confidences, which are then as often right as they say: see
    :func:`calibrated`."""


D = TypeVar("D", bound=Decoding)


class Task(ABC, Generic[D]):
    """A task."""

    name: ClassVar[str]
    clip_seconds: ClassVar[float]
    """Seconds of the protocol's input."""
    rate: ClassVar[float | None]
    """Outputs per second; None: one per clip."""
    metrics: ClassVar[tuple[str, ...]]
    """Names of a collection's metrics, the most telling ones first; see :meth:`summarise`."""
    has_vocabulary: ClassVar[bool] = False
    """Whether :meth:`build` takes the tags of the training songs."""
    is_relative: ClassVar[bool] = False
    """Whether heads also see how frames differ from the mean of their recording."""
    describes_spans: ClassVar[bool] = False
    """Whether an output is of seconds rather than of a moment, so that heads on mel and chroma see
    means and standard deviations."""

    @classmethod
    def build(cls, vocabulary: tuple[str, ...]) -> Self:
        """The task; a vocabulary is for those that have one."""
        return cls()

    @property
    def output_rate(self) -> float:
        """Outputs per second; of a task with one per clip, clips per second."""
        return 1.0 / self.clip_seconds if self.rate is None else self.rate

    @property
    def outputs_per_clip(self) -> int:
        """How many a clip of the protocol has."""
        return round(self.output_rate * self.clip_seconds)

    @property
    @abstractmethod
    def num_logits(self) -> int:
        """Per output."""

    @property
    @abstractmethod
    def decodings(self) -> Sequence[D]:
        """Those worth trying on validation; the first is the default."""

    def choose(self, objective: Callable[[D], float]) -> D:
        """The best of the decodings.

        Args:
            objective: what a decoding is worth on validation; never NaN.
        """
        return max(self.decodings, key=objective)

    @abstractmethod
    def is_labelled(self, annotations: Annotations) -> bool:
        """Whether a recording says anything about this task.

        Raises DataError if it does so in labels that cannot be read.
        """

    @abstractmethod
    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """The targets at the outputs' times.

        Args:
            annotations: of the recording.
            times: (outputs,) centres of the outputs in seconds, at least one, evenly spaced; of a
                recording or of any part of it. A task with one output per clip gets the centre of
                each clip.
        """

    def loss(self, logits: Tensor, values: Tensor, known: Tensor) -> Loss:
        """Sums over a batch.

        As they are here, for targets that are classes.

        Args:
            logits: (batch, outputs, num_logits).
            values: (batch, outputs, ...) of the targets.
            known: as values, bool.
        """
        return class_loss(logits, values, known)

    @abstractmethod
    def decode(self, logits: Array, times: Array, duration: float, decoding: D) -> Annotations:
        """What the logits of a whole recording say.

        Args:
            logits: (outputs, num_logits).
            times: (outputs,) their centres in seconds.
            duration: of the recording, in seconds.
            decoding: how.
        """

    @abstractmethod
    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """What is measured on one recording: all that :meth:`summarise` needs to know of it."""

    @abstractmethod
    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """Answers that are the same for every recording, such as the commonest label.

        Args:
            train: of labelled recordings, at least one.
        """

    def oracle_logits(self, targets: Targets) -> Array:
        """Logits that say just what the targets say, and nothing where nothing is known.

        As they are here, for targets that are classes.

        Returns:
            (outputs, num_logits).
        """
        return one_hot_logits(targets.values, targets.known, self.num_logits)

    def objective(self, summary: Mapping[str, float]) -> float:
        """What layer, head and decoding are chosen by on validation, from a summary there."""
        return summary[self.metrics[0]]

    def summarise(self, scores: Sequence[Scores]) -> Scores:
        """Scores of a collection from its recordings': means over those that have one."""
        return {
            metric: nan_mean([score[metric] for score in scores])
            for metric in (scores[0] if scores else {})
        }

    def remark(self, summary: Mapping[str, float]) -> str:
        """What a summary's metrics have to be read with, in a sentence; or nothing."""
        return ""

    def bootstrap(
        self, scores: Sequence[Scores], metric: str, places: npt.NDArray[np.integer]
    ) -> Array:
        """A metric of many collections that are drawn from some recordings.

        Args:
            scores: of the recordings.
            metric: of those in :meth:`summarise`.
            places: (collections, size) indices of recordings.

        Returns:
            (collections,).
        """
        values = np.array([score[metric] for score in scores])[places]
        known = ~np.isnan(values)
        counts = known.sum(axis=1)
        totals = np.where(known, values, 0.0).sum(axis=1)
        return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def class_loss(logits: Tensor, values: Tensor, known: Tensor) -> Loss:
    """Cross-entropy of (batch, outputs, classes) logits."""
    losses = F.cross_entropy(logits.flatten(0, 1), values.long().flatten(), reduction="none")
    counted = known.flatten().to(losses.dtype)
    return Loss((losses * counted).sum(), counted.sum())


def one_hot_logits(classes: Array, known: npt.NDArray[np.bool_], count: int) -> Array:
    """(outputs, count) logits of (outputs,) classes; zeros where none is known."""
    return ORACLE_LOGIT * np.eye(count)[classes.astype(int)] * known[:, None]


def binary_logits(values: Array, known: npt.NDArray[np.bool_]) -> Array:
    """Logits of values of 0 and 1; those that are not known count as 0."""
    return np.where(known, ORACLE_LOGIT * (values - 0.5), -ORACLE_LOGIT / 2)


def num_excluded(scores: Iterable[Scores], metric: str) -> int:
    """Recordings with nothing to measure a metric on."""
    return sum(math.isnan(score.get(metric, 0.0)) for score in scores)


def comparable(value: float) -> float:
    """A score for comparisons: NaN is less than anything."""
    return -math.inf if math.isnan(value) else value


def nan_mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN if none is."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else float("nan")


def json_number(value: float) -> float | None:
    """As JSON has it, which has neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def json_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON has them."""
    return {name: json_number(value) for name, value in scores.items()}


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Elementwise, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def calibrated(confidences: Array, decoding: Decoding) -> Array:
    """Confidences from 0 to 1, as often right as they say on the songs that they were fitted on."""
    sure = confidences.clip(1e-6, 1.0 - 1e-6)
    odds = np.log(sure / (1.0 - sure))
    return sigmoid(decoding.confidence_scale * odds + decoding.confidence_shift)


def edges(times: Array, duration: float) -> Array:
    """(outputs + 1,) where one output ends and the next begins, from 0 to the end."""
    inner = (times[1:] + times[:-1]) / 2
    return np.clip(np.concatenate([[0.0], inner, [duration]]), 0.0, duration)
