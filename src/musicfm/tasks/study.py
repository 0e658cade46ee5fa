"""A study: rows × tasks, with layers chosen on validation, several seeds, and the test sets once.

``musicfm probe`` is a study of one row and one task, ``musicfm table1`` one of many. Its folder:

    study.json                           what is studied; the same call goes on
    ROW/features.json                    of rows with layers: what their frames are like
    ROW/TASK/layer_3/seed_0/             a head, its fit.json, and tests.json if it was chosen
    ROW/TASK/                            of rows without layers: fit.json, tests.json, a model
    report.json, table.md, table.csv, table.png, layers.png

Heads of the first seeds are fitted on each layer; the layer with the best mean score on validation
gets the other seeds, and is tested.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from musicfm.audio.processes import Work
from musicfm.datasets.labelled import digest
from musicfm.embedding.embedder import WindowEncoder
from musicfm.errors import ConfigError, DataError
from musicfm.files import claim, exclusive, read_object, sweep, write_json
from musicfm.tasks.corpus import Corpus
from musicfm.tasks.evaluation import evaluate_head
from musicfm.tasks.features import Features, extract
from musicfm.tasks.heads import HeadConfig, build_task, task_class
from musicfm.tasks.names import TaskName
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import Evaluation, ProbeSettings, labelled, paired
from musicfm.tasks.rows import Row
from musicfm.tasks.trials import (
    RUN,
    STUDY,
    TESTS,
    Recordings,
    Trial,
    objective_of,
    run_trials,
    tests_of,
    write_tests,
)
from musicfm.tasks.trivial import oracle, trivial

Context = Literal["paper", "model"]
Layers = Literal["each", "mixed", "auto"] | tuple[int, ...]
"""Layers of a model: each by itself, of which the best is taken; all, with learned weights; the
embedder's default; or some by themselves."""


@dataclass(frozen=True)
class Study:
    """What to do, apart from the rows."""

    out: Path
    tasks: tuple[TaskName, ...]
    num_seeds: int = 5
    seeds_per_layer: int = 1
    """Number of these seeds before a layer is chosen."""
    context: Context = "model"
    layers: Layers = "each"
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    tuning: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are not the defaults of fine-tuning, for rows that train their model."""
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    """The same, but not for rows that begin with random weights."""
    device: str = "cpu"
    num_workers: int | None = None
    progress: bool = False

    @property
    def work(self) -> Work:
        """How its parts work on many recordings."""
        return {"num_workers": self.num_workers, "progress": self.progress}


@dataclass(frozen=True)
class Result:
    """The result of a row in a task."""

    row: Row
    task: TaskName
    layers: tuple[int, ...]
    """The layers that were chosen; none if there are none to choose from."""
    curve: Mapping[tuple[int, ...], tuple[float, ...]]
    """Scores on validation of each of the first seeds, by layers."""
    runs: tuple[Mapping[str, Evaluation], ...]
    """Evaluations of each seed, by test set."""
    failures: tuple[str, ...] = ()
    """Recordings that could not be used, and why."""
    best: Path | None = None
    """The folder of the head that is best on validation; None if there is none."""


@dataclass(frozen=True)
class _EncoderFacts:
    """What there is to know of an encoder's frames, but for the frames."""

    fingerprint: str
    layers: tuple[int, ...]
    dim: int
    failures: tuple[str, ...]


class _FeatureSource:
    """What an encoder gives for all recordings, as soon as a head has to be fitted or tested.

    It is loaded for that, and freed. What it made of the recordings stays in the study, so that a
    study that is done needs no frames any more.

    Args:
        study: where that stays, and how to compute.
        corpus: the recordings.
        row: whose encoder it is.
        context_seconds: encoded at once; None: the encoder's own context.
        cache: the folder for hidden states.
    """

    def __init__(
        self, study: Study, corpus: Corpus, row: Row, context_seconds: float | None, cache: Path
    ) -> None:
        wanted: Sequence[int] | Literal["all"] | None = "all"
        if isinstance(study.layers, tuple) or study.layers == "auto":
            wanted = None if study.layers == "auto" else study.layers
        self._load = partial(row.encoder, context_seconds, study.device, wanted)
        self._study, self._corpus, self._cache = study, corpus, cache
        self._features: dict[str, Features] | None = None
        suffix = "" if context_seconds is None else f"_{context_seconds:g}s"
        self._path = study.out / row.folder / f"features{suffix}.json"
        self._old_path = study.out / row.folder / f"heard{suffix}.json"
        """As it was called before 0.2."""

    @cached_property
    def facts(self) -> _EncoderFacts:
        """As they were noted, or found out now."""
        encoder = self._load()
        fingerprint, layers = encoder.fingerprint(), encoder.layers
        path = self._path if os.path.isfile(self._path) else self._old_path
        if os.path.isfile(path):
            cure = "delete it, and it will be written again"
            content = read_object(path, cure)
            try:
                found = _EncoderFacts(
                    str(content["fingerprint"]),
                    tuple(content["layers"]),
                    int(content["dim"]),
                    tuple(content["failures"]),
                )
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path} is damaged; {cure}") from error
            if (found.fingerprint, found.layers) == (fingerprint, layers):
                return found
        features, failures = self._extract(encoder)
        dim = next(iter(features.values())).frames(layers[0]).shape[1]
        found = _EncoderFacts(fingerprint, layers, dim, tuple(failures))
        write_json(self._path, asdict(found))
        return found

    @cached_property
    def recordings(self) -> Recordings:
        """All recordings with their frames, which are computed unless they are in the cache."""
        features = self._features or self._extract(self._load())[0]
        tests = {name: paired(items, features) for name, items in self._corpus.tests.items()}
        train, valid = (
            paired(items, features) for items in (self._corpus.train, self._corpus.valid)
        )
        return Recordings(train, valid, tests)

    def _extract(self, encoder: WindowEncoder) -> tuple[dict[str, Features], list[str]]:
        features, failures = extract(encoder, self._corpus.tracks, self._cache, **self._study.work)
        if not features:
            raise DataError(f"no recording can be used: {failures[0]}")
        self._features = features
        return features, failures


