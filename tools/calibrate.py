"""Fits what an analysis says, and how surely, on labelled songs, and writes it to a model's heads.

    python tools/calibrate.py nano SONGS [SONGS ...] --picture docs/reliability.png

The songs, folders of recordings with JAMS files, should sound unlike those that the heads learnt
from. Every second one is fitted on, the others are for checking, which is printed: the expected
calibration error before and after, and how often the tags that are said are right. What is fitted
is in each head's ``head.json``, under ``decoding``: scale and shift of the log-odds of confidences,
and of tags the probability from which on each is said. Tags that are wrong too often are not said.
"""

import argparse
import glob
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from musicfm.analysis.analyzer import load_predictor, sections_of
from musicfm.datasets.annotations import Annotations, Array, Spans, read_jams
from musicfm.tasks import heads
from musicfm.tasks.base import Decoding, calibrated
from musicfm.tasks.chord import chord_class
from musicfm.tasks.features import Features
from musicfm.tasks.key import main_key
from musicfm.tasks.predict import Predictor
from musicfm.tasks.spans import UNKNOWN
from musicfm.tasks.tagging import TaggingDecoding, applying

PRECISION, LEAST = 0.75, 4
"""Of a tag that is said: the part that has to be right, of so many songs at least."""
TOLERANCE = 0.07  # seconds, of beats
STEP = 0.1  # seconds, in which spans are compared
BINS = 10


@dataclass
class Judged:
    """Confidences, how right what they are of is, from 0 to 1, and how much each counts."""

    sure: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add(self, sure: Iterable[float], right: Iterable[float], weight: Iterable[float]) -> None:
        """Adds those of a song."""
        self.sure.extend(sure)
        self.right.extend(right)
        self.weight.extend(weight)

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """All three."""
        return np.array(self.sure), np.array(self.right), np.array(self.weight)


def judge(truth: Annotations, found: Annotations) -> dict[str, Judged]:
    """What is right of what was found in a song, by task; nothing where there are no labels."""
    judged = {task: Judged() for task in ("beat", "chord", "key", "structure")}
    if truth.beats is not None and found.beats is not None and len(truth.beats.times):
        off = np.abs(found.beats.times[:, None] - truth.beats.times).min(axis=1, initial=np.inf)
        assert found.beats.confidences is not None
        judged["beat"].add(found.beats.confidences, off <= TOLERANCE, np.ones(len(off)))
    if truth.chords is not None and found.chords is not None:
        judged["chord"].add(*_spans(truth.chords, found.chords))
    if truth.keys is not None and found.keys is not None and found.keys.labels:
        key = main_key(truth.keys)
        if key is not None:
            assert found.keys.confidences is not None
            judged["key"].add(found.keys.confidences, [main_key(found.keys) == key], [1.0])
    if truth.segments is not None and found.segments is not None:
        judged["structure"].add(*_letters(truth.segments, found.segments))
    return judged


def _label_at(spans: Spans, times: Array) -> list[str]:
    """The label at each time; an empty one between spans."""
    place = np.searchsorted(spans.intervals[:, 0], times, side="right") - 1
    return [
        spans.labels[p] if p >= 0 and time < spans.intervals[p, 1] else ""
        for p, time in zip(place, times, strict=True)
    ]


def _grid(found: Spans) -> tuple[Array, npt.NDArray[np.intp]]:
    """Times, and the span of each."""
    times = np.arange(STEP / 2, found.intervals[-1, 1], STEP)
    return times, np.searchsorted(found.intervals[:, 0], times, side="right") - 1


def _spans(truth: Spans, found: Spans) -> tuple[list[float], list[float], list[float]]:
    """Of each chord, which part of its time it is right."""
    times, place = _grid(found)
    true = np.array([chord_class(label) if label else UNKNOWN for label in _label_at(truth, times)])
    estimate = np.array([chord_class(label) for label in found.labels])[place]
    return _by_span(found, place, (true == estimate).astype(float), true != UNKNOWN)


