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

import itertools
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.utils.data import DataLoader

import musicfm
from musicfm.datasets.crops import Crops, GlobalBatches
from musicfm.datasets.scanning import identities
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
    printable,
)
from musicfm.files import atomic_write, differences, exclusive, read_object, sweep, writing
from musicfm.model import checkpoint
from musicfm.model.config import RandomProjectionConfig
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.batches import Example, Examples, example_loader
from musicfm.pretraining.checkpoints import (
    checkpoint_path,
    checkpoint_steps,
    latest_valid,
)
from musicfm.pretraining.heartbeat import Heartbeat
from musicfm.pretraining.kmeans import load_centroids
from musicfm.pretraining.metrics import METRICS, draw_curves, read_metrics
from musicfm.pretraining.module import PretrainingModule, build_model
from musicfm.pretraining.recipe import CHANGEABLE, Recipe
from musicfm.seeds import derive_seed
from musicfm.training import AtomicCheckpointIO, check_precision, ending_loaders, quiet

MAX_BROKEN = 0.05
"""Part of the tracks that may break during training, and at least ten, until a run is stopped."""

TRAINING = "training.json"
"""Beside a model: how it was trained."""

_PRECISIONS: dict[str, Any] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    model: Path | None
    """The folder of the finished model; None if the run was stopped before its last step."""
    stopped_by: int | None
    """The signal that stopped it."""


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
        step = _last_step(folder, recipe) if resume else None
        stack.enter_context(quiet())
        accelerator, processes, num_nodes = _hardware(device, processes, num_nodes)
        world_size = processes * num_nodes
        data = _Data(recipe, folder, collect, num_workers, world_size, progress)
        heartbeat = Heartbeat(
            recipe, folder, data.validation_loader, data.note_broken, progress and is_first
        )
        trainer = Trainer(
            accelerator=accelerator,
            devices=processes,
            num_nodes=num_nodes,
            strategy=_strategy(accelerator, world_size, sharded),
            precision=_PRECISIONS[recipe.precision],
            max_steps=recipe.steps,
            accumulate_grad_batches=recipe.accumulation(world_size),
            use_distributed_sampler=False,
            logger=TensorBoardLogger(
                folder, name="", version="tensorboard", purge_step=(step or -1) + 1
            ),
            callbacks=[heartbeat],
            plugins=[AtomicCheckpointIO()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = PretrainingModule(recipe, _model(recipe, centroids, is_new=step is None))
        start = None if step is None else checkpoint_path(folder / "checkpoints", step)
        if is_first:
            check_precision(recipe.precision, accelerator)
            data.prepare_data()  # not within fit, which would make of Ctrl-C an exit without a word
        with ending_loaders():
            trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        if trainer.global_step < recipe.steps:
            return Outcome(trainer.global_step, None, heartbeat.stopped_by)
        if trainer.is_global_zero:
            _conclude(folder, recipe, data)
        return Outcome(trainer.global_step, folder / "model", None)


class _Data(LightningDataModule):
    """The clips of a run."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        collect: Callable[[], tuple[Manifest, Manifest]],
        num_workers: int | None,
        world_size: int,
        progress: bool,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # all machines share the run's folder
        self._recipe, self._folder, self._collect = recipe, folder, collect
        cores = (os.cpu_count() or 1) // world_size
        self._num_workers = max(1, min(8, cores - 1)) if num_workers is None else num_workers
        self._world_size, self._progress = world_size, progress
        self._is_settled = False
        self._broken: dict[str, str] = {}

    def prepare_data(self) -> None:
        """In the first process: settles what the run is about, once, before Lightning asks too."""
        if self._is_settled:
            return
        self._is_settled = True
        if os.path.exists(self._folder / "recipe.json"):
            self._go_on()
            return
        train, valid = self._collect()
        _check_tracks(train)
        _check_tracks(valid)
        if not len(train):
            raise DataError("there are no tracks to learn from; give more music")
        train.save(self._folder / "train.parquet")
        valid.save(self._folder / "valid.parquet")
        with atomic_write(self._folder / "recipe.json") as temporary:
            temporary.write_text(json.dumps(self._recipe.to_dict(), indent=2) + "\n")

    def _go_on(self) -> None:
        """With the tracks that the run began with; if they are there no more, with the same ones
        among those given.

        Raises DataError if these have not all of them.
        """
        paths = [self._folder / name for name in ("train.parquet", "valid.parquet")]
        parts = [Manifest.load(path) for path in paths]
        away = [(path, part) for path, part in zip(paths, parts, strict=True) if _is_away(part)]
        if away:
            given = self._collect()
            for path, part in away:  # either by itself: a kill may come between the two
                _found_again(part, given).save(path)
        if self._progress:
            where = printable(str(paths[0]))
            print(
                f"going on with the {len(parts[0])} tracks that the run began with ({where})",
                file=sys.stderr,
            )

    def setup(self, stage: str) -> None:
        self.train = Manifest.load(self._folder / "train.parquet")
        self.valid = Manifest.load(self._folder / "valid.parquet")

    def train_dataloader(self) -> DataLoader[Example]:
        """From the step on that the trainer has come to."""
        assert self.trainer is not None
        batches = GlobalBatches(
            self._recipe.batch_size,
            self._recipe.micro_batch_size,
            self.trainer.global_rank,
            self._world_size,
            self.trainer.global_step,
        )
        return example_loader(self._examples(self.train, "train"), batches, self._num_workers)

    def validation_loader(self) -> DataLoader[Example] | None:
        """This process's share of the held-out clips, always the same ones."""
        assert self.trainer is not None
        if not len(self.valid):
            return None
        size = self._recipe.micro_batch_size
        share = range(self.trainer.global_rank, self._recipe.validation_clips, self._world_size)
        batches = [list(share[first : first + size]) for first in range(0, len(share), size)]
        return example_loader(self._examples(self.valid, "valid"), batches, self._num_workers)

    def note_broken(self, broken: Sequence[tuple[str, str]]) -> None:
        """Writes down what could not be read. Raises TrainingError when it is too much."""
        assert self.trainer is not None
        path = self._folder / f"broken.{self.trainer.global_rank}.jsonl"
        for track, reason in broken:
            if track not in self._broken:
                self._broken[track] = reason
                with writing(path), path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"path": track, "reason": reason}) + "\n")
        if len(self._broken) > max(10, MAX_BROKEN * len(self.train)):
            reasons = "; ".join(list(self._broken.values())[:3])
            raise TrainingError(
                f"{len(self._broken)} of {len(self.train)} tracks cannot be read ({reasons}; all "
                f"are listed in {path}); repair or remove them, and resume"
            )

    def _examples(self, manifest: Manifest, purpose: str) -> Examples:
        model, seed = self._recipe.model, derive_seed(self._recipe.seed, purpose)
        crops = Crops(
            manifest, model.sample_rate, model.context_seconds, model.mel.min_samples, seed
        )
        return Examples(crops, model, self._recipe.masking, seed)