def run_study(study: Study, corpus: Corpus, rows: Sequence[Row], cache: Path) -> list[Result]:
    """Does what is not done yet.

    Args:
        study: what to do.
        corpus: to learn from and to test on.
        rows: to compare.
        cache: the folder for hidden states.

    Returns:
        The results of all rows in all tasks that they have something to say about.

    Raises:
        ConfigError: the folder holds another study, or there is no such row.
        DataError: there are no labels for a task in training, validation or testing.
        OutputError: a folder cannot be written, or is in use.
    """
    for name in study.tasks:
        task = build_task(name, corpus.vocabulary_for(name))
        for purpose, items in (("training", corpus.train), ("validation", corpus.valid)):
            labelled(task, items, purpose)
        for test, items in corpus.tests.items():
            labelled(task, items, f"the test set '{test}'")
    _check_rows(study, rows)
    with exclusive(study.out, ".lock"):
        sweep(study.out)
        _check_folder(study, corpus)
        probes = [row for row in rows if row.kind == "probe"]
        results = list(_probe(study, corpus, probes, cache))
        for row in rows:
            if row.kind != "probe":
                results += [_other(study, corpus, row, task) for task in _tasks(study, row)]
    order = {row.name: place for place, row in enumerate(rows)}
    return sorted(results, key=lambda result: order[result.row.name])


def _check_rows(study: Study, rows: Sequence[Row]) -> None:
    """Raises before anything is computed for rows that cannot be."""
    if not any(_tasks(study, row) for row in rows):
        names = ", ".join(row.name for row in rows)
        raise ConfigError(
            f"{names} cannot be used for {', '.join(study.tasks)}; chroma is for chords and keys"
        )
    folders: dict[str, str] = {}
    for row in rows:
        other = folders.setdefault(row.folder, row.name)
        if other != row.name or row.folder.strip(".") == "":
            raise ConfigError(
                f"the rows '{other}' and '{row.name}' would share the folder {row.folder}; give "
                "the model another name, such as a link"
            )
    for row in rows:
        row.check()


def _probe(study: Study, corpus: Corpus, rows: Sequence[Row], cache: Path) -> Iterator[Result]:
    """Heads on frozen frames: all layers first, then all seeds of the best."""
    sources: dict[str, _FeatureSource] = {}
    failures: dict[Row, tuple[str, ...]] = {}
    trials: dict[tuple[Row, TaskName], dict[tuple[int, ...], list[Trial]]] = {}
    first_seeds = range(min(study.seeds_per_layer, study.num_seeds))
    for row in rows:
        known: dict[float | None, _FeatureSource] = {}
        for task in _tasks(study, row):
            clip = build_task(task, ("any",)).clip_seconds if study.context == "paper" else None
            if clip not in known:
                known[clip] = _FeatureSource(study, corpus, row, clip, cache)
            sources[_source(row, task)] = known[clip]
            facts = known[clip].facts
            failures[row] = tuple(dict.fromkeys((*failures.get(row, ()), *facts.failures)))
            trials[row, task] = {
                config.layers: [_trial(study, row, task, config, seed) for seed in first_seeds]
                for config in _configs(study, corpus, row, task, facts)
            }
    first = [t for by_layers in trials.values() for some in by_layers.values() for t in some]
    _run(study, first, sources)
    curves = {
        which: {
            layers: tuple(objective_of(trial.folder) for trial in some)
            for layers, some in by_layers.items()
        }
        for which, by_layers in trials.items()
    }
    chosen: dict[tuple[Row, TaskName], list[Trial]] = {}
    for (row, task), curve in curves.items():
        best = max(curve, key=lambda layers: fmean(curve[layers]))
        config = trials[row, task][best][0].config
        chosen[row, task] = [
            _trial(study, row, task, config, seed, tested=True) for seed in range(study.num_seeds)
        ]
    _run(study, [trial for some in chosen.values() for trial in some], sources)
    for (row, task), some in chosen.items():
        yield Result(
            row,
            task,
            some[0].config.layers,
            curves[row, task],
            tuple(tests_of(trial.folder) for trial in some),
            failures[row],
            max((trial.folder for trial in some), key=objective_of),
        )


