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
    source: Annotated[str, typer.Argument(help="As embed's --model.")],
    destination: Annotated[
        Path, typer.Argument(help="A folder (ours), or a .pt file (published).")
    ],
    stats: Stats = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
) -> None:
    """Convert a model between the authors' layout and ours."""
    from musicfm.model import conversion

    conversion.convert(source, destination, stats=stats, overwrite=overwrite)
    say(f"wrote {destination}")


@app.command(rich_help_panel=EMBED)
def export(
    model: Annotated[str, typer.Argument(help="As embed's --model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    layer: Annotated[
        str, typer.Option(help="Hidden states to give, as embed's; no deeper block is written.")
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
            help="tiny, nano, fm1 to fm9, or a .json or .toml file; see --set. Not needed with "
            "--resume, nor is MUSIC.",
            show_default=False,
        ),
    ] = None,
    music: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recordings and folders; or a manifest, or shards, also at a URL.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: steps=1000, optimizer.learning_rate=1e-4, ..."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT, if any.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="A model to begin with, as embed's --model; the recipe gets its architecture.",
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
        int | None, typer.Option(min=1, help="On this machine.", show_default="one per GPU, or 1")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each started by itself.")] = 1,
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Divide a model that does not fit among the processes."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Loading clips, per process.", show_default="1 to 8")
    ] = None,
) -> None:
    """Train a model on unlabelled music, by masked token modelling.

    The folder gets checkpoints, metrics.jsonl, TensorBoard's events, curves.png, and in the end
    model/, which --model of other commands takes. Ctrl-C and SIGTERM save after the step under way;
    musicfm pretrain --resume --out OUT goes on, with the recipe and the music of the run.
    """
    need("train")

    from musicfm.datasets.scanning import collect
    from musicfm.pretraining import run
    from musicfm.pretraining.data import hold_out

    if recipe is None and not (resume and os.path.exists(out / "recipe.json")):
        raise ConfigError(
            f"{out} holds no run to go on with; give a recipe and music"
            if resume
            else "give a recipe, such as nano, and music; or --resume, to go on with the run in OUT"
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
                f"the music of the run is not where it was; say where: musicfm pretrain "
                f"{out / 'recipe.json'} MUSIC --out {out} --resume"
            )
        return hold_out(collect(music, progress=True).manifest)

    if os.path.isdir(out / "model") and resume:
        say(f"nothing new: the run in {out} is finished; its model is in {out / 'model'}")
    with interruptible(f"musicfm pretrain --resume --out {out} goes on"):
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
            f"stopped at step {outcome.step}, which is saved; "
            f"musicfm pretrain --resume --out {out} goes on"
        )
        raise typer.Exit(128 + outcome.stopped_by)
    say(f"trained {outcome.step} steps; the model is in {outcome.model}")


@app.command(rich_help_panel=TRAIN)
def kmeans(
    recipe: Annotated[str, typer.Argument(help="As pretrain's; of k-means tokens, as fm1's.")],
    music: Music,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="As pretrain's.")] = None,
    stats: Annotated[Path | None, typer.Option(help="As pretrain's.")] = None,
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
