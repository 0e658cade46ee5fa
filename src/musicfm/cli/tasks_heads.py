"""``musicfm evaluate`` and ``predict``: heads that were trained."""

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
    need,
    say,
    show,
)
from musicfm.cli.lists import check_there
from musicfm.cli.tasks import Data, Fraction, Songs, read_corpus
from musicfm.errors import ConfigError

if TYPE_CHECKING:
    from musicfm.tasks.heads import HeadConfig

HeadFolder = Annotated[Path, typer.Argument(help="Folder of a head, or a name such as nano/beat.")]
ModelOfHead = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="The model of the head, if it was moved.",
        show_default="where it was",
    ),
]


@app.command(rich_help_panel=TRAIN)
def evaluate(
    head: HeadFolder,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="JSON file for the scores.", show_default="none"),
    ] = None,
    model: ModelOfHead = None,
    split: Annotated[
        Literal["test", "all"], typer.Option(help="The test set, or all recordings.")
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
        corpus = read_corpus(data, songs, fraction, None, workers)
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
    head: HeadFolder,
    paths: Annotated[list[Path], typer.Argument(help="Recordings, and folders of them.")],
    out: Out = Path("predictions"),
    model: ModelOfHead = None,
    device: Device = "auto",
    workers: Workers = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do again what is done already.")
    ] = False,
) -> None:
    """Annotate recordings with a head: write a .jams file for each.

    A head for another task, into the same OUT, adds what it finds to the files. A file that cannot
    be read is reported and skipped; a run that was interrupted continues where it stopped.
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