def _letters(truth: Spans, found: Spans) -> tuple[list[float], list[float], list[float]]:
    """Of each section, how much of what has its letter has the same label in truth."""
    times, place = _grid(found)
    true, letter = np.array(_label_at(truth, times)), np.array(found.labels)[place]
    known = np.array([bool(label) for label in true])
    right = np.zeros(len(times))
    for name in set(found.labels):
        inside = (letter == name) & known
        for label in set(true[inside]):
            right[inside & (true == label)] = (true[inside] == label).mean()
    return _by_span(found, place, right, known)


def _by_span(
    found: Spans, place: npt.NDArray[np.intp], right: Array, known: npt.NDArray[np.bool_]
) -> tuple[list[float], list[float], list[float]]:
    assert found.confidences is not None
    weight = np.bincount(place, known, len(found.labels))
    total = np.bincount(place, right * known, len(found.labels))
    counts = weight > 0
    part = (total[counts] / weight[counts]).tolist()
    return found.confidences[counts].tolist(), part, (STEP * weight[counts]).tolist()


def fit(judged: Judged) -> Decoding:
    """Scale and shift of the log-odds that make what is right the likeliest."""
    sure, right, weight = judged.arrays
    weight = weight / weight.sum()

    def surprise(x: Array) -> float:
        p = calibrated(sure, Decoding(confidence_scale=x[0], confidence_shift=x[1]))
        p = p.clip(1e-9, 1 - 1e-9)
        # A little drawn towards no change, for the few songs that there are.
        cross = -(weight * (right * np.log(p) + (1 - right) * np.log(1 - p))).sum()
        return float(cross + 1e-3 * ((x[0] - 1.0) ** 2 + x[1] ** 2))

    found = minimize(surprise, np.array([1.0, 0.0]), method="Nelder-Mead").x
    scale, shift = max(0.0, float(found[0])), float(found[1])
    return Decoding(confidence_scale=round(scale, 3), confidence_shift=round(shift, 3))


def reliability(judged: Judged, decoding: Decoding) -> tuple[Array, float]:
    """(bins, 3) confidence, part that is right and weight of each; the expected error."""
    sure, right, weight = judged.arrays
    sure, weight = calibrated(sure, decoding), weight / weight.sum()
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    total = np.bincount(place, weight, BINS)
    used = total > 0
    mean = np.bincount(place, weight * sure, BINS)[used] / total[used]
    part = np.bincount(place, weight * right, BINS)[used] / total[used]
    bins = np.stack([mean, part, total[used]], axis=1)
    return bins, float((total[used] * np.abs(mean - part)).sum())


def better(decoding: Decoding, other: Judged) -> Decoding:
    """What was fitted, or no change if that is no worse on other songs."""
    errors = [reliability(other, how)[1] for how in (decoding, Decoding())]
    return decoding if errors[0] < errors[1] else Decoding()


def thresholds(songs: Sequence[tuple[Annotations, Mapping[str, float]]]) -> dict[str, float]:
    """The lowest probability of each tag from which on it is right often enough."""
    found = {}
    for tag in songs[0][1].keys() - {"slow", "fast", "waltz"}:  # those follow from beats
        order = sorted(((tags[tag], tag in applying(truth)) for truth, tags in songs), reverse=True)
        right = np.cumsum([applies for _, applies in order])
        said = np.arange(1, len(order) + 1)
        holds = np.flatnonzero(((right + 1) / (said + 2) >= PRECISION) & (said >= LEAST))
        if len(holds):
            found[tag] = float(np.floor(1000 * order[holds[-1]][0]) / 1000)
    return dict(sorted(found.items()))


def judge_tags(
    songs: Sequence[tuple[Annotations, Mapping[str, float]]], limits: Mapping[str, float]
) -> dict[str, Judged]:
    """Of each tag, where it is said."""
    judged: dict[str, Judged] = {}
    for truth, tags in songs:
        applies = applying(truth)
        for tag, limit in limits.items():
            if tags[tag] >= limit:
                judged.setdefault(tag, Judged()).add([tags[tag]], [tag in applies], [1.0])
    return judged


