"""Key detection over 24 classes: 12 major and 12 minor keys.

Outputs at 0.5 Hz, six for a clip of 12 s; their logits are averaged over a recording. A
mode counts by its third: ionian, lydian and mixolydian are major; aeolian, dorian and phrygian are
minor. Locrian, and N for no key, are ignored. A recording that changes its key is learnt from
output by output, and has the key that lasts longest.

Metrics: accuracy, and mir_eval's weighted score (a fifth .5, the relative key .3, the parallel key
.2). Which of them the paper reports is not certain.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks.base import Array, Constant, Decoding, Loss, Scores, Targets, Task, softmax
from musicfm.tasks.spans import UNKNOWN, class_loss, class_targets, classes_at, throughout

_TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
NAMES = (*(f"{tonic}:major" for tonic in _TONICS), *(f"{tonic}:minor" for tonic in _TONICS))
"""Of the classes, as JAMS spells them."""

_THIRDS = {
    "major": 0,
    "ionian": 0,
    "lydian": 0,
    "mixolydian": 0,
    "minor": 12,
    "aeolian": 12,
    "dorian": 12,
    "phrygian": 12,
    "locrian": None,
}
_NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "b": -1, "##": 2, "bb": -2}


class KeyDecoding(Decoding):
    """There is nothing to choose."""


class Key(Task[KeyDecoding]):
    """Key detection."""

    name = "key"
    clip_seconds = 12.0
    rate = 0.5
    metrics = ("key", "key_weighted")
    num_logits = len(NAMES)
    describes_spans = True

    _SCORES = ("key", "key_weighted", "key_fifth", "key_relative", "key_parallel", "key_other")

    @property
    def decodings(self) -> Sequence[KeyDecoding]:
        return [KeyDecoding()]

    def is_labelled(self, annotations: Annotations) -> bool:
        return annotations.keys is not None and main_key(annotations.keys) is not None

    def targets(self, annotations: Annotations, times: Array) -> Targets:
        """(outputs,) classes."""
        return class_targets(classes_at(annotations.keys, times, key_class))

    def loss(self, logits: Tensor, values: Tensor, known: Tensor) -> Loss:
        return class_loss(logits, values, known)

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: KeyDecoding
    ) -> Annotations:
        mean = softmax(logits.mean(axis=0))
        name = NAMES[int(mean.argmax())]
        return Annotations(keys=Spans(np.array([[0.0, duration]]), (name,), mean[[mean.argmax()]]))

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """The key of most recordings."""
        found = [main_key(annotations.keys) for annotations in train if annotations.keys]
        name = NAMES[int(np.bincount([number for number in found if number is not None]).argmax())]
        yield lambda duration: Annotations(keys=throughout(name, duration))

    def score(self, reference: Annotations, estimate: Annotations) -> Scores:
        """Besides the metrics, 1 for the relation that a wrong key has to the right one."""
        import mir_eval  # takes a second, and only scores need it

        assert reference.keys is not None
        assert estimate.keys is not None
        truth, found = main_key(reference.keys), main_key(estimate.keys)
        if truth is None:
            return dict.fromkeys(self._SCORES, float("nan"))
        scores = dict.fromkeys(self._SCORES, 0.0)
        if found is not None:
            scores["key"] = float(truth == found)
            scores["key_weighted"] = float(
                mir_eval.key.weighted_score(_mir_eval_name(truth), _mir_eval_name(found))
            )
        if truth != found:
            scores[f"key_{'other' if found is None else confusion(truth, found)}"] = 1.0
        return scores


def key_class(label: str) -> int:
    """The class of a key in JAMS's spelling, such as "Eb:minor" or "C"; UNKNOWN if it has none.

    Any enharmonic spelling will do. Raises DataError if it is no key.
    """
    tonic, _, mode = label.partition(":")
    if label in ("N", "X"):
        return UNKNOWN
    mode = mode or "major"
    if tonic[:1] not in _NATURALS or tonic[1:] not in _ACCIDENTALS or mode not in _THIRDS:
        raise DataError(f"'{label}' is no key; give one such as 'Eb:minor' or 'C:major'")
    third = _THIRDS[mode]
    if third is None:
        return UNKNOWN
    return (_NATURALS[tonic[0]] + _ACCIDENTALS[tonic[1:]]) % 12 + third


def main_key(keys: Spans) -> int | None:
    """The class that lasts longest, the first one of equals; None if there is none."""
    seconds = np.zeros(len(NAMES))
    for label, length in keys.total().items():
        number = key_class(label)
        if number != UNKNOWN:
            seconds[number] += length
    return int(seconds.argmax()) if seconds.any() else None


def confusion(truth: int, found: int) -> str:
    """How two classes are related: "same", "fifth", "relative", "parallel" or "other".

    As mir_eval's weighted score has it, where the estimate may be a fifth above the reference in
    the same mode, and not below.
    """
    if truth == found:
        return "same"
    interval = (found - truth) % 12
    if truth // 12 == found // 12:
        return "fifth" if interval == 7 else "other"
    if interval == 0:
        return "parallel"
    return "relative" if interval == (9 if truth < 12 else 3) else "other"


def _mir_eval_name(number: int) -> str:
    return NAMES[number].replace(":", " ")
