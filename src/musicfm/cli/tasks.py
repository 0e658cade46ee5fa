"""``musicfm probe``, ``finetune``, ``evaluate``, ``predict`` and ``table1``: the paper's tasks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from musicfm.cli.app import (
    ANALYSE,
    TRAIN,
    Device,
    OnDamage,
    Out,
    Timeout,
    Workers,
    app,
    as_begun,
    conclude,
    device_of,
    interruptible,
    layers_of,
    need,
    say,
    show,
)
from musicfm.cli.lists import check_there
from musicfm.errors import ConfigError
from musicfm.tasks.names import TASKS, TaskName

if TYPE_CHECKING:
    from musicfm.tasks.corpus import Corpus
    from musicfm.tasks.heads import HeadConfig
    from musicfm.tasks.study import Layers, Result, Study

Task = Annotated[
    TaskName, typer.Argument(help="What to find; beat has downbeats too, structure is sections.")
]
Data = Annotated[
    str,
    typer.Option(
        help="rendered-v1, rendered-v2-quick, or rendered-v2=FOLDER with its fonts; a folder of "
        "recordings with a .jams beside each; a manifest of such; or a published dataset, such as "
        "gtzan=/data/gtzan."
    ),
]
Songs = Annotated[
    Path, typer.Option(help="Where rendered songs are, or are rendered to when asked for.")
]
Fraction = Annotated[
    float,
    typer.Option("--fraction", "--part", help="Take this fraction of the rendered songs."),
]
Labels = Annotated[float, typer.Option(help="Learn from this fraction of the training songs.")]
Cache = Annotated[Path, typer.Option(help="Folder for hidden states; may be shared and removed.")]
Context = Annotated[
    Literal["model", "paper"],
    typer.Option(help="What a model encodes at once: its own context, or clips of the task."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of heads, each with another seed.")]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="To train a model with, and its head.")
]

LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Of a fine-tuned model, and of its head; a small one may want 1e-3,1e-3.",
        show_default="1e-5,1e-4",
    ),
]


@app.command(rich_help_panel=TRAIN)
def probe(
    task: Task,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; the same one goes on.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="As embed's --model; or mel, chroma, untrained:MODEL, FILE.py:NAME.",
        ),
    ] = "nano",
    layer: Annotated[
        str,
        typer.Option(
            help="Layer of the model: auto is 7 of 12; a number, several (3,7) or all try each by "
            "itself, with all seeds; mixed weights all."
        ),
    ] = "auto",
    seeds: Seeds = 5,
    context: Context = "model",
    labels: Labels = 1.0,
    fraction: Fraction = 1.0,
    songs: Songs = Path("rendered-v1"),
    cache: Cache = Path("features"),
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train heads on the frozen hidden states of a model, and test them.

    Hidden states are computed once. Layer, stopping and decoding are chosen on validation; the test
    sets are used once. OUT gets table.md and all heads, and layers.png where several layers were
    tried; predict and evaluate take OUT/head, which is that of the last probe.
    """
    need("tasks")
    from musicfm.tasks import heads
    from musicfm.tasks.rows import Row
    from musicfm.tasks.study import Study

    if os.path.isdir(out / "head"):
        there = heads.load(out / "head").config
        if (there.task, there.model) != (task, Row(model).absolute_name):
            raise ConfigError(
                f"{out} holds a {there.task} head for '{there.model}'; choose another folder"
            )
    study = Study(
        out,
        (task,),
        num_seeds=seeds,
        seeds_per_layer=seeds,
        context=context,
        layers=_layers(layer),
        device=device_of(device),
        num_workers=workers,
        progress=True,
    )
    with interruptible("the same command continues"):
        corpus = _corpus(data, songs, fraction, labels, workers)
    (result,) = _study([model], corpus, study, cache, paper=False)
    if result.best is not None:
        heads.copy(result.best, out / "head")
        say(f"the best head is {out / 'head'}")


