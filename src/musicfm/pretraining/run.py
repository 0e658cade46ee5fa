"""A pretraining run: from a recipe and a collection to a model folder. ``musicfm pretrain``.

A run has a folder of its own:

    recipe.json               the recipe, with every value
    train.parquet             the tracks to learn from
    valid.parquet             the tracks held out
    checkpoints/              the last few and the best
    metrics.jsonl             a line for every log line; tensorboard/ holds the same
    broken.0.jsonl            what could not be read
    curves.png                when it is done
    model/                    when it is done: what ``from_pretrained`` loads
"""

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

import musicfm
from musicfm.datasets.scanning import identities
from musicfm.datasets.tracks import Manifest
from musicfm.errors import CheckpointError, ConfigError, OutputError
from musicfm.files import differences, exclusive, read_object, sweep, write_json
from musicfm.model import checkpoint
from musicfm.model.config import RandomProjectionConfig
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.checkpoints import checkpoint_path, checkpoint_steps, latest_valid
from musicfm.pretraining.data import RunData
from musicfm.pretraining.kmeans import load_centroids
from musicfm.pretraining.loop import Pretraining, divide
from musicfm.pretraining.metrics import METRICS, draw_curves, read_metrics
from musicfm.pretraining.recipe import CHANGEABLE, Recipe
from musicfm.seeds import derive_seed
from musicfm.training import TRAINING, Outcome, check_precision, ending_loaders, load_checkpoint


def pretrain(
    recipe: Recipe,
    collect: Callable[[], tuple[Manifest, Manifest]],
    out: str | os.PathLike[str],
    *,
    centroids: Path | None = None,
    resume: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    sharded: bool = False,
    processes: int | None = None,
    num_nodes: int = 1,
    num_workers: int | None = None,
    progress: bool = False,
) -> Outcome:
    """Trains a model from nothing, or continues a run that was interrupted.

    On the CPU, a run that is interrupted and resumed has the same losses as one that was not, to
    the last bit. In a process that was started by ``torchrun`` or SLURM, it takes its part; else
    it starts as many processes as are asked for.

    Args:
        recipe: what to do.
        collect: gives the tracks to learn from and those held out; called by the first process,
            of a new run, or where those of the run are not where they were.
        out: the folder of the run.
        centroids: of a recipe whose tokens are k-means, as :mod:`musicfm.pretraining.kmeans`
            writes them.
        resume: continue the run in ``out`` from its last whole checkpoint, if there is one.
        device: to compute on; "auto" takes GPUs where there are some.
        sharded: divide weights, gradients and optimizer among the processes (FSDP2), for models
            that do not fit into one.
        processes: on this machine; None: one per GPU, or one on a CPU.
        num_nodes: machines.
        num_workers: processes that load clips, for each process that trains.
        progress: show a bar on standard error.

    Raises:
        ConfigError: settings that make no sense together, or differ from the run to be resumed.
        DataError: no tracks, or tracks that are reserved for testing.
        OutputError: the folder cannot be written, is in use, or holds another run.
        CheckpointError: all checkpoints to resume from are damaged.
        TrainingError: gradients are not finite any more, or too many files are broken.
    """
    folder = Path(out)
    is_first = _is_first_process()
    with ExitStack() as stack:
        if is_first:
            stack.enter_context(exclusive(folder, ".lock"))
            sweep(folder)
            _check_folder(folder, recipe, resume)
            _check_launcher()
        last = _last_checkpoint(folder, recipe) if resume else None
        accelerator, processes, num_nodes = _hardware(device, processes, num_nodes)
        world_size = processes * num_nodes
        recipe.accumulation(world_size)  # raises if the batch cannot be shared
        data = RunData(recipe, folder, num_workers, world_size)
        model = _model(recipe, centroids, is_new=last is None)
        if is_first:
            check_precision(recipe.precision, accelerator)
            data.settle(collect, progress)
        fabric = Fabric(
            accelerator=accelerator,
            devices=processes,
            num_nodes=num_nodes,
            strategy=_strategy(accelerator, world_size, sharded),
        )
        fabric.launch()
        data.load(fabric.global_rank)
        training = Pretraining(fabric, recipe, model, folder, data, progress and is_first)
        if last is not None:
            training.load_state_dict(last)
            del last
        with ending_loaders():
            stopped_by = training.run()
        if stopped_by is not None:
            return Outcome(training.step, None, stopped_by)
        if fabric.is_global_zero:
            _conclude(folder, recipe, data)
        return Outcome(training.step, folder / "model", None)


def _is_first_process() -> bool:
    """Before Fabric knows: by torchrun's, SLURM's and Fabric's own variables."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def _check_folder(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raises unless a run may begin in a folder, or go on there with this recipe."""
    path = folder / "recipe.json"
    if not os.path.exists(path):
        return
    if not resume:
        raise OutputError(f"{folder} holds a run; resume it (--resume), or use another folder")
    there = read_object(path, "begin again in another folder")
    if differing := _differing(there, recipe):
        raise ConfigError(
            f"the run in {folder} has another recipe ({', '.join(differing)} differ); resume it "
            "with the recipe that it began with, or use another folder"
        )


