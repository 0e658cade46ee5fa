"""Fine-tuning: a model and a head trained together on a task.

The paper's protocol: clips of the task's length, the last hidden state, and learning rates of 1e-5
for the model and 1e-4 for the head; the rest was not published. Training stops when the loss on
validation does not fall any more, and the best epoch is kept; then the decoding is chosen on whole
recordings. With ``from_scratch`` the model begins with random weights: what labels alone give.

A run has a folder of its own:

    head.safetensors, head.json   when it is done: the head, beside
    model/                        the model that it belongs to
    training_tracks.txt           what it learnt from; the one of the model has more
    fit.json                      losses, and scores on validation
    checkpoints/                  the last epoch and the best, until it is done

After each epoch all is saved; the same call continues a run that was stopped.
"""

import math
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from musicfm.audio import reading
from musicfm.audio.processes import num_cores
from musicfm.datasets.crops import permuted
from musicfm.datasets.labelled import LabelledTrack, digest
from musicfm.datasets.scanning import identities
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.pooling import pooled_times
from musicfm.errors import AudioError, AudioWarning, ConfigError
from musicfm.files import claim, exclusive, sweep
from musicfm.model import checkpoint
from musicfm.model.config import Config, ModelConfig, Positive
from musicfm.model.musicfm import MusicFM
from musicfm.progress import Steps
from musicfm.seeds import derive_seed
from musicfm.tasks import heads
from musicfm.tasks.base import Task
from musicfm.tasks.evaluation import listen
from musicfm.tasks.heads import MODEL, Head, HeadConfig, build_task
from musicfm.tasks.names import TaskName
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import choose_decoding, labelled
from musicfm.tasks.trials import FIT, RUN, STUDY, write_fit
from musicfm.training import (
    AtomicCheckpointIO,
    begin_loading,
    check_precision,
    ending_loaders,
    quiet,
)

_PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class FinetuneSettings(Config):
    """How a model is fine-tuned."""

    model_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    head_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    batch_size: Positive = 8
    """Clips of the task's length."""
    max_epochs: Positive = 30
    epoch_clips: Positive = 512
    """Of an epoch, after which validation is looked at. From as many passes over the recordings as
    that takes, so that with few of them there is no less time to learn."""
    patience: Positive = 5
    """Epochs without a lower validation loss until it stops."""
    from_scratch: bool = False
    """Begin with random weights; both learning rates should be higher then, see SCRATCH."""
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def epoch_steps(self) -> int:
        """Batches of an epoch."""
        return -(-self.epoch_clips // self.batch_size)


SCRATCH = FinetuneSettings(
    from_scratch=True, model_learning_rate=1e-3, head_learning_rate=1e-3, max_epochs=60, patience=10
)


@dataclass(frozen=True)
class Clip:
    """A piece of a labelled recording; beyond its end is silence, of which nothing is known."""

    samples: Tensor
    """(samples,)."""
    values: Tensor
    known: Tensor


class Clips(Dataset[Clip]):
    """Clips of a task's length.

    Args:
        tracks: the recordings.
        task: whose targets.
        config: of the model.
        seed: None: clips follow one another through each recording. Else they are at random
            places, in random order: clip n is a function of (seed, n), over any number of passes.

    A file that cannot be read gives silence of which nothing is known, and a warning.
    """

    def __init__(
        self,
        tracks: Sequence[LabelledTrack],
        task: Task[Any],
        config: ModelConfig,
        seed: int | None,
    ) -> None:
        self._tracks, self._task, self._config, self._seed = tuple(tracks), task, config, seed
        self._size = round(task.clip_seconds * config.sample_rate)
        self._places = [
            (track, k)
            for track, item in enumerate(tracks)
            for k in range(max(1, int(-(-item.track.duration // task.clip_seconds))))
        ]

    def __len__(self) -> int:
        """Clips of one pass over the recordings."""
        return len(self._places)

    def __getitem__(self, n: int) -> Clip:
        passes, index = divmod(n, len(self))
        if self._seed is not None:
            index = permuted(index, len(self), derive_seed(self._seed, "order", passes))
        number, place = self._places[index]
        item = self._tracks[number]
        room = max(0.0, item.track.duration - self._task.clip_seconds)
        if self._seed is None:
            start = min(place * self._task.clip_seconds, room)
        else:
            start = room * derive_seed(self._seed, "start", n) / 2**63
        return self._load(item, start)

    def _load(self, item: LabelledTrack, start: float) -> Clip:
        rate = self._config.sample_rate
        samples = np.zeros(self._size, np.float32)
        try:
            found = reading.load(
                item.audio, rate, start_seconds=start, duration_seconds=self._task.clip_seconds
            )[: self._size]
        except AudioError as error:
            warnings.warn(f"{error}; it is left out", AudioWarning, stacklevel=2)
            found = samples[:0]
        samples[: len(found)] = found
        num_frames = self._config.num_frames(self._size)
        inside = pooled_times(num_frames, self._config.frame_rate, self._task.output_rate)
        values, known = self._task.targets(item.annotations, start + inside)
        ends = np.arange(1, len(inside) + 1) / len(inside) * self._size
        # Of a task with one output per clip, an end that is missing does not matter.
        heard = len(found) > 0 if self._task.rate is None else ends <= len(found) + rate // 50
        known = known & np.reshape(heard, (-1,) + (1,) * (known.ndim - 1))
        return Clip(
            torch.from_numpy(samples),
            torch.from_numpy(values).float(),
            torch.from_numpy(known),
        )


def _join(clips: list[Clip]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.stack([clip.samples for clip in clips]),
        torch.stack([clip.values for clip in clips]),
        torch.stack([clip.known for clip in clips]),
    )


class _TaskModel(LightningModule):
    """A model with a head, as Lightning trains it."""

    def __init__(self, model: MusicFM, head: Head, settings: FinetuneSettings) -> None:
        super().__init__()
        self.model, self.head, self._settings = model, head, settings
        self.losses: list[tuple[float, float]] = []
        # Of losses and weights; added up where they are, since a GPU would wait for each number.
        self._sums: dict[str, tuple[Tensor | float, Tensor | float]] = {}

    def forward(self, waveform: Tensor, num_outputs: int) -> Tensor:
        """Logits of clips, (batch, num_outputs, num_logits)."""
        (states,) = self.model(waveform, layers=[-1]).hidden_states
        # In both directions the bins of musicfm.embedding.pooling.
        pooled = F.adaptive_avg_pool1d(states.transpose(1, 2), num_outputs).transpose(1, 2)
        return cast(Tensor, self.head(pooled[:, None].float()))

    def configure_optimizers(self) -> Any:
        settings = self._settings
        optimizer = torch.optim.AdamW(
            [
                {"params": self.model.parameters(), "lr": settings.model_learning_rate},
                {"params": self.head.parameters(), "lr": settings.head_learning_rate},
            ]
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / max(1, settings.warmup_steps))
        )
        return [optimizer], [{"scheduler": warmup, "interval": "step"}]

    def on_train_batch_start(self, *_: Any) -> None:
        # Dropout follows from the step, so that a run that is continued is the same run.
        torch.manual_seed(derive_seed(self._settings.seed, "dropout", self.global_step))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self._loss(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        self._loss(batch, "valid")

    def on_validation_epoch_end(self) -> None:
        train, valid = (self._take(purpose) for purpose in ("train", "valid"))
        self.losses.append((train, valid))
        self.log("valid_loss", valid)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses = [tuple(pair) for pair in checkpoint["losses"]]

    def _loss(self, batch: tuple[Tensor, Tensor, Tensor], purpose: str) -> Tensor:
        waveform, values, known = batch
        loss = self.head.task.loss(self(waveform, values.shape[1]), values, known)
        total, weight = self._sums.get(purpose, (0.0, 0.0))
        self._sums[purpose] = total + loss.total.detach(), weight + loss.weight
        return loss.mean

    def _take(self, purpose: str) -> float:
        total, weight = (float(value) for value in self._sums.pop(purpose))
        return total / max(weight, 1.0)


class _Bar(Callback):
    """A bar over the clips of each epoch, and a line when it is done."""

    def __init__(self, settings: FinetuneSettings, enabled: bool) -> None:
        self._settings, self._enabled = settings, enabled

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        what = f"Epoch {trainer.current_epoch + 1} of {self._settings.max_epochs} at most"
        self._bar = Steps(what, self._settings.epoch_steps, self._enabled)
        self._bar.__enter__()
        self._begin = time.monotonic()

    def on_train_batch_end(self, *_: Any) -> None:
        self._bar.advance()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        losses = cast(_TaskModel, pl_module).losses
        train, valid = losses[-1]
        is_best = valid <= min(loss for _, loss in losses)
        if self._enabled:
            self._bar.say(
                f"epoch {trainer.current_epoch + 1}: loss {train:.4f}, on validation {valid:.4f}"
                f"{' (the lowest)' if is_best else ''}, {time.monotonic() - self._begin:.0f} s"
            )
        self._bar.__exit__(None, None, None)


def finetune(
    name: TaskName,
    vocabulary: tuple[str, ...],
    model: MusicFM,
    model_name: str,
    settings: FinetuneSettings,
    train: Sequence[LabelledTrack],
    valid: Sequence[LabelledTrack],
    out: Path,
    *,
    device: str = "cpu",
    num_workers: int | None = None,
    progress: bool = False,
) -> None:
    """Fine-tunes a model, or goes on with a run that was stopped; nothing happens if it is done.

    Args:
        name: of the task.
        vocabulary: of tagging.
        model: to begin with; it is changed.
        model_name: what it is called, for people.
        settings: how.
        train: to learn from.
        valid: to stop by, and to choose the decoding on.
        out: the folder of the run.
        device: to compute on.
        num_workers: processes that load clips; None: all cores but one.
        progress: show bars on standard error.

    Raises:
        DataError: no recordings are labelled for the task.
        ConfigError: the folder holds a run of other settings.
        OutputError: it cannot be written, or is in use.
    """
    task = build_task(name, vocabulary)
    train, valid = labelled(task, train, "training"), labelled(task, valid, "validation")
    config = HeadConfig(
        task=name,
        vocabulary=vocabulary,
        model=model_name,
        fingerprint=checkpoint.fingerprint(model),
        layers=(model.num_layers - 1,),
        dim=model.config.encoder.dim,
        context="paper",
    )
    with exclusive(out, ".lock"), quiet():
        sweep(out)
        _check_folder(out, config, settings, train, valid)
        if os.path.isfile(out / FIT):
            return
        begin = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, "weights"))
            begun = MusicFM(model.config) if settings.from_scratch else model
            # A model that was loaded is in eval mode, and Lightning would leave it so.
            module = _TaskModel(begun, Head(config), settings).train()
            _train(module, task, train, valid, out, device, num_cores(num_workers, 1), progress)
        head, tuned = module.head.eval(), module.model.eval()
        head.config = config.replace(fingerprint=checkpoint.fingerprint(tuned))
        with tempfile.TemporaryDirectory(dir=out) as cache:
            embedder = Embedder(tuned.to(device), config.layers, context_seconds=task.clip_seconds)
            predictor = Predictor((head,), embedder, model_name)
            recordings, _ = listen(
                predictor, valid, Path(cache), num_workers=num_workers, progress=progress
            )
            validation = choose_decoding(head, labelled(task, recordings, "validation"))
        checkpoint.save(tuned, out / MODEL)
        heads.save(head, out)
        learnt = identities(item.track for item in (*train, *valid))
        checkpoint.write_tracks(out, learnt)
        heard = _heard_before(settings, model_name)
        both = None if heard is None else dict.fromkeys((*heard, *learnt))
        checkpoint.write_tracks(out / MODEL, both)
        write_fit(
            out,
            task.objective(validation.summary),
            validation.summary,
            module.losses,
            settings,
            (len(train), len(valid)),
            time.monotonic() - begin,
        )
        shutil.rmtree(out / "checkpoints")


def _heard_before(settings: FinetuneSettings, model_name: str) -> list[str] | None:
    """What a model was trained on before it is fine-tuned; None if that is not known."""
    if settings.from_scratch:
        return []
    folder = checkpoint.folder_of(model_name)
    return None if folder is None else checkpoint.read_tracks(folder)


def _train(
    module: _TaskModel,
    task: Task[Any],
    train: Sequence[LabelledTrack],
    valid: Sequence[LabelledTrack],
    out: Path,
    device: str,
    num_workers: int,
    progress: bool,
) -> None:
    """Trains until validation does not improve; leaves the weights of the best epoch."""
    settings, config = module._settings, module.model.config
    learnt = Clips(train, task, config, derive_seed(settings.seed, "clips"))
    held_out = Clips(valid, task, config, None)
    options: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "num_workers": num_workers,
        "collate_fn": _join,
        "worker_init_fn": begin_loading,
        "persistent_workers": False,
    }
    folder, accelerator = out / "checkpoints", torch.device(device).type
    check_precision(settings.precision, accelerator)
    stopping = EarlyStopping("valid_loss", patience=settings.patience, check_finite=True)
    best = ModelCheckpoint(
        folder, "best", "valid_loss", save_last=True, enable_version_counter=False
    )
    trainer = Trainer(
        accelerator=accelerator,
        devices=[torch.device(device).index or 0] if device.startswith("cuda") else 1,
        precision=_PRECISIONS[settings.precision],
        max_epochs=settings.max_epochs,
        logger=False,
        callbacks=[_Bar(settings, progress), stopping, best],
        plugins=[AtomicCheckpointIO()],
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = _Loaders(learnt, held_out, settings, options)
    last = folder / "last.ckpt"
    if not os.path.isfile(last) or _is_unfinished(
        AtomicCheckpointIO().load_checkpoint(last), settings
    ):
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            with ending_loaders():
                trainer.fit(
                    module, datamodule=data, ckpt_path=last if os.path.isfile(last) else None
                )
        except SystemExit as error:  # what Lightning makes of Ctrl-C, which it then ignores
            signal.signal(signal.SIGINT, interrupt)
            raise KeyboardInterrupt from error
    else:
        module.on_load_checkpoint(AtomicCheckpointIO().load_checkpoint(last))
    if not any(math.isfinite(valid) for _, valid in module.losses):
        raise ConfigError(
            f"the training in {folder.parent} is NaN, as it does where learning rates "
            "are too high; lower them (--learning-rates), and take another folder"
        )
    state = AtomicCheckpointIO().load_checkpoint(folder / "best.ckpt")["state_dict"]
    module.load_state_dict(state)


def _is_unfinished(last: Mapping[str, Any], settings: FinetuneSettings) -> bool:
    """Whether a run that was stopped had more epochs to come."""
    valid = [loss for _, loss in last["losses"]]
    since_best = len(valid) - 1 - int(np.argmin(valid))
    return len(valid) < settings.max_epochs and since_best < settings.patience


class _Loaders(LightningDataModule):
    """Clips for each epoch."""

    def __init__(
        self, train: Clips, valid: Clips, settings: FinetuneSettings, options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._train, self._valid = train, valid
        self._settings, self._options = settings, options

    def train_dataloader(self) -> DataLoader[Clip]:
        """Those of the epoch that the trainer has come to."""
        assert self.trainer is not None
        # Not its current_epoch, which a run that is continued does not know yet.
        epoch = self.trainer.global_step // self._settings.epoch_steps
        size = self._settings.epoch_clips
        numbers = range(epoch * size, (epoch + 1) * size)
        return DataLoader(self._train, sampler=numbers, **self._options)

    def val_dataloader(self) -> DataLoader[Clip]:
        return DataLoader(self._valid, **self._options)


def _check_folder(
    out: Path,
    config: HeadConfig,
    settings: FinetuneSettings,
    train: Sequence[LabelledTrack],
    valid: Sequence[LabelledTrack],
) -> None:
    """Raises ConfigError if the folder holds a run of other settings."""
    content = {
        "head": config.to_dict(),
        "settings": settings.to_dict(),
        "train": digest(train),
        "valid": digest(valid),
    }
    if os.path.isfile(out / STUDY):
        raise ConfigError(f"{out} holds a study of probes; choose another folder")
    claim(out / RUN, content, "a run")
