"""``musicfm convert``, ``export``, ``pretrain`` and ``kmeans``: models."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from musicfm.cli.app import EMBED, TRAIN, Music, Stats, app, interruptible, layers_of, need, say
from musicfm.errors import ConfigError

if TYPE_CHECKING:
    from musicfm.datasets.tracks import Manifest
    from musicfm.pretraining.recipe import Recipe


@app.command(rich_help_panel=EMBED)
def convert(
    source: Annotated[str, typer.Argument(help="A model, as for embed.")],
    destination: Annotated[
        Path, typer.Argument(help="A folder (our layout), or a .pt file (the authors').")
    ],
    stats: Stats = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing model.")
    ] = False,
) -> None:
    """Convert a model between the authors' layout and ours."""
    from musicfm.model import conversion

    conversion.convert(source, destination, stats=stats, overwrite=overwrite)
    say(f"wrote {destination}")


@app.command(rich_help_panel=EMBED)
def export(
    model: Annotated[str, typer.Argument(help="A model, as for embed.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    layer: Annotated[
        str, typer.Option(help="Hidden states, as for embed; deeper blocks are left out.")
    ] = "auto",
    stats: Stats = None,
) -> None:
    """Write a model as ONNX: waveforms in, hidden states out."""
    need("export")
    layers = layers_of(layer)

    from musicfm.embedding.embedder import wanted_layers
    from musicfm.model.export import export_onnx
    from musicfm.model.musicfm import MusicFM

    loaded = MusicFM.from_pretrained(model, stats=stats)
    export_onnx(loaded, out, layers=wanted_layers(loaded, layers))
    say(f"wrote {out}")


@app.command(rich_help_panel=TRAIN)
def pretrain(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="tiny, nano, fm1 to fm9, or a .json or .toml file; see --set. With --resume, "
            "neither RECIPE nor MUSIC is needed.",
            show_default=False,
        ),
    ] = None,
    music: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recordings and folders, a manifest, or shards; also at URLs.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: steps=1000, optimizer.learning_rate=1e-4, ..."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in OUT, if any.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="A model to begin with, as for embed; its architecture replaces the recipe's.",
            show_default="random weights",
        ),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(help="Mean and standard deviation of the mel; musicfm stats writes them."),
    ] = None,
    centroids: Annotated[
        Path | None, typer.Option(help="For k-means tokens; musicfm kmeans writes them.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes GPUs if there are any.")
    ] = "auto",
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine.", show_default="one per GPU, or 1"),
    ] = None,
    nodes: Annotated[
        int, typer.Option(min=1, help="Number of machines; start the command on each.")
    ] = 1,
    sharded: Annotated[
        bool,
        typer.Option(
            "--sharded", help="Divide the model among the processes, if it is too large for one."
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Processes that load clips, for each process.", show_default="1 to 8"
        ),
    ] = None,
) -> None:
    """Train a model on unlabelled music, by masked token modelling.

    OUT gets checkpoints, metrics.jsonl, TensorBoard's events, curves.png, and at the end model/,
    which other commands take as --model. After Ctrl-C or SIGTERM the current step is finished and
    saved; musicfm pretrain --resume --out OUT continues with the recipe and the music of the run.
    """
    need("train")

    from musicfm.datasets.scanning import collect
    from musicfm.pretraining import run
    from musicfm.pretraining.data import hold_out

    if recipe is None and not (resume and os.path.exists(out / "recipe.json")):
        raise ConfigError(
            f"{out} holds no run to continue; give a recipe and music"
            if resume
            else "give a recipe, such as nano, and music; or --resume, to continue the run in OUT"
        )
    if recipe is not None and not music:
        raise ConfigError("give music to learn from: recordings, folders, a manifest or shards")
    if init is not None and stats is not None:
        raise ConfigError("the statistics of the mel come with --init; leave out --stats")
    beginning = [] if init is None else _begin_with(init)
    chosen = _load(recipe or str(out / "recipe.json"), [*beginning, *(settings or [])], stats)

    def tracks() -> "tuple[Manifest, Manifest]":
        if not music:
            raise ConfigError(
                f"the music of the run is not where it was; say where it is: musicfm pretrain "
                f"{out / 'recipe.json'} MUSIC --out {out} --resume"
            )
        return hold_out(collect(music, progress=True).manifest)

    if os.path.isdir(out / "model") and resume:
        say(f"nothing new: the run in {out} is finished; its model is in {out / 'model'}")
    with interruptible(f"to continue: musicfm pretrain --resume --out {out}"):
        outcome = run.pretrain(
            chosen,
            tracks,
            out,
            centroids=centroids,
            resume=resume,
            device=device,
            sharded=sharded,
            processes=processes,
            num_nodes=nodes,
            num_workers=workers,
            progress=True,
        )
    if outcome.stopped_by is not None:
        say(
            f"stopped at step {outcome.step}, which is saved; to continue: "
            f"musicfm pretrain --resume --out {out}"
        )
        raise typer.Exit(128 + outcome.stopped_by)
    say(f"trained {outcome.step} steps; the model is in {outcome.model}")


@app.command(rich_help_panel=TRAIN)
def kmeans(
    recipe: Annotated[
        str, typer.Argument(help="A recipe with k-means tokens, such as fm1, as for pretrain.")
    ],
    music: Music,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value, as for pretrain.")
    ] = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics, as for pretrain.")] = None,
) -> None:
    """Fit the k-means tokens of a recipe, for --centroids of pretrain."""
    need("train")

    from musicfm.datasets.scanning import collect
    from musicfm.pretraining import kmeans as fitting
    from musicfm.pretraining.data import hold_out

    chosen = _load(recipe, settings, stats)
    train, _ = hold_out(collect(music, progress=True).manifest)
    fitted = fitting.fit_centroids(chosen.model, train, chosen.seed, progress=True)
    fitting.save_centroids(fitted, chosen.model, out)
    say(f"wrote {out}")


def _begin_with(init: str) -> list[str]:
    """The settings of a recipe that begins with a model."""
    from musicfm.model import checkpoint

    config, _, _ = checkpoint.read(init)
    lasting = os.path.abspath(init) if os.path.exists(init) else init
    return [f"model={json.dumps(config.to_dict())}", f"init={json.dumps(lasting)}"]


def _load(recipe: str, settings: list[str] | None, stats: Path | None) -> "Recipe":
    """A recipe with what is changed in it, first by statistics of the mel."""
    from musicfm.datasets.statistics import check_measured
    from musicfm.model.published import read_stats
    from musicfm.pretraining.recipe import load_recipe

    options = settings or []
    if stats is None:
        return load_recipe(recipe, options)
    mean, std = read_stats(stats)
    found = load_recipe(recipe, [f"model.mel.mean={mean!r}", f"model.mel.std={std!r}", *options])
    check_measured(stats, found.model.mel)
    return found
