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

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import DataError
from musicfm.tasks.base import Array, Constant, Decoding, Scores, Targets, Task, softmax
from musicfm.tasks.spans import UNKNOWN, class_targets, classes_at

_MAJOR = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_MINOR = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
NAMES = (*(f"{tonic}:major" for tonic in _MAJOR), *(f"{tonic}:minor" for tonic in _MINOR))
"""Names of the classes, as JAMS spells them, with as few sharps or flats as there can be."""

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
_PROFILES = (
    (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
)
"""How well the twelve pitch classes from the tonic on fit a major and a minor key (Krumhansl and
Kessler, "Tracing the dynamic changes in perceived tonal organization", 1982)."""
_TRIADS = ((0, 4, 7), (0, 3, 7))
"""Semitones of the major and the minor chord."""
HEAD_WEIGHT, PROFILE_WEIGHT, TONIC_WEIGHT = 0.25, 6.0, 3.0
"""What counts for a key: the head's logits, which are too sure on sounds that it has not learnt
from, how well the chords' pitch classes fit its profile, and how much of the chords is its tonic's.
Chosen on rendered songs of other sound fonts, productions and tempi than the heads'."""

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

    def decode(
        self, logits: Array, times: Array, duration: float, decoding: KeyDecoding
    ) -> Annotations:
        mean = softmax(logits.mean(axis=0))
        best = int(mean.argmax())
        return Annotations(keys=Spans.whole(NAMES[best], duration, mean[[best]]))

    def constants(self, train: Sequence[Annotations]) -> Iterator[Constant]:
        """The key of most recordings."""
        found = [main_key(annotations.keys) for annotations in train if annotations.keys]
        name = NAMES[int(np.bincount([number for number in found if number is not None]).argmax())]
        yield lambda duration: Annotations(keys=Spans.whole(name, duration))

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

    Any enharmonic spelling will do. Raises DataError if it is not a key.
    """
    tonic, _, mode = label.partition(":")
    if label in ("N", "X"):
        return UNKNOWN
    mode = mode or "major"
    if tonic[:1] not in _NATURALS or tonic[1:] not in _ACCIDENTALS or mode not in _THIRDS:
        raise DataError(f"'{label}' is not a key; give one such as 'Eb:minor' or 'C:major'")
    third = _THIRDS[mode]
    if third is None:
        return UNKNOWN
    return (_NATURALS[tonic[0]] + _ACCIDENTALS[tonic[1:]]) % 12 + third


def with_chords(logits: Array, chords: Array, duration: float) -> Spans:
    """The key of a recording by the key head and by the chords that it has; none without chords.

    Args:
        logits: (outputs, 24) of the key head.
        chords: (outputs, 25) probabilities of the chords of :data:`musicfm.tasks.chord.NAMES`.
        duration: of the recording, in seconds.
    """
    weights = chords.mean(axis=0)
    triads, none = weights[:-1], weights[-1]
    if none >= 0.99:
        return Spans(np.empty((0, 2)), (), np.empty(0))
    classes, profiles = np.zeros(12), np.empty((24, 12))
    for number in range(24):
        mode, root = divmod(number, 12)
        classes[[(root + semitones) % 12 for semitones in _TRIADS[mode]]] += triads[number]
        profiles[number] = np.roll(_PROFILES[mode], root)
    fit = np.corrcoef(classes, profiles)[0, 1:] if np.ptp(classes) else np.zeros(24)
    scores = (
        HEAD_WEIGHT * logits.mean(axis=0)
        + PROFILE_WEIGHT * fit
        + TONIC_WEIGHT * triads / triads.sum()
    )
    sure = softmax(scores)
    best = int(sure.argmax())
    return Spans.whole(NAMES[best], duration, sure[[best]])


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