def together(judged: Iterable[Judged]) -> Judged:
    """All of them."""
    total = Judged()
    for one in judged:
        total.add(*one.arrays)
    return total


def listen(model: str, folders: Sequence[Path]) -> Iterator[tuple[Annotations, Annotations]]:
    """The labels of each song, and what the model's heads find, without calibration."""
    predictor = load_predictor(model)
    for folder in folders:
        for labels in sorted(folder.glob("*.jams")):
            (audio,) = set(folder.glob(f"{glob.escape(labels.stem)}.*")) - {labels}
            with tempfile.TemporaryDirectory() as scratch:
                features, duration = predictor.encode(audio, Path(scratch))
                yield read_jams(labels).annotations, found_in(predictor, features, duration)


def found_in(predictor: Predictor, features: Features, duration: float) -> Annotations:
    """What heads find in a song, with the sections of an analysis."""
    logits = predictor.logits(features)
    found = predictor.decode(features, duration, logits)
    segments = sections_of(predictor, features, logits, found, duration)
    return replace(found, segments=segments)


def calibrate(
    songs: Sequence[tuple[Annotations, Annotations]],
) -> tuple[dict[str, Decoding], dict[str, tuple[Judged, Decoding]]]:
    """What is fitted on every second song, by task; and what the others say of it."""
    halves = songs[::2], songs[1::2]
    decodings, checked = {}, {}
    for task in ("beat", "chord", "key", "structure"):
        fitted, other = (together(judge(*song)[task] for song in half) for half in halves)
        decodings[task] = better(fit(fitted), other)
        checked[task] = other, decodings[task]
    tags = [[(truth, found.tags or {}) for truth, found in half] for half in halves]
    limits = thresholds(tags[0])
    said = judge_tags(tags[0], limits), judge_tags(tags[1], limits)
    plain = better(fit(together(said[0].values())), together(said[1].values()))
    decodings["tagging"] = TaggingDecoding(**plain.to_dict(), thresholds=limits)
    checked["tagging"] = together(said[1].values()), plain
    for tag, limit in limits.items():
        sides = [half.get(tag, Judged()).right for half in said]
        counts = " ".join(f"{int(sum(right))} of {len(right)}" for right in sides)
        print(f"  {tag}: said from {limit:.3f} on; right, fitted and others: {counts}")
    return decodings, checked


def draw(checked: Mapping[str, tuple[Judged, Decoding]], path: Path) -> None:
    """A picture of confidences against what is right."""
    import matplotlib.pyplot as plt

    names = {"beat": "beats", "chord": "chords", "key": "keys"}
    names |= {"structure": "sections", "tagging": "tags said"}
    figure, axes = plt.subplots(1, len(names), figsize=(15, 3.6), sharey=True)
    for axis, (task, name) in zip(axes, names.items(), strict=True):
        judged, decoding = checked[task]
        axis.plot([0, 1], [0, 1], color="0.8")
        for label, how, colour in (("before", Decoding(), "0.6"), ("after", decoding, "C0")):
            bins, error = reliability(judged, how)
            axis.plot(*bins[:, :2].T, color=colour, label=f"{label}, error {error:.3f}")
            axis.scatter(*bins[:, :2].T, s=200 * bins[:, 2], color=colour)
        axis.set(title=name, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axis.legend(loc="upper left", frameon=False, fontsize=8)
    axes[0].set_ylabel("part that is right")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder with heads, or nano")
    parser.add_argument("songs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    decodings, checked = calibrate(list(listen(arguments.model, arguments.songs)))
    for task, (judged, decoding) in checked.items():
        before, after = (reliability(judged, how)[1] for how in (Decoding(), decoding))
        print(f"{task}: expected calibration error {before:.3f}, now {after:.3f}")
    for task, folder in heads.shipped(arguments.model).items():
        head = heads.load(folder)
        fitted = {k: v for k, v in decodings[task].to_dict().items() if v is not None}
        head.config = head.config.replace(decoding={**head.config.decoding, **fitted})
        heads.save(head, folder)
    if arguments.picture:
        draw(checked, arguments.picture)


if __name__ == "__main__":
    main()
