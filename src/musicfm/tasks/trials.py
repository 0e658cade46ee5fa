"""Trials: many heads, each fitted in a process of its own and kept in a folder of its own.

What a folder holds counts once its ``fit.json`` is there, and ``tests.json`` for the test sets; so
a run that was killed at any moment goes on with the trials that are left. Each is computed by one
thread, and so gives the same numbers on any number of cores.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from musicfm.audio.processes import (
    Failure,
    Message,
    num_cores,
    run_tasks,
)
from musicfm.datasets.scanning import identities
from musicfm.errors import ConfigError, DataError, MusicFMError
from musicfm.files import read_object, write_json
from musicfm.model import checkpoint
from musicfm.model.config import Config
from musicfm.progress import Steps
from musicfm.tasks import heads
from musicfm.tasks.base import Scores, json_number, json_scores
from musicfm.tasks.heads import HeadConfig, build_task
from musicfm.tasks.probe import (
    EncodedTrack,
    Evaluation,
    ProbeExamples,
    ProbeSettings,
    evaluate,
    fit,
)

T = TypeVar("T")

FIT, TESTS = "fit.json", "tests.json"
STUDY, RUN = "study.json", "run.json"
"""Files by which folders of studies and of fine-tuning are known."""

_PATIENCE_SECONDS = 24 * 3600.0  # for one trial: it has no files that could make it hang


@dataclass(frozen=True)
class Recordings:
    """Labelled recordings with the hidden states of one encoder."""

    train: tuple[EncodedTrack, ...]
    valid: tuple[EncodedTrack, ...]
    tests: Mapping[str, tuple[EncodedTrack, ...]]


@dataclass(frozen=True)
class Trial:
    """A head to be fitted."""

    folder: Path
    source: str
    """Name of the encoder whose hidden states it gets."""
    config: HeadConfig
    settings: ProbeSettings
    tested: bool
    """Whether the test sets are wanted, or validation alone."""

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return os.path.isfile(self.folder / (TESTS if self.tested else FIT))


def run_trials(
    trials: Sequence[Trial],
    recordings: Mapping[str, Recordings],
    *,
    num_workers: int | None = None,
    progress: bool = False,
) -> None:
    """Fits the heads that are not there yet, and tests them.

    Args:
        trials: what to do.
        recordings: by source.
        num_workers: processes; None takes all cores.
        progress: show a bar on standard error.

    Raises:
        ConfigError: a folder holds a head of another model, or of other labels.
        MusicFMError: a trial is impossible, such as for want of labels.
        OutputError: a folder cannot be written.
    """
    for trial in trials:
        _check(trial)
    pending = [trial for trial in trials if not trial.is_done]
    events = run_tasks(
        partial(_run, recordings),
        ((str(trial.folder), trial) for trial in pending),
        num_workers=min(num_cores(num_workers), max(1, len(pending))),
        timeout_seconds=_PATIENCE_SECONDS,
    )
    with contextlib.closing(events), Steps("Training heads", len(pending), progress) as bar:
        for event in events:
            if isinstance(event, Failure):
                raise MusicFMError(f"{event.key}: {event.reason}")
            if isinstance(event, Message):
                bar.advance()


def objective_of(folder: Path) -> float:
    """What a fitted head has on validation; less than anything if that is not a number.

    Raises DataError if its ``fit.json`` is damaged.
    """
    return _read(folder / FIT, lambda content: _number(content["objective"], -math.inf))


def tests_of(folder: Path) -> dict[str, Evaluation]:
    """The scores of a tested head, by test set. Raises DataError."""

    def tested(entry: Mapping[str, Any]) -> Evaluation:
        tracks = {path: _numbers(scores) for path, scores in entry["tracks"].items()}
        return Evaluation(_numbers(entry["summary"]), tracks)

    return _read(folder / TESTS, lambda content: {k: tested(v) for k, v in content.items()})


def _check(trial: Trial) -> None:
    """Raises ConfigError if the head in a trial's folder is another one."""
    if os.path.isfile(trial.folder / FIT):
        there = heads.load_config(trial.folder).replace(decoding={})
        if there != trial.config:
            raise ConfigError(
                f"{trial.folder} holds a head of another '{there.model}'; has the model changed? "
                "Choose another folder, or remove that one"
            )