def _is_away(manifest: Manifest) -> bool:
    """Whether tracks that were on this machine are not where they were: none of three."""
    if isinstance(manifest.root, str) or not len(manifest):
        return False
    some = (manifest[index] for index in (0, len(manifest) // 2, -1))
    return not any(os.path.exists(manifest.root / (track.shard or track.path)) for track in some)


def _found_again(manifest: Manifest, given: Sequence[Manifest]) -> Manifest:
    """The same tracks by their bytes, in the same order, where they are now. Raises DataError."""
    places: dict[str, list[Track]] = {}
    for track in itertools.chain(*given):
        places.setdefault(track.sha256, []).append(track)
    missing = [track for track in manifest if track.sha256 not in places]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(manifest)} tracks that the run began with are neither "
            f"where they were nor in the music given, such as {missing[0].path}; give the music "
            "that it began with"
        )
    found = []
    for track in manifest:
        here = places[track.sha256]
        found.append(replace(here.pop() if len(here) > 1 else here[0], split=track.split))
    return Manifest(given[0].root, found)


def _is_first_process() -> bool:
    """Before Lightning knows: torchrun's, SLURM's and Lightning's own variables."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def hold_out(manifest: Manifest, part: float = 0.05) -> tuple[Manifest, Manifest]:
    """Tracks to learn from and tracks held out, by their splits; those for testing are in neither.

    Where nothing is in a split yet, about ``part`` of the artists are held out, or of the tracks
    where artists are not known.
    """
    for by in ("artist", "track"):
        divided = split(manifest, Splitting(valid=part, by=by))
        train, valid = divided.of_split("train"), divided.of_split("valid")
        if len(train) and len(valid):
            break
    return train, valid


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
    return sorted({*differences(there, recipe.to_dict())} - CHANGEABLE)


def _check_launcher() -> None:
    """Warns of a torchrun whose restarts may hang: https://github.com/pytorch/pytorch/issues/135712."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        message = (
            "processes that torchrun starts again may wait for each other for ever; set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
        warnings.warn(message, stacklevel=3)


def _last_step(folder: Path, recipe: Recipe) -> int | None:
    """The step to go on from, if there is one. Raises CheckpointError."""
    if not checkpoint_steps(folder / "checkpoints"):
        return None
    step, damaged = latest_valid(folder / "checkpoints")
    for message in damaged:
        warnings.warn(message, stacklevel=3)
    _check_checkpoint(checkpoint_path(folder / "checkpoints", step), recipe)
    return step


def _check_checkpoint(path: Path, recipe: Recipe) -> None:
    """Raises CheckpointError unless a whole checkpoint is of this run."""
    content = AtomicCheckpointIO().load_checkpoint(path)
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


def _check_tracks(manifest: Manifest) -> None:
    """Raises DataError if a track is reserved for testing."""
    reserved = [track for track in manifest if track.reserved]
    if reserved:
        first = reserved[0]
        raise DataError(
            f"{len(reserved)} tracks are reserved for testing, such as {first.path} "
            f"({first.reserved}); pretrain without them"
        )


def _model(recipe: Recipe, centroids: Path | None, is_new: bool) -> MusicFM:
    """The model before the first step. Raises ConfigError if its tokens are not fitted."""
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
            data_parallel_size=world_size,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
        )
    return DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)


def _conclude(folder: Path, recipe: Recipe, data: _Data) -> None:
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
    with atomic_write(folder / "model" / TRAINING) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
    checkpoint.write_tracks(folder / "model", identities(data.train))
    draw_curves(rows, folder / "curves.png")
    last_checkpoint = checkpoint_path(folder / "checkpoints", recipe.steps)
    checkpoint.save(MusicFM.from_pretrained(last_checkpoint), folder / "model")
