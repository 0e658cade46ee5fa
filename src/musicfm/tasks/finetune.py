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
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor, nn
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
from musicfm.tasks.evaluation import encode_tracks
from musicfm.tasks.heads import MODEL, Head, HeadConfig, build_task
from musicfm.tasks.names import TaskName
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import choose_decoding, labelled
from musicfm.tasks.trials import FIT, RUN, STUDY, write_fit
from musicfm.training import (
    Training,
    begin_loading,
    check_precision,
    ending_loaders,
    load_checkpoint,
    on_device,
    save_checkpoint,
)


class FinetuneSettings(Config):
    """How a model is fine-tuned."""

    model_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-5
    head_learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    batch_size: Positive = 8
    """Clips of the task's length."""
    max_epochs: Positive = 30
    epoch_clips: Positive = 512
    """Clips of an epoch, after which validation is looked at. They are of as many passes over the
    recordings as that takes, so that with few of them there is no less time to learn."""
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


class Clip(NamedTuple):
    """A piece of a labelled recording, or a batch of them; beyond its end is silence, of which
    nothing is known.
    """

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
        is_there = len(found) > 0 if self._task.rate is None else ends <= len(found) + rate // 50
        known = known & np.reshape(is_there, (-1,) + (1,) * (known.ndim - 1))
        return Clip(
            torch.from_numpy(samples),
            torch.from_numpy(values).float(),
            torch.from_numpy(known),
        )


class _TaskModel(nn.Module):
    """A model with a head on its last hidden state."""

    def __init__(self, model: MusicFM, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, waveform: Tensor, num_outputs: int) -> Tensor:
        """Logits of clips, (batch, num_outputs, num_logits)."""
        (states,) = self.model(waveform, layers=[-1]).hidden_states
        # In both directions the bins of musicfm.embedding.pooling.
        pooled = F.adaptive_avg_pool1d(states.transpose(1, 2), num_outputs).transpose(1, 2)
        return cast(Tensor, self.head(pooled[:, None].float()))


class _Finetuning(Training[Clip]):
    """The optimizer steps of a fine-tuning."""

    def __init__(self, fabric: Fabric, model: _TaskModel, settings: FinetuneSettings) -> None:
        self._model, self._settings = model, settings
        super().__init__(fabric, model, settings.precision)
        # Of losses and weights; added up where they are, since a GPU would wait for each number.
        self._sums: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)

    def make_optimizer(self) -> torch.optim.Optimizer:
        model, head = self._model.model.parameters(), self._model.head.parameters()
        return torch.optim.AdamW([{"params": model}, {"params": head}])

    def learning_rates(self, step: int) -> Sequence[float]:
        settings = self._settings
        factor = min(1.0, (step + 1) / max(1, settings.warmup_steps))
        return settings.model_learning_rate * factor, settings.head_learning_rate * factor

    def loss(self, batch: Clip, micro_step: int = 0) -> Tensor:
        torch.manual_seed(derive_seed(self._settings.seed, "dropout", self.step))
        waveform, values, known = batch
        loss = self._model.head.task.loss(self.module(waveform, values.shape[1]), values, known)
        total, weight = self._sums
        self._sums = total + loss.total.detach(), weight + loss.weight
        return loss.mean

    def take_loss(self) -> float:
        """The mean since it was last taken."""
        total, weight = (float(value) for value in self._sums)
        self._sums = (0.0, 0.0)
        return total / max(weight, 1.0)


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
    with exclusive(out, ".lock"):
        sweep(out)
        _check_folder(out, config, settings, train, valid)
        if os.path.isfile(out / FIT):
            return
        begin = time.monotonic()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, "weights"))
            begun = MusicFM(model.config) if settings.from_scratch else model
            module = _TaskModel(begun, Head(config))
            workers = num_cores(num_workers, 1)
            losses = _train(module, settings, train, valid, out, device, workers, progress)
        head, tuned = module.head.eval(), module.model.eval()
        head.config = config.replace(fingerprint=checkpoint.fingerprint(tuned))
        with tempfile.TemporaryDirectory(dir=out) as cache:
            embedder = Embedder(tuned.to(device), config.layers, context_seconds=task.clip_seconds)
            predictor = Predictor((head,), embedder, model_name)
            recordings, _ = encode_tracks(
                predictor, valid, Path(cache), num_workers=num_workers, progress=progress
            )
            summary = choose_decoding(head, labelled(task, recordings, "validation")).summary
        checkpoint.save(tuned, out / MODEL)
        heads.save(head, out)
        learnt = identities(item.track for item in (*train, *valid))
        checkpoint.write_tracks(out, learnt)
        before = [] if settings.from_scratch else checkpoint.tracks_of(model_name)
        checkpoint.write_tracks(out / MODEL, before, learnt)
        counts, seconds = (len(train), len(valid)), time.monotonic() - begin
        write_fit(out, task.objective(summary), summary, losses, settings, counts, seconds)
        shutil.rmtree(out / "checkpoints")