def _differing(there: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """The keys of a recipe in which another differs, but for those that may change."""
    return sorted({*differences({"init": "", **there}, recipe.to_dict())} - CHANGEABLE)


def _check_launcher() -> None:
    """Warns of a torchrun whose restarts may hang: https://github.com/pytorch/pytorch/issues/135712."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        message = (
            "processes that torchrun starts again may wait for each other for ever; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
        warnings.warn(message, stacklevel=3)


def _last_checkpoint(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The checkpoint to go on from, if there is one. Raises CheckpointError."""
    if not checkpoint_steps(folder / "checkpoints"):
        return None
    step, damaged = latest_valid(folder / "checkpoints")
    for message in damaged:
        warnings.warn(message, stacklevel=3)
    path = checkpoint_path(folder / "checkpoints", step)
    content = load_checkpoint(path)
    try:
        differing = _differing(content["musicfm"]["recipe"], recipe)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of a pretraining run; remove it, and resume"
        ) from error
    if differing:
        raise CheckpointError(
            f"{path} is of another recipe ({', '.join(differing)} differ); remove it, and resume"
        )
    return content


def build_model(recipe: Recipe) -> MusicFM:
    """The model before the first step, the same wherever it is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        return MusicFM(recipe.model)


def _model(recipe: Recipe, centroids: Path | None, is_new: bool) -> MusicFM:
    """The model before the first step.

    Raises ConfigError if its tokens are not fitted, or a run is to begin with a model that is not
    that of the recipe.
    """
    if is_new and recipe.init:
        if centroids is not None:
            raise ConfigError(
                f"tokens come with the model '{recipe.init}'; leave out the centroids"
            )
        model = MusicFM.from_pretrained(recipe.init)
        if differing := sorted(differences(model.config.to_dict(), recipe.model.to_dict())):
            raise ConfigError(
                f"the model '{recipe.init}' is not that of the recipe ({', '.join(differing)} "
                "differ); begin with it (--init), and set nothing of model"
            )
        return model.train()
    model = build_model(recipe)
    is_fitted = isinstance(recipe.model.quantizer, RandomProjectionConfig)
    if is_fitted and centroids is not None:
        raise ConfigError("this recipe's tokens are random projections; leave out the centroids")
    if centroids is not None:
        load_centroids(model, centroids)
    elif is_new and not is_fitted:
        raise ConfigError(
            "this recipe predicts k-means tokens, which have to be fitted first; run musicfm "
            "kmeans, and give what it writes as --centroids"
        )
    return model


def _hardware(device: str, processes: int | None, num_nodes: int) -> tuple[str, int, int]:
    """The accelerator, processes per machine, and machines."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here; use another device")
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun's
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return accelerator, per_node, int(os.environ["WORLD_SIZE"]) // per_node
    if processes is None:
        processes = torch.cuda.device_count() if accelerator == "cuda" else 1
    if accelerator == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(f"{processes} processes need as many GPUs; give fewer")
    return accelerator, processes, num_nodes


def _strategy(accelerator: str, world_size: int, sharded: bool) -> Strategy | str:
    if world_size == 1:
        return "auto"
    backend = "nccl" if accelerator == "cuda" else "gloo"
    if sharded:
        return ModelParallelStrategy(
            divide,
            data_parallel_size=world_size,
            tensor_parallel_size=1,
            process_group_backend=backend,
        )
    return DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)


def _conclude(folder: Path, recipe: Recipe, data: RunData) -> None:
    """Writes the model, how it came about, and the curves."""
    rows = read_metrics(folder / METRICS)
    last = {key: value for row in rows for key, value in row.items() if value is not None}
    facts = {
        "musicfm": musicfm.__version__,
        "recipe": recipe.to_dict(),
        "data": {
            "digest": data.train.digest(),
            "tracks": len(data.train),
            "hours": data.train.seconds / 3600,
        },
        "hours_heard": recipe.steps * recipe.batch_size * recipe.model.context_seconds / 3600,
        "metrics": last,
    }
    before: list[str] | None = []
    if recipe.init:
        path = (checkpoint.folder_of(recipe.init) or Path(recipe.init)) / TRAINING
        there = os.path.isfile(path)
        facts["begins_with"] = read_object(path, "repair it, or remove it") if there else None
        before = checkpoint.tracks_of(recipe.init)
    write_json(folder / "model" / TRAINING, facts, indent=2)
    checkpoint.write_tracks(folder / "model", before, identities(data.train))
    draw_curves(rows, folder / "curves.png")
    last_checkpoint = checkpoint_path(folder / "checkpoints", recipe.steps)
    checkpoint.save(MusicFM.from_pretrained(last_checkpoint), folder / "model")
