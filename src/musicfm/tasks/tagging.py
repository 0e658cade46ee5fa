"""Music tagging: which of a vocabulary of tags apply to a recording.

One output per clip of 29.1 s; the probabilities of a recording's clips are averaged.

Metrics: macro averages over tags of the average precision and of the area under the ROC curve, by
scikit-learn. They belong to a collection, not to a recording. Tags that every recording has, or
none, are left out and counted; the mean prevalence of the others is what chance gives as mAP.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from musicfm.datasets.annotations import Annotations
from musicfm.errors import ConfigError
from musicfm.tasks.base import (
    Array,
    Constant,
    Decoding,
    Loss,
    Scores,
    Targets,
    Task,
    binary_logits,
    calibrated,
    sigmoid,
)

_KINDS = ("true", "found")


def applying(annotations: Annotations) -> list[str]:
    """The tags that apply to a recording: those with a confidence above one half."""
    return [tag for tag, confidence in (annotations.tags or {}).items() if confidence > 0.5]


class TaggingDecoding(Decoding):
    """What an analysis says; metrics look at the order of all probabilities."""

    thresholds: Mapping[str, float] | None = None
    """The tags that can be relied on, each with the probability from which on; None: all tags are
    said."""


def said(tags: Mapping[str, float], decoding: TaggingDecoding) -> dict[str, float]:
    """The tags that an analysis says, with their confidences."""
    limits = decoding.thresholds
    if limits is not None:
        tags = {tag: sure for tag, sure in tags.items() if sure >= limits.get(tag, np.inf)}
    sure = calibrated(np.array(list(tags.values())), decoding)
    return dict(zip(tags, sure.tolist(), strict=True))


class Tagging(Task[TaggingDecoding]):
    """Tagging.

    Args:
        vocabulary: the tags, each once; what else a recording is tagged with does not count.

    Raises ConfigError if the vocabulary is empty or has a tag twice.
    """

    name = "tagging"
    clip_seconds = 29.1
    rate = None
    metrics = ("map", "roc_auc")
    has_vocabulary = True
    describes_spans = True

    def __init__(self, vocabulary: Sequence[str]) -> None:
        if not vocabulary:
            raise ConfigError(
                "no recording for training has a tag that applies, with a confidence above 0.5; "
                "leave tagging out, or add tags"
            )
        if len(set(vocabulary)) < len(vocabulary):
            raise ConfigError(f"a vocabulary of {len(vocabulary)} tags has one twice")
        self.vocabulary = tuple(vocabulary)

    @classmethod
    def build(cls, vocabulary: tuple[str, ...]) -> Self:
        """The task with a vocabulary."""
        return cls(vocabulary)

    @property
    def num_logits(self) -> int:
        return len(self.vocabulary)

    @property
    def decodings(self) -> Sequence[TaggingDecoding]:
        return [TaggingDecoding()]

    def is_labelled(self, annotations: Annotations) -> bool:
        return annotations.tags is not None

    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """(outputs, tags)."""
        applies = self._vector(annotations) > 0.5
        shape = (len(times), len(self.vocabulary))
        known = np.full(shape, annotations.tags is not None)
        return Targets(np.broadcast_to(applies, shape).astype(float), known)

    def loss(self, logits: Tensor, values: Tensor, known: Tensor) -> Loss:
        losses = F.binary_cross_entropy_with_logits(logits, values, reduction="none")
        counted = known.to(losses.dtype)
        return Loss((losses * counted).sum(), counted.sum())

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: TaggingDecoding
    ) -> Annotations:
        probabilities = sigmoid(logits).mean(axis=0)
        return Annotations(tags=dict(zip(self.vocabulary, probabilities.tolist(), strict=True)))

    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """A single recording has neither mAP nor ROC-AUC: whether each tag applies, and how likely
        it was found, under the tag's name after "true " and "found ".
        """
        truth = (self._vector(reference) > 0.5).astype(float)
        return {
            **dict(zip(self._names("true"), truth.tolist(), strict=True)),
            **dict(zip(self._names("found"), self._vector(estimate).tolist(), strict=True)),
        }

    def summarise(self, scores: Sequence[Scores]) -> Scores:
        """The metrics, the mean prevalence of the tags used, and how many those are."""
        truth, found = (
            np.array([[score[name] for name in self._names(kind)] for score in scores])
            for kind in _KINDS
        )
        used = truth.any(axis=0) & ~truth.all(axis=0) if len(scores) else np.zeros(0, dtype=bool)
        if not used.any():
            nan = float("nan")
            return {"map": nan, "roc_auc": nan, "prevalence": nan, "tags": 0.0}
        truth, found = truth[:, used], found[:, used]
        # Takes a second to import, and only scores need it.
        from sklearn.metrics import average_precision_score, roc_auc_score

        return {
            "map": float(average_precision_score(truth, found, average="macro")),
            "roc_auc": float(roc_auc_score(truth, found, average="macro")),
            "prevalence": float(truth.mean()),
            "tags": float(used.sum()),
        }

    def remark(self, summary: Mapping[str, float]) -> str:
        """What chance scores."""
        if not summary["tags"]:
            return (
                f"None of the {len(self.vocabulary)} tags that are known, such as "
                f"'{self.vocabulary[0]}', applies to some of the recordings and not to others."
            )
        return (
            f"mAP by chance is {summary['prevalence']:.3f}, the mean prevalence of the "
            f"{summary['tags']:.0f} tags that apply to some of the recordings and not to others."
        )

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """Each tag as likely as it is common."""
        tags = [applying(annotations) for annotations in train]
        names = sorted({name for some in tags for name in some})
        share = {name: sum(name in some for some in tags) / len(tags) for name in names}
        yield lambda duration: Annotations(tags=share)

    def oracle_logits(self, targets: Targets) -> Array:
        """See :meth:`musicfm.tasks.base.Task.oracle_logits`."""
        return binary_logits(targets.values, targets.known)

    def bootstrap(
        self, scores: Sequence[Scores], metric: str, places: npt.NDArray[np.integer]
    ) -> Array:
        """As scikit-learn with a recording's count as its weight, for all collections at once."""
        count = len(scores)
        weights = np.stack([np.bincount(row, minlength=count) for row in places]).astype(float)
        of_tag = _average_precisions if metric == "map" else _areas
        columns = []
        for tag in self.vocabulary:
            truth, found = (np.array([s[f"{kind} {tag}"] for s in scores]) for kind in _KINDS)
            columns.append(of_tag(truth, found, weights))
        values = np.stack(columns, axis=1)
        used = ~np.isnan(values)
        totals = np.where(used, values, 0.0).sum(axis=1)
        return np.where(used.any(axis=1), totals / np.maximum(used.sum(axis=1), 1), np.nan)

    def _names(self, kind: str) -> list[str]:
        return [f"{kind} {tag}" for tag in self.vocabulary]

    def _vector(self, annotations: Annotations) -> Array:
        tags = annotations.tags or {}
        return np.array([tags.get(tag, 0.0) for tag in self.vocabulary])


