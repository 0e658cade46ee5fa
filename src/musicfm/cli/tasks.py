"""``musicfm probe``, ``table1``, ``finetune`` and ``train``: the paper's tasks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from musicfm.cli.app import (
    TRAIN,
    Device,
    Workers,
    app,
    device_of,
    interruptible,
    layers_of,
    need,
    say,
    show,
)
from musicfm.errors import ConfigError
from musicfm.tasks.names import TASKS, TaskName

if TYPE_CHECKING:
    from musicfm.tasks.corpus import Corpus
    from musicfm.tasks.study import Layers, Result, Study

Task = Annotated[
    TaskName, typer.Argument(help="What to find: beat includes downbeats; structure is sections.")
]
Data = Annotated[
    str,
    typer.Option(
        help="rendered-v1, rendered-v2-quick, or rendered-v2=FOLDER with its fonts; a folder of "
        "recordings with a .jams file beside each; a manifest of them; or a published dataset, "
        "such as gtzan=/data/gtzan."
    ),
]
Songs = Annotated[
    Path, typer.Option(help="Folder of rendered songs; missing ones are rendered into it.")
]
Fraction = Annotated[
    float,
    typer.Option("--fraction", "--part", help="Take this fraction of the rendered songs."),
]
Labels = Annotated[float, typer.Option(help="Train on this fraction of the training songs.")]
Cache = Annotated[
    Path, typer.Option(help="Folder for hidden states; may be shared by runs, and deleted.")
]
Context = Annotated[
    Literal["model", "paper"],
    typer.Option(help="What a model encodes at once: its own context, or clips of the task."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of heads, each with another seed.")]
Precision = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Precision of training a model and its head.")
]

LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Of the fine-tuned model, and of its head; for small models try 1e-3,1e-3.",
        show_default="1e-5,1e-4",
    ),
]


@app.command(rich_help_panel=TRAIN)
def probe(
    task: Task,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; the same folder continues it.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model, as for embed; or mel, chroma, untrained:MODEL, FILE.py:NAME.",
        ),
    ] = "nano",
    layer: Annotated[
        str,
        typer.Option(
            help="Layer of the model: auto is 7 of 12; with several (3,7) or all, each is tried "
            "with all seeds; mixed learns a weighting of all layers."
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
    sets are used once. OUT gets table.md and all heads, and layers.png if several layers were
    tried; predict and evaluate take OUT/head, the best one of the last probe.
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
        corpus = read_corpus(data, songs, fraction, labels, workers)
    (result,) = _study([model], corpus, study, cache, paper=False)
    if result.best is not None:
        heads.copy(result.best, out / "head")
        say(f"the best head is {out / 'head'}")


@app.command(rich_help_panel=TRAIN)
def table1(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the study; the same folder continues it.")
    ],
    data: Data = "rendered-v1",
    models: Annotated[
        str,
        typer.Option(
            help="Rows, separated by commas: models, untrained:MODEL, mel, chroma, FILE.py:NAME, "
            "finetuned:MODEL, scratch:MODEL, trivial, oracle. Rows are compared with the first "
            "model."
        ),
    ] = "nano,untrained:nano,mel,chroma,trivial,oracle",
    tasks: Annotated[
        str, typer.Option(help="Tasks, separated by commas.")
    ] = "beat,chord,structure,key,tagging",
    seeds: Seeds = 5,
    seeds_per_layer: Annotated[
        int, typer.Option(min=1, help="How many of these for each layer, to choose the layer.")
    ] = 1,
    context: Context = "model",
    labels: Labels = 1.0,
    fraction: Fraction = 1.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of epochs, in rows that train their model.",
            show_default="30, or 60",
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

    A run that was interrupted continues where it stopped. OUT gets table.md, table.csv, table.png,
    layers.png and report.json, with 95 % intervals and paired comparisons.
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
        corpus = read_corpus(data, songs, fraction, labels, workers)
    _study(models.split(","), corpus, study, cache, paper=True)


@app.command(rich_help_panel=TRAIN)
def finetune(
    task: Task,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same folder continues it.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A model, as for embed.")] = "nano",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random weights.")
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of epochs.", show_default="30, from scratch 60"),
    ] = None,
    epoch_clips: Annotated[
        int, typer.Option(min=1, help="Clips in an epoch, after which there is a validation.")
    ] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 8,
    learning_rates: LearningRates = None,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    labels: Labels = 1.0,
    fraction: Fraction = 1.0,
    songs: Songs = Path("rendered-v1"),
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Fine-tune a model together with a head, as in the paper.

    Training stops when validation does not improve any more; a run that was interrupted continues
    from its last epoch. OUT is a head, with its model in it, that predict and evaluate take.
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
        corpus = read_corpus(data, songs, fraction, labels, workers)
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
        list[Path], typer.Argument(help="Folders of recordings with a .jams file beside each.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run; the same folder continues it.")
    ],
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of music without labels.", show_default="none"),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model to begin with, as for embed.")
    ] = "nano",
    pitch: Annotated[
        bool, typer.Option(help="Give the model a second input, of pitches, if it has none.")
    ] = True,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps.")] = 3_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 12,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    decay: Annotated[
        float, typer.Option(help="In this last fraction of the steps, the rate falls to zero.")
    ] = 0.4,
    precision: Precision = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
) -> None:
    """Train a model and heads for all tasks, with labels and without.

    OUT/model is the result so far, which musicfm analyze takes as --model. A run that was stopped
    continues from its last checkpoint, also with more recordings or steps.
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


def read_corpus(
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