@app.command(rich_help_panel=TRAIN)
def table1(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; the same one goes on.")
    ],
    data: Data = "rendered-v1",
    models: Annotated[
        str,
        typer.Option(
            help="Rows, with commas: models, untrained:MODEL, mel, chroma, FILE.py:NAME, "
            "finetuned:MODEL, scratch:MODEL, trivial, oracle. The first model is the reference."
        ),
    ] = "nano,untrained:nano,mel,chroma,trivial,oracle",
    tasks: Annotated[
        str, typer.Option(help="Tasks, separated by commas.")
    ] = "beat,chord,structure,key,tagging",
    seeds: Seeds = 5,
    seeds_per_layer: Annotated[
        int, typer.Option(min=1, help="Of these, how many for each layer at first.")
    ] = 1,
    context: Context = "model",
    labels: Labels = 1.0,
    fraction: Fraction = 1.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Most epochs, in rows that train their model.", show_default="30, or 60"
        ),
    ] = None,
    learning_rates: LearningRates = None,
    precision: Precision = "float32",
    songs: Songs = Path("rendered-v1"),
    cache: Cache = Path("features"),
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Print the paper's Table 1: models and baselines on all five tasks.

    What is done already is not done again. OUT gets table.md, table.csv, table.png, layers.png and
    report.json, with 95 % intervals and paired comparisons.
    """
    need("tasks")
    from musicfm.tasks.study import Study

    if unknown := set(tasks.split(",")) - set(TASKS):
        raise ConfigError(f"there is no task '{min(unknown)}'; choose from {', '.join(TASKS)}")
    study = Study(
        out,
        tuple(name for name in TASKS if name in tasks.split(",")),
        num_seeds=seeds,
        seeds_per_layer=seeds_per_layer,
        context=context,
        tuning={"precision": precision, **({} if epochs is None else {"max_epochs": epochs})},
        finetuning=_rates(learning_rates),
        device=device_of(device),
        num_workers=workers,
        progress=True,
    )
    with interruptible("the same command continues"):
        corpus = _corpus(data, songs, fraction, labels, workers)
    _study(models.split(","), corpus, study, cache, paper=True)


@app.command(rich_help_panel=TRAIN)
def finetune(
    task: Task,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same one goes on.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="As embed's --model.")] = "nano",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most.", show_default="30, from scratch 60")
    ] = None,
    epoch_clips: Annotated[
        int, typer.Option(min=1, help="Clips of the task's length between two looks at validation.")
    ] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips of the task's length.")] = 8,
    learning_rates: LearningRates = None,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    labels: Labels = 1.0,
    fraction: Fraction = 1.0,
    songs: Songs = Path("rendered-v1"),
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train a model together with a head, the paper's way, and test it.

    Learning rates are 1e-5 for the model and 1e-4 for the head. It stops when validation does not
    improve; a run that was stopped goes on from its last epoch. OUT is a head that predict and
    evaluate take, with its model.
    """
    need("tasks", "train")
    from musicfm.datasets.labelled import digest
    from musicfm.model.musicfm import MusicFM
    from musicfm.tasks import finetune as tuning
    from musicfm.tasks.evaluation import evaluate_head, to_text
    from musicfm.tasks.heads import build_task
    from musicfm.tasks.overlap import overlaps
    from musicfm.tasks.predict import Predictor
    from musicfm.tasks.probe import labelled
    from musicfm.tasks.rows import Row
    from musicfm.tasks.trials import FIT, digests_of, tests_of, write_tests

    settings = tuning.SCRATCH if from_scratch else tuning.FinetuneSettings()
    settings = settings.replace(
        epoch_clips=epoch_clips,
        batch_size=batch_size,
        precision=precision,
        seed=seed,
        **_rates(learning_rates),
    )
    if epochs is not None:
        settings = settings.replace(max_epochs=epochs)
    with interruptible(f"what is done is in {out}, and the same command continues"):
        corpus = _corpus(data, songs, fraction, labels, workers)
        vocabulary = corpus.vocabulary_for(task)
        built = build_task(task, vocabulary)
        for name, items in corpus.tests.items():  # before hours of training, rather than after
            labelled(built, items, f"the test set '{name}'")
        row = Row(f"{'scratch' if from_scratch else 'finetuned'}:{model}")
        if remark := overlaps([row], corpus)[row.name]:
            say(f"{model}: {remark}")
        if os.path.isfile(out / FIT):
            say(f"nothing new: the model in {out} is trained")
        tuning.finetune(
            task,
            vocabulary,
            MusicFM.from_pretrained(model),
            model,
            settings,
            corpus.train,
            corpus.valid,
            out,
            device=device_of(device),
            num_workers=workers,
            progress=True,
        )
        tests = {name: digest(items) for name, items in corpus.tests.items()}
        if digests_of(out) != tests:
            predictor = Predictor.load([out], device=device_of(device))
            found = evaluate_head(predictor, corpus.tests, num_workers=workers, progress=True)
            write_tests(out, found.tests, tests)
    show(to_text(built, tests_of(out)))
    say(f"the head is {out}")


