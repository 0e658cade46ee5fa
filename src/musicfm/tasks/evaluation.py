"""A head, scored on labelled recordings: per recording and over all."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from musicfm._lazy import renamed
from musicfm.audio.processes import Work
from musicfm.datasets.labelled import LabelledTrack
from musicfm.tasks.base import Task, json_number, json_scores, num_excluded
from musicfm.tasks.features import extract
from musicfm.tasks.intervals import Estimate, estimate
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import EncodedTrack, Evaluation, evaluate, labelled, paired

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"listen": "encode_tracks"}, globals().__getitem__)


@dataclass(frozen=True)
class Evaluated:
    """How a head does on some test sets."""

    tests: Mapping[str, Evaluation]
    failures: tuple[str, ...]
    """Recordings that could not be used, and why."""


def encode_tracks(
    predictor: Predictor,
    tracks: Sequence[LabelledTrack],
    cache: Path,
    **work: Unpack[Work],
) -> tuple[tuple[EncodedTrack, ...], list[str]]:
    """The hidden states of some recordings, in a folder; and why those of others are not there."""
    features, failures = extract(predictor.encoder, tracks, cache, **work)
    return paired(tracks, features), failures


def evaluate_head(
    predictor: Predictor,
    tests: Mapping[str, Sequence[LabelledTrack]],
    **work: Unpack[Work],
) -> Evaluated:
    """Scores a head on test sets.

    Args:
        predictor: with that head alone.
        tests: by name.
        work: see :class:`musicfm.audio.processes.Work`; the encoder has a core by default.

    Raises DataError if no recording of a test set is labelled for its task.
    """
    (head,) = predictor.heads
    for name, tracks in tests.items():  # before anything is computed
        labelled(head.task, tracks, f"the test set '{name}'")
    found, failures = {}, []
    for name, tracks in tests.items():
        with tempfile.TemporaryDirectory() as cache:
            recordings, failed = encode_tracks(predictor, tracks, Path(cache), **work)
            found[name] = evaluate(head, recordings)
            failures += failed
    return Evaluated(found, tuple(failures))


def to_text(task: Task[Any], tests: Mapping[str, Evaluation]) -> str:
    """A table in Markdown, and what it has to be read with.

    It has a line for each test set, with 95 % intervals over the recordings.
    """
    lines, remarks = [], []
    for name, evaluation in tests.items():
        estimates = _estimates(task, evaluation)
        cells = [_cell(found) for found in estimates.values()]
        lines.append(f"| {' | '.join([name, str(len(evaluation.tracks)), *cells])} |")
        excluded = [f"{m}: {n}" for m, n in _excluded(task, evaluation).items() if n]
        if excluded:
            remarks += [
                "",
                f"{name}: with nothing to measure, and not counted: {', '.join(excluded)}",
            ]
        if remark := task.remark(evaluation.summary):
            remarks += ["", f"{name}: {remark}"]
    header = ["", "recordings", *task.metrics]
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines, *remarks])


def _cell(found: Estimate) -> str:
    if math.isnan(found.low):  # of one recording, or of none that counts
        return "n/a" if math.isnan(found.value) else f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def to_json(task: Task[Any], evaluated: Evaluated) -> str:
    """All scores: over the recordings and of each."""
    content = {
        name: {
            "summary": json_scores(evaluation.summary),
            "intervals": {
                metric: [json_number(e.low), json_number(e.high)]
                for metric, e in _estimates(task, evaluation).items()
            },
            "excluded": _excluded(task, evaluation),
            "tracks": {path: json_scores(scores) for path, scores in evaluation.tracks.items()},
        }
        for name, evaluation in evaluated.tests.items()
    }
    return json.dumps({"tests": content, "failures": evaluated.failures}, indent=1) + "\n"


def _excluded(task: Task[Any], evaluation: Evaluation) -> dict[str, int]:
    """By metric, recordings that have nothing to measure it by."""
    return {metric: num_excluded(evaluation.tracks.values(), metric) for metric in task.metrics}


def _estimates(task: Task[Any], evaluation: Evaluation) -> dict[str, Estimate]:
    return {metric: estimate(task, [evaluation.tracks], metric) for metric in task.metrics}