def _run(study: Study, trials: Sequence[Trial], sources: Mapping[str, _FeatureSource]) -> None:
    pending = dict.fromkeys(trial.source for trial in trials if not trial.is_done)
    recordings = {source: sources[source].recordings for source in pending}
    run_trials(trials, recordings, **study.work)


def _tasks(study: Study, row: Row) -> list[TaskName]:
    return [task for task in study.tasks if task in row.tasks()]


def _source(row: Row, task: TaskName) -> str:
    return f"{row.name} {task}"


def _trial(
    study: Study, row: Row, task: TaskName, config: HeadConfig, seed: int, tested: bool = False
) -> Trial:
    layers = "mixed" if len(config.layers) > 1 else f"layer_{config.layers[0]}"
    return Trial(
        study.out / row.folder / task / layers / f"seed_{seed}",
        _source(row, task),
        config,
        study.probe.replace(seed=seed),
        tested,
    )


def _configs(
    study: Study, corpus: Corpus, row: Row, name: TaskName, facts: _EncoderFacts
) -> list[HeadConfig]:
    """The heads to try: one, or one for each layer."""
    base = HeadConfig(
        task=name,
        vocabulary=corpus.vocabulary_for(name),
        model=row.absolute_name,
        fingerprint=facts.fingerprint,
        layers=facts.layers,
        dim=facts.dim,
        inputs=row.inputs(name),
        relative=task_class(name).is_relative,
        context=study.context,
    )
    if study.layers == "mixed":
        return [base]
    wanted: Sequence[int] = facts.layers
    if isinstance(study.layers, tuple) and row.is_from_file:  # which gives all that it has
        wanted = sorted(set(study.layers))
    return [base.replace(layers=(layer,)) for layer in wanted]


def _other(study: Study, corpus: Corpus, row: Row, name: TaskName) -> Result:
    """A row without layers."""
    folder = study.out / row.folder / name
    if row.kind not in ("trivial", "oracle"):
        _finetune(study, corpus, row, name, folder)  # which knows whether it is done
    if not os.path.isfile(folder / TESTS):
        write_tests(folder, _tests(study, corpus, row, name, folder))
    return Result(row, name, (), {}, (tests_of(folder),))


def _tests(
    study: Study, corpus: Corpus, row: Row, name: TaskName, folder: Path
) -> Mapping[str, Evaluation]:
    """How a row without layers does on each test set."""
    if row.kind not in ("trivial", "oracle"):
        predictor = Predictor.load([folder], device=study.device)
        return evaluate_head(predictor, corpus.tests, **study.work).tests
    task = build_task(name, corpus.vocabulary_for(name))
    predict = oracle(task) if row.kind == "oracle" else trivial(task, corpus.train, corpus.valid)
    return {
        test: Evaluation.of(task, labelled(task, items, test), predict)
        for test, items in corpus.tests.items()
    }


def _finetune(
    study: Study,
    corpus: Corpus,
    row: Row,
    name: TaskName,
    folder: Path,
) -> None:
    # Lightning Fabric takes seconds to import, and most studies do without.
    from musicfm.tasks.finetune import SCRATCH, FinetuneSettings, finetune

    settings = SCRATCH if row.kind == "scratch" else FinetuneSettings(**study.finetuning)
    finetune(
        name,
        corpus.vocabulary_for(name),
        row.load(),
        row.model,
        settings.replace(**study.tuning),
        corpus.train,
        corpus.valid,
        folder,
        device=study.device,
        **study.work,
    )


def _check_folder(study: Study, corpus: Corpus) -> None:
    """Raises ConfigError if the folder holds another study; rows and tasks may be added."""
    if os.path.isfile(study.out / RUN):
        raise ConfigError(f"{study.out} holds a fine-tuned model; choose another folder")
    content = {
        "corpus": corpus.name,
        "train": digest(corpus.train),
        "valid": digest(corpus.valid),
        "tests": {name: digest(items) for name, items in corpus.tests.items()},
        "context": study.context,
        "probe": study.probe.to_dict(),
    }
    claim(study.out / STUDY, content, "a study")