@app.command(rich_help_panel=TRAIN)
def train(
    labelled: Annotated[
        list[Path], typer.Argument(help="Folders of recordings with a .jams beside each.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same one goes on.")
    ],
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of music without labels.", show_default="none"),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="To begin with; as embed's --model.")
    ] = "nano",
    pitch: Annotated[
        bool, typer.Option(help="Give the model a second input, of pitches, if it has none.")
    ] = True,
    steps: Annotated[int, typer.Option(min=1)] = 3_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips of a step.")] = 12,
    learning_rate: Annotated[float, typer.Option(help="The highest.")] = 1e-3,
    decay: Annotated[
        float, typer.Option(help="The last fraction of the steps, in which the rate falls to zero.")
    ] = 0.4,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train a model and its heads together, with labels and without.

    OUT/model is the result so far: musicfm analyze takes it with --model. A run that was stopped
    goes on from its last checkpoint, also with more recordings or steps.
    """
    need("tasks", "train")
    from musicfm.audio.processes import num_cores
    from musicfm.datasets.labelled import read_labelled
    from musicfm.datasets.scanning import collect
    from musicfm.datasets.splits import Splitting
    from musicfm.model.musicfm import MusicFM
    from musicfm.tasks import joint

    settings = joint.JointSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        decay=decay,
        precision=precision,
        seed=seed,
    )
    with interruptible(f"what is done is in {out}, and the same command continues"):
        found = read_labelled(labelled, Splitting(), num_workers=workers, progress=True)
        for problem in found.problems:
            say(problem)
        music = None if not unlabelled else collect(unlabelled, num_workers=workers, progress=True)
        files = (
            []
            if music is None
            else [(track, Path(music.manifest.root) / track.path) for track in music.manifest]
        )
        outcome = joint.train(
            MusicFM.from_pretrained(model),
            model,
            settings,
            found.tracks,
            files,
            out,
            pitch=pitch,
            device=device_of(device),
            num_workers=num_cores(workers, spare=1),
            progress=True,
        )
    if outcome.stopped_by is not None:
        say(f"stopped at step {outcome.step}, which is saved in {out}; the same command continues")
        raise typer.Exit(128 + outcome.stopped_by)
    say(f"the model is {out / joint.MODEL}")


@app.command(rich_help_panel=TRAIN)
def evaluate(
    head: Annotated[Path, typer.Argument(help="Folder of a head, or such as nano/beat.")],
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file for the scores.", show_default="none"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where its model is now.", show_default="where it was"),
    ] = None,
    split: Annotated[
        Literal["test", "all"], typer.Option(help="The test set, or all that is there.")
    ] = "test",
    fraction: Fraction = 1.0,
    songs: Songs = Path("rendered-v1"),
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Score a head on labelled recordings."""
    need("tasks")
    from musicfm.files import check_target, write_file
    from musicfm.tasks import heads
    from musicfm.tasks.evaluation import evaluate_head, to_json, to_text
    from musicfm.tasks.overlap import overlap_of_head, overlaps
    from musicfm.tasks.predict import Predictor
    from musicfm.tasks.rows import Row

    if out is not None:
        check_target(out)
    with interruptible("nothing was written"):
        predictor = Predictor.load([head], model, device_of(device))
        corpus = _corpus(data, songs, fraction, None, workers)
        corpus = corpus.as_one_test() if split == "all" else corpus
        found = evaluate_head(predictor, corpus.tests, num_workers=workers, progress=True)
    (loaded,) = predictor.heads
    show(to_text(loaded.task, found.tests))
    row = Row(predictor.model)
    remarks = {
        row.name: overlaps([row], corpus)[row.name],
        str(head): overlap_of_head(heads.locate(head), corpus),
    }
    for name, remark in remarks.items():
        if remark:
            say(f"{name}: {remark}")
    if out is not None:
        write_file(out, to_json(loaded.task, found))
    for failure in found.failures:
        say(f"failed: {failure}")
    raise typer.Exit(1 if found.failures else 0)