def digests_of(folder: Path) -> dict[str, str]:
    """What the test sets were, by name, of which :func:`write_tests` was told; {} before a test.

    Raises DataError.
    """
    if not os.path.isfile(folder / TESTS):
        return {}
    return _read(folder / TESTS, lambda content: {k: v.get("digest") for k, v in content.items()})


def write_tests(
    folder: Path, tests: Mapping[str, Evaluation], digests: Mapping[str, str] | None = None
) -> None:
    """Writes ``tests.json``, with what the test sets were. Raises OutputError."""
    content = {
        name: {
            **({} if digests is None else {"digest": digests[name]}),
            "summary": json_scores(evaluation.summary),
            "tracks": {path: json_scores(scores) for path, scores in evaluation.tracks.items()},
        }
        for name, evaluation in tests.items()
    }
    write_json(folder / TESTS, content)


def write_fit(
    folder: Path,
    objective: float,
    validation: Mapping[str, float],
    losses: Sequence[tuple[float, float]],
    settings: Config,
    sizes: tuple[int, int],
    seconds: float,
) -> None:
    """Writes ``fit.json``, by which a head counts as fitted.

    Args:
        folder: of the head.
        objective: on validation.
        validation: the scores there.
        losses: of each epoch, on training and validation.
        settings: how it was trained.
        sizes: recordings for training and validation.
        seconds: that it took.

    Raises OutputError.
    """
    content = {
        "objective": json_number(objective),
        "validation": json_scores(validation),
        "losses": losses,
        "settings": settings.to_dict(),
        "train": sizes[0],
        "valid": sizes[1],
        "seconds": round(seconds, 1),
    }
    write_json(folder / FIT, content)


def _run(recordings: Mapping[str, Recordings], trial: Trial) -> Iterator[None]:
    """What a process does for a trial."""
    torch.set_num_threads(1)
    mine = recordings[trial.source]
    head = heads.load(trial.folder) if os.path.isfile(trial.folder / FIT) else _fit(trial, mine)
    if trial.tested:
        tests = {name: evaluate(head, some) for name, some in mine.tests.items()}
        write_tests(trial.folder, tests)
    yield None


def _fit(trial: Trial, recordings: Recordings) -> heads.Head:
    config, begin = trial.config, time.monotonic()
    task = build_task(config.task, config.vocabulary)
    train, valid = (
        ProbeExamples(config, some, purpose)
        for some, purpose in ((recordings.train, "training"), (recordings.valid, "validation"))
    )
    fitted = fit(config, trial.settings, train, valid)
    heads.save(fitted.head, trial.folder)
    checkpoint.write_tracks(
        trial.folder, identities(r.track for r in (*train.recordings, *valid.recordings))
    )
    summary = fitted.validation.summary
    write_fit(
        trial.folder,
        task.objective(summary),
        summary,
        fitted.losses,
        trial.settings,
        (len(train.recordings), len(valid.recordings)),
        time.monotonic() - begin,
    )
    return fitted.head


def _numbers(scores: Mapping[str, float | None]) -> Scores:
    return {name: _number(value, math.nan) for name, value in scores.items()}


def _number(value: float | None, missing: float) -> float:
    """A score; JSON has no word for one that is not a number."""
    return missing if value is None else float(value)


def _read(path: Path, parse: Callable[[dict[str, Any]], T]) -> T:
    """What a file of results says. Raises DataError if it is damaged."""
    cure = "delete it, and it will be computed again"
    content = read_object(path, cure)
    try:
        return parse(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged; {cure}") from error