def _train(
    module: _TaskModel,
    settings: FinetuneSettings,
    train: Sequence[LabelledTrack],
    valid: Sequence[LabelledTrack],
    out: Path,
    device: str,
    num_workers: int,
    progress: bool,
) -> list[tuple[float, float]]:
    """Trains until validation does not improve; leaves the weights of the best epoch.

    Returns:
        The losses of each epoch.
    """
    task, config = module.head.task, module.model.config
    learnt = Clips(train, task, config, derive_seed(settings.seed, "clips"))
    held_out = Clips(valid, task, config, None)

    def load(clips: Clips, numbers: range) -> DataLoader[Clip]:
        return DataLoader(
            clips,
            settings.batch_size,
            sampler=numbers,
            num_workers=num_workers,
            worker_init_fn=begin_loading,
        )

    check_precision(settings.precision, torch.device(device).type)
    training = _Finetuning(on_device(device), module, settings)
    best, last = out / "checkpoints" / "best.ckpt", out / "checkpoints" / "last.ckpt"
    losses: list[tuple[float, float]] = []
    if os.path.isfile(last):
        content = load_checkpoint(last)
        training.load_state_dict(content)
        losses = [tuple(pair) for pair in content["losses"]]
    with ending_loaders():
        while not _is_done(losses, settings):
            epoch, begin = len(losses), time.monotonic()
            clips = range(epoch * settings.epoch_clips, (epoch + 1) * settings.epoch_clips)
            what = f"Epoch {epoch + 1} of {settings.max_epochs} at most"
            with Steps(what, settings.epoch_steps, progress) as bar:
                for _ in training.steps(load(learnt, clips), (epoch + 1) * settings.epoch_steps):
                    bar.advance()
                train_loss = training.take_loss()
                with training.evaluating():
                    for batch in load(held_out, range(len(held_out))):
                        training.loss(training.fabric.to_device(batch))
                valid_loss = training.take_loss()
                is_best = all(valid_loss < earlier for _, earlier in losses)
                losses.append((train_loss, valid_loss))
                content = {**training.state_dict(), "losses": losses}
                if is_best:
                    save_checkpoint(content, best)
                save_checkpoint(content, last)
                bar.say(
                    f"epoch {epoch + 1}: loss {train_loss:.4f}, on validation {valid_loss:.4f}"
                    f"{' (the lowest)' if is_best else ''}, {time.monotonic() - begin:.0f} s"
                )
    if not any(math.isfinite(loss) for _, loss in losses):
        raise ConfigError(
            f"the training in {out} is NaN, as it does where learning rates "
            "are too high; lower them (--learning-rates), and use another folder"
        )
    module.cpu().load_state_dict(load_checkpoint(best)["state_dict"])
    return losses


def _is_done(losses: Sequence[tuple[float, float]], settings: FinetuneSettings) -> bool:
    """Whether validation has not improved for long enough, or training has failed."""
    valid = [loss for _, loss in losses]
    if not valid or len(valid) >= settings.max_epochs or not math.isfinite(valid[-1]):
        return bool(valid)
    return len(valid) - 1 - valid.index(min(valid)) >= settings.patience


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