@app.command(rich_help_panel=ANALYSE)
def predict(
    context: typer.Context,
    head: Annotated[Path, typer.Argument(help="Folder of a head, or such as nano/beat.")],
    paths: Annotated[list[Path], typer.Argument(help="Recordings, and folders of them.")],
    out: Out = Path("predictions"),
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Where its model is now.", show_default="where it was"),
    ] = None,
    device: Device = "auto",
    workers: Workers = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do again what is done already.")
    ] = False,
) -> None:
    """Annotate recordings with a head: a .jams file for each.

    A head for another task, into the same OUT, adds to the files what it finds. A bad file is
    reported and skipped; a run that was interrupted continues where it stopped.
    """
    check_there(paths)

    from musicfm.journal import read_options
    from musicfm.tasks import heads
    from musicfm.tasks.predict import Predictor, predict_collection

    begun = as_begun(context, out, overwrite, model=model, on_damage=on_damage)
    model, on_damage = begun.values()
    folders = [] if overwrite else [Path(there) for there in read_options(out).get("heads", [])]
    folder = Path(os.path.abspath(heads.locate(head)))
    if folder not in folders:
        _check_goes_with(heads.load_config(folder), {f: heads.load_config(f) for f in folders}, out)
        folders.append(folder)
    if len(folders) > 1:
        tasks = ", ".join(heads.load_config(folder).task for folder in folders)
        say(f"each file in {out} gets what the heads for {tasks} find")
    with interruptible(f"what is done is in {out}, and the same command continues"):
        predictor = Predictor.load(folders, model, device_of(device))
        summary = predict_collection(
            predictor,
            paths,
            out,
            num_workers=workers,
            timeout_seconds=timeout,
            on_damage=on_damage,
            overwrite=overwrite,
            progress=True,
            options=begun | {"heads": list(map(str, folders))},
        )
    conclude(summary, "annotated", out)


def _check_goes_with(head: "HeadConfig", others: Mapping[Path, "HeadConfig"], out: Path) -> None:
    """Raises ConfigError unless a head's annotations can be in one file with those of others."""
    for path, other in others.items():
        if other.task == head.task:
            what = f"{head.task} by another head, {path}"
        elif other.fingerprint != head.fingerprint:
            what = f"{other.task} by a head of another model, {path}"
        else:
            continue
        raise ConfigError(
            f"{out} holds {what}; use another folder (--out), or leave that out (--overwrite)"
        )


def _corpus(
    data: str, songs: Path, fraction: float, labels: float | None, workers: int | None
) -> "Corpus":
    """The data, with a fraction of the labels to learn from; None: nothing is learnt from it."""
    from musicfm.tasks.corpus import open_corpus

    corpus = open_corpus(data, songs, fraction=fraction, num_workers=workers, progress=True)
    for problem in corpus.problems:
        say(problem)
    if labels is None:
        return corpus
    if corpus.lack:
        say(corpus.lack)
    return corpus.with_labels(labels)


def _study(
    models: list[str],
    corpus: "Corpus",
    study: "Study",
    cache: Path,
    *,
    paper: bool,
) -> "list[Result]":
    """Runs a study, and prints its table, with the rows of the paper or without."""
    if any(name.strip().startswith(("finetuned:", "scratch:")) for name in models):
        need("train")
    from musicfm.tasks.overlap import overlaps
    from musicfm.tasks.pictures import draw
    from musicfm.tasks.report import TABLE, make_report, to_markdown, write_report
    from musicfm.tasks.rows import Row
    from musicfm.tasks.study import run_study

    if not all(name.strip() for name in models):
        raise ConfigError("a row has no name; give --models names with commas between them")
    rows = [Row(name.strip()) for name in models]
    with interruptible(f"what is done is in {study.out}, and the same command continues"):
        results = run_study(study, corpus, rows, cache)
        report = make_report(corpus, results, overlaps(rows, corpus))
        write_report(report, study.out, paper=paper)
        draw(report, study.out)
    show(to_markdown(report, paper=paper))
    say(f"wrote {study.out / TABLE}")
    return results


def _rates(given: str | None) -> dict[str, float]:
    """Settings of fine-tuning."""
    if given is None:
        return {}
    try:
        model, head = (float(rate) for rate in given.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--learning-rates {given} is not two numbers with a comma, such as 1e-5,1e-4"
        ) from error
    return {"model_learning_rate": model, "head_learning_rate": head}


def _layers(layer: str) -> "Layers":
    if layer in ("auto", "mixed"):
        return "auto" if layer == "auto" else "mixed"
    layers = layers_of(layer)
    assert layers is not None
    if isinstance(layers, str):
        return "each"
    return (layers,) if isinstance(layers, int) else tuple(layers)