def _steps(truth: Array, found: Array, weights: Array) -> tuple[Array, Array]:
    """Weights of what applies and of what does not, at each score that occurs, highest first.

    Args:
        truth: (recordings,) 1 or 0.
        found: (recordings,) scores.
        weights: (collections, recordings).

    Returns:
        (collections, scores) each.
    """
    order = np.argsort(-found, kind="stable")
    begins = np.flatnonzero(np.diff(found[order], prepend=np.inf))
    weights, truth = weights[:, order], truth[order]
    return (
        np.add.reduceat(weights * truth, begins, axis=1),
        np.add.reduceat(weights * (1.0 - truth), begins, axis=1),
    )


def _average_precisions(truth: Array, found: Array, weights: Array) -> Array:
    """(collections,); NaN where the tag applies to all or none."""
    positive, negative = _steps(truth, found, weights)
    hits = positive.cumsum(axis=1)
    precision = hits / np.maximum(hits + negative.cumsum(axis=1), 1.0)
    return _ratio((positive * precision).sum(axis=1), hits[:, -1], negative)


def _areas(truth: Array, found: Array, weights: Array) -> Array:
    """(collections,) areas under the ROC curve; NaN where the tag applies to all or none."""
    positive, negative = _steps(truth, found, weights)
    above = positive.cumsum(axis=1) - positive / 2
    return _ratio(
        (negative * above).sum(axis=1) / np.maximum(negative.sum(axis=1), 1.0),
        positive.sum(axis=1),
        negative,
    )


def _ratio(total: Array, positives: Array, negative: Array) -> Array:
    some = (positives > 0) & (negative.sum(axis=1) > 0)
    return np.where(some, total / np.maximum(positives, 1.0), np.nan)
