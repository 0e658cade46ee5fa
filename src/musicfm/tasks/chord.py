"""Chord recognition over 25 classes: 12 major and 12 minor triads, and no chord.

Outputs at 16 Hz. Labels in Harte's notation ("Symbolic representation of musical chords", ISMIR
2005) are reduced as mir_eval's majmin comparison does: a chord counts by its root, third and fifth;
what is neither major nor minor by these (sus, dim, aug, power chords) is X and ignored in loss and
metrics. The seconds ignored are reported.

Metrics: frame accuracy at 16 Hz, and mir_eval's weighted majmin accuracy.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks.base import (
    Array,
    Constant,
    Decoding,
    Scores,
    Targets,
    Task,
    edges,
    softmax,
)
from musicfm.tasks.spans import (
    UNKNOWN,
    class_targets,
    classes_at,
    commonest,
    runs,
    viterbi,
)

NO_CHORD, NUM_CLASSES = 24, 25
_ROOTS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
NAMES = (*(f"{root}:maj" for root in _ROOTS), *(f"{root}:min" for root in _ROOTS), "N")
"""Names of the classes."""

_MAJOR, _MINOR = (1, 0, 0, 0, 1, 0, 0, 1), (1, 0, 0, 1, 0, 0, 0, 1)
"""The semitones of a triad, from its root to the fifth."""


class ChordDecoding(Decoding):
    """How readily a chord changes."""

    change_cost: Annotated[float, Field(ge=0.0)] = 0.0
    """Log-probability that a change has to gain; 0: every output by itself."""


class Chord(Task[ChordDecoding]):
    """Chord recognition."""

    name = "chord"
    clip_seconds = 12.0
    rate = 16.0
    metrics = ("chord", "chord_majmin")
    num_logits = NUM_CLASSES

    @property
    def decodings(self) -> Sequence[ChordDecoding]:
        return [ChordDecoding(change_cost=cost) for cost in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)]

    def is_labelled(self, annotations: Annotations) -> bool:
        labels = () if annotations.chords is None else annotations.chords.labels
        return max(map(chord_class, labels), default=UNKNOWN) != UNKNOWN  # looks at all

    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """(outputs,) classes."""
        return class_targets(classes_at(annotations.chords, times, chord_class))

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: ChordDecoding
    ) -> Annotations:
        probabilities = softmax(logits)
        path = viterbi(np.log(probabilities + 1e-12), decoding.change_cost)
        return Annotations(chords=runs(path, probabilities, NAMES, edges(times, duration)))

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """The commonest chord."""
        name = NAMES[commonest((annotations.chords for annotations in train), chord_class)]
        yield lambda duration: Annotations(chords=Spans.whole(name, duration))

    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """NaN where the reference has nothing but X."""
        assert reference.chords is not None
        assert estimate.chords is not None
        end = float(reference.chords.intervals[-1, 1])
        times = np.arange(0.0, end, 1 / self.rate) + 0.5 / self.rate
        truth = classes_at(reference.chords, times, chord_class)
        found = classes_at(estimate.chords, times, chord_class)
        counted = truth != UNKNOWN
        return {
            "chord": float((truth == found)[counted].mean()) if counted.any() else float("nan"),
            "chord_majmin": _majmin(reference.chords, estimate.chords),
            "chord_ignored_seconds": float((~counted).sum() / self.rate),
        }

    def remark(self, summary: Mapping[str, float]) -> str:
        """What is not measured."""
        return (
            f"{summary['chord_ignored_seconds']:.1f} s of a recording, on average, have a chord "
            "that is neither major nor minor, or no label, and do not count."
        )


@lru_cache(maxsize=4_096)
def chord_class(label: str) -> int:
    """The class of a label in Harte's notation; UNKNOWN for X.

    Raises DataError if it is not a chord.
    """
    import mir_eval  # takes a second, and only labels and scores need it

    try:
        root, semitones, _ = mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException as error:
        raise DataError(f"'{label}' is not a chord in Harte's notation") from error
    if root < 0:
        return NO_CHORD if not semitones.any() else UNKNOWN
    if np.array_equal(semitones[:8], _MAJOR):
        return int(root)
    return int(root) + 12 if np.array_equal(semitones[:8], _MINOR) else UNKNOWN


def _majmin(reference: Spans, estimate: Spans) -> float:
    import mir_eval

    intervals, labels = mir_eval.util.adjust_intervals(
        estimate.intervals,
        list(estimate.labels),
        reference.intervals.min(),
        reference.intervals.max(),
        mir_eval.chord.NO_CHORD,
        mir_eval.chord.NO_CHORD,
    )
    known, truth_labels = _without_gaps(reference)
    merged, truth, found = mir_eval.util.merge_labeled_intervals(
        known, truth_labels, intervals, labels
    )
    comparisons = mir_eval.chord.majmin(truth, found)
    if not (comparisons >= 0).any():
        return float("nan")
    durations = mir_eval.util.intervals_to_durations(merged)
    return float(mir_eval.chord.weighted_accuracy(comparisons, durations))


def _without_gaps(spans: Spans) -> tuple[Array, list[str]]:
    """With X, which is ignored, in gaps: mir_eval would let the chord before go on there."""
    bounds, labels = [spans.intervals[0, 0]], []
    for (start, end), label in zip(spans.intervals, spans.labels, strict=True):
        if start > bounds[-1]:
            bounds.append(start)
            labels.append("X")
        bounds.append(end)
        labels.append(label)
    return np.stack([bounds[:-1], bounds[1:]], axis=1), labels
