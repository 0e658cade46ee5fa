"""One model and a head for each task, trained together.

Every clip is as long as the model's context, which is what an analysis sees at once. From each the
model learns what it can: the tasks, where the recording has labels; the tokens of what was hidden
of it; and, of music without labels, chords and keys that shift along when it is played higher, and
beats that come sooner when it is played faster. For these a slow copy of the model, the mean of its
weights over time, gives the targets. That copy is also the result.

A run has a folder of its own:

    checkpoint.pt      all that it takes to go on; also written when SIGTERM or Ctrl-C ends the run
    log.jsonl          losses, a line every LOG_EVERY steps
    model/             the result so far, with heads/: what ``musicfm analyze --model`` takes;
                       training.json and training_tracks.txt say what it was made of

Sources: masked tokens, Chiu et al. 2022 (arXiv 2202.01855); a mean of weights as teacher, Tarvainen
and Valpola 2017 (arXiv 1703.01780).
"""

import json
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import musicfm
from musicfm._lazy import renamed
from musicfm.audio import reading
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.datasets.scanning import identities
from musicfm.datasets.tracks import Track
from musicfm.embedding.pooling import pooled_times
from musicfm.errors import AudioError, AudioWarning, ConfigError, TrainingError
from musicfm.files import exclusive, sweep, write_json
from musicfm.memory import tune_malloc
from musicfm.model import checkpoint
from musicfm.model.config import Config, ModelConfig, Positive
from musicfm.model.masking import MaskingConfig, hidden_tokens, hide
from musicfm.model.musicfm import MusicFM
from musicfm.progress import Steps
from musicfm.seeds import derive_seed
from musicfm.tasks.augmentation import change_sound, draw_speed, play_at, transposed
from musicfm.tasks.base import Task
from musicfm.tasks.beat import TOLERANCE, widest
from musicfm.tasks.corpus import vocabulary_of
from musicfm.tasks.heads import Head
from musicfm.tasks.joint_model import Joint, build, write_model
from musicfm.tasks.tagging import Tagging
from musicfm.training import (
    TRAINING,
    Outcome,
    Training,
    begin_loading,
    check_precision,
    ending_loaders,
    load_checkpoint,
    on_device,
    save_checkpoint,
    stop_requested,
)

if not TYPE_CHECKING:
    _OLD = {"Batch": "JointBatch", "Clip": "JointClip", "Clips": "JointClips"}
    __getattr__ = renamed(__name__, _OLD, globals().__getitem__)

MODEL, CHECKPOINT, LOG = "model", "checkpoint.pt", "log.jsonl"
LOG_EVERY = 20
"""Steps between two lines of the log."""
CHECKPOINT_SECONDS = 240.0
"""Seconds between two checkpoints."""
SURE = 0.5
"""The probability from which on what the teacher says of a frame counts."""
BEATS = 3.0
"""The weight of the consistency of beats, beside that of chords and keys."""
TEMPO_TAGS = ("slow", "fast")
"""Tags that are not known of a clip that is played at another speed."""


class JointSettings(Config):
    """How a model and its heads are trained."""

    steps: Positive = 3_000
    batch_size: Positive = 12
    """Clips of a step."""
    unlabelled: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    """Fraction of the clips without labels, where there is such music."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    """The last part of the steps, in which the learning rate falls to zero in a line."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    clip_norm: Annotated[float, Field(gt=0.0)] = 2.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.995
    max_semitones: Annotated[int, Field(ge=0, le=6)] = 4
    loss_weights: Mapping[str, float] = Field(
        default_factory=lambda: {
            "beat": 2.0,
            "chord": 1.0,
            "key": 0.3,
            "structure": 0.5,
            "tagging": 1.0,
            "tokens": 0.2,
            "consistency": 0.3,
        }
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Field(ge=0)] = 0

    def learning_rate_at(self, step: int) -> float:
        """Up in a line, level, and down in a line."""
        up = (step + 1) / max(1, self.warmup_steps)
        down = (self.steps - step) / (self.decay * self.steps)
        return self.learning_rate * min(1.0, up, down)


class JointClip(NamedTuple):
    """A piece of a recording, as the model gets it."""

    samples: Tensor
    """(samples,)."""
    original: Tensor | None
    """(samples,) of a recording without labels: the piece as it was recorded."""
    semitones: int
    """Semitones by which it was shifted up."""
    values: list[Tensor]
    """Targets of each task."""
    known: list[Tensor]


class JointBatch(NamedTuple):
    """Clips, of which those without labels come first."""

    samples: Tensor
    """(batch, samples)."""
    originals: Tensor
    """(unlabelled, samples) as they were recorded, with silence at their ends."""
    lengths: Tensor
    """(unlabelled,) samples of the originals."""
    semitones: Tensor
    """(batch,)."""
    values: list[Tensor]
    """(batch, outputs, ...) of each task."""
    known: list[Tensor]


class JointClips(Dataset[JointClip]):
    """Random clips: clip n is a function of (seed, n) and of the recordings.

    Args:
        labelled: recordings with labels.
        unlabelled: recordings without, each with its file.
        tasks: whose targets.
        config: of the model.
        settings: of the run.
    """

    def __init__(
        self,
        labelled: Sequence[LabelledTrack],
        unlabelled: Sequence[tuple[Track, Path]],
        tasks: Sequence[Task[Any]],
        config: ModelConfig,
        settings: JointSettings,
    ) -> None:
        self._labelled, self._unlabelled = tuple(labelled), tuple(unlabelled)
        self._tasks, self._config, self._settings = tuple(tasks), config, settings
        self._num_unlabelled = round(settings.unlabelled * settings.batch_size) if unlabelled else 0

    def __getitem__(self, n: int) -> JointClip:
        rng = np.random.default_rng(derive_seed(self._settings.seed, "clip", n))
        is_labelled = n % self._settings.batch_size >= self._num_unlabelled
        if is_labelled:
            item = self._labelled[rng.integers(len(self._labelled))]
            track, path, annotations = item.track, item.audio, item.annotations
        else:
            track, path = self._unlabelled[rng.integers(len(self._unlabelled))]
            annotations = Annotations()
        speed, semitones = draw_speed(rng, self._settings.max_semitones)
        rate, seconds = self._config.sample_rate, self._config.context_seconds * speed
        start = rng.random() * max(0.0, track.duration - seconds)
        try:
            found = reading.load(path, rate, start_seconds=start, duration_seconds=seconds)
        except AudioError as error:
            warnings.warn(f"{error}; it is left out", AudioWarning, stacklevel=2)
            found, annotations = np.zeros(round(rate * seconds), np.float32), Annotations()
        samples = play_at(found, speed, self._config.context_samples)
        num_frames = self._config.num_frames(len(samples))
        values, known = [], []
        for task in self._tasks:
            times = speed * pooled_times(num_frames, self._config.frame_rate, task.output_rate)
            value, is_known = task.targets(annotations, start + times)
            is_there = (times <= len(found) / rate).reshape(-1, *[1] * (is_known.ndim - 1))
            is_known = is_known & is_there
            if task.name in ("chord", "key"):
                tonal = value < 24  # and not "no chord"
                value = np.where(tonal, value // 12 * 12 + (value + semitones) % 12, value)
            if isinstance(task, Tagging) and abs(speed - 1.0) > 0.03:
                is_known = is_known & ~np.isin(task.vocabulary, TEMPO_TAGS)
            values.append(torch.from_numpy(value).float())
            known.append(torch.from_numpy(is_known))
        return JointClip(
            torch.from_numpy(change_sound(samples, rate, rng)),
            None if is_labelled else torch.from_numpy(found),
            semitones,
            values,
            known,
        )


def join(clips: Sequence[JointClip]) -> JointBatch:
    """Clips to a batch."""
    originals = [clip.original for clip in clips if clip.original is not None]
    return JointBatch(
        torch.stack([clip.samples for clip in clips]),
        nn.utils.rnn.pad_sequence(originals, batch_first=True) if originals else torch.empty(0, 0),
        torch.tensor([len(original) for original in originals], dtype=torch.int64),
        torch.tensor([clip.semitones for clip in clips]),
        [torch.stack(parts) for parts in zip(*(clip.values for clip in clips), strict=True)],
        [torch.stack(parts) for parts in zip(*(clip.known for clip in clips), strict=True)],
    )


def losses_of(
    joint: Joint,
    teacher: Joint,
    batch: JointBatch,
    settings: JointSettings,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """What a model is to make smaller, by name.

    Args:
        joint: to train.
        teacher: gives the targets of the clips without labels.
        batch: of clips.
        settings: of the run.
        generator: draws what is hidden.
    """
    model, config = joint.model, joint.model.config
    num_free = len(batch.lengths)
    # Of most clips with labels nothing is hidden, so that the model knows music that is whole.
    shares = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.3, 0.6])
    drawn = torch.randint(6, (len(batch.samples),), generator=generator)
    drawn[:num_free] = 4 + drawn[:num_free] % 2
    masking = MaskingConfig()
    block_tokens = masking.tokens_per_block(config)
    block_samples = block_tokens * config.samples_per_frame
    num_blocks = batch.samples.shape[1] // block_samples
    chances = torch.rand(len(batch.samples), num_blocks, generator=generator)
    blocks = chances < shares[drawn][:, None]
    noise = masking.noise_std * torch.randn(batch.samples.shape, generator=generator)
    device = model.device
    samples, blocks = batch.samples.to(device), blocks.to(device)
    logits, states = joint(hide(samples, blocks, block_samples, noise.to(device)))

    found: dict[str, Tensor] = {}
    for head, given, values, known in zip(
        joint.heads, logits, batch.values, batch.known, strict=True
    ):
        assert isinstance(head, Head)
        loss = head.task.loss(given.float(), values.to(device), known.to(device))
        found[head.config.task] = loss.mean
    if len(rows := blocks.any(dim=1).nonzero()[:, 0]):
        tokens = model.tokenize(samples[rows])
        hidden = hidden_tokens(blocks[rows], block_tokens, tokens.shape[1])
        named = model.head(states[rows][:, : tokens.shape[1]][hidden]).float()
        codebook_size = config.quantizer.codebook_size
        found["tokens"] = F.cross_entropy(named.view(-1, codebook_size), tokens[hidden].flatten())
    if num_free:
        with torch.no_grad():
            taught, _ = teacher(batch.originals.to(device), batch.lengths.to(device))
        semitones = batch.semitones[:num_free].to(device)
        terms = []
        for head, given, said in zip(joint.heads, logits, taught, strict=True):
            task = cast(Head, head).config.task
            if task == "beat":
                beats = widest(said.float(), TOLERANCE).sigmoid()
                student = widest(given[:num_free].float(), TOLERANCE)
                terms.append(BEATS * F.binary_cross_entropy_with_logits(student, beats))
            elif task in ("chord", "key"):
                wanted = transposed(said.float().softmax(dim=2), semitones)
                sure = (wanted.amax(dim=2) > SURE).float()
                losses = -(wanted * given[:num_free].float().log_softmax(dim=2)).sum(dim=2)
                terms.append((losses * sure).sum() / sure.sum().clamp(min=1.0))
        found["consistency"] = torch.stack(terms).sum()
    return found


def train(
    model: MusicFM,
    model_name: str,
    settings: JointSettings,
    labelled: Sequence[LabelledTrack],
    unlabelled: Sequence[tuple[Track, Path]],
    out: Path,
    *,
    pitch: bool = True,
    device: str = "cpu",
    num_workers: int = 1,
    progress: bool = False,
) -> Outcome:
    """Trains a model and its heads, or goes on with a run that was stopped.

    SIGTERM and Ctrl-C end a run after the step under way, with a checkpoint. One that goes on gives
    what it would have given had it not been stopped; with other recordings, or another number of
    steps, it goes on so from the next step on. What it was trained on is noted of all.

    Args:
        model: to begin with.
        model_name: what it is called, or its folder, whose heads are taken too.
        settings: how.
        labelled: recordings with labels.
        unlabelled: recordings without, each with its file.
        out: the folder of the run.
        pitch: whether a model without pitch gets it.
        device: to compute on.
        num_workers: processes that load clips.
        progress: show a bar on standard error.

    Raises:
        ConfigError: the folder holds a run of other settings.
        TrainingError: the loss is NaN.
        OutputError: the folder cannot be written, or is in use.
    """
    tune_malloc()
    check_precision(settings.precision, torch.device(device).type)
    with exclusive(out, ".lock"), ending_loaders():
        sweep(out)
        run = _Run(model, model_name, settings, labelled, unlabelled, out, pitch, device)
        tasks = [cast(Head, head).task for head in run.joint.heads]
        loader = DataLoader(
            JointClips(labelled, unlabelled, tasks, run.joint.model.config, settings),
            batch_size=settings.batch_size,
            sampler=range(run.step * settings.batch_size, settings.steps * settings.batch_size),
            collate_fn=join,
            num_workers=num_workers,
            worker_init_fn=begin_loading,
        )
        saved = began = time.monotonic()
        recent: dict[str, list[float]] = defaultdict(list)
        with (
            Steps("Training", settings.steps, progress, done=run.step) as bar,
            stop_requested(bar.say) as stop,
        ):
            if run.step >= settings.steps:
                bar.say(f"nothing new: {run.step} of {settings.steps} steps were done")
            for step in run.steps(loader, settings.steps):
                _follow(run.average, run.joint, min(settings.ema, step / (step + 10)))
                for name, loss in run.losses.items():
                    recent[name].append(float(loss.detach()))
                recent["seconds"].append(time.monotonic() - began)
                began = time.monotonic()
                bar.advance()
                if step % LOG_EVERY == 0:
                    _log(out, bar, step, settings.learning_rate_at(step - 1), recent)
                    recent.clear()
                if stop.by is not None:
                    break
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    run.save()
                    saved = time.monotonic()
            run.save()
        if run.step < settings.steps:
            return Outcome(run.step, None, stop.by)
        return Outcome(run.step, out / MODEL, None)


class _Run(Training[JointBatch]):
    """A run: its steps, all that changes from one to the next, and where it is kept.

    It begins, or goes on where the folder has one. Raises ConfigError as :func:`train` does.
    """

    def __init__(
        self,
        model: MusicFM,
        model_name: str,
        settings: JointSettings,
        labelled: Sequence[LabelledTrack],
        unlabelled: Sequence[tuple[Track, Path]],
        out: Path,
        pitch: bool,
        device: str,
    ) -> None:
        is_begun = os.path.isfile(out / CHECKPOINT)
        state = load_checkpoint(out / CHECKPOINT) if is_begun else None
        self.vocabulary = vocabulary_of(labelled) if state is None else tuple(state["vocabulary"])
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        self.joint = build(model, model_name, self.vocabulary, pitch=pitch)
        self.settings, self.out = settings, out
        super().__init__(on_device(device), self.joint, settings.precision)
        self.average = deepcopy(self.joint).requires_grad_(False).eval()
        """The mean of the weights."""
        self.losses: dict[str, Tensor] = {}
        """Losses of the last step by name, and the norm of its gradient as "norm"."""
        tracks = [*(item.track for item in labelled), *(track for track, _ in unlabelled)]
        before = checkpoint.tracks_of(model_name)
        heard = [*(before or ()), *(state["heard"] if state else ()), *identities(tracks)]
        self.tracks = list(dict.fromkeys(heard))
        self.facts = {
            "musicfm": musicfm.__version__,
            "begins_with": model_name,
            "recipe": {"model": self.joint.model.config.to_dict(), **settings.to_dict()},
            "step": 0,
            "data": {
                "labelled": len(labelled),
                "unlabelled": len(unlabelled),
                "hours": sum(track.duration for track in tracks) / 3600,
                "before_is_known": before is not None,
            },
        }
        """Facts on how the model came about."""
        if state is not None:
            there = JointSettings.from_dict(state["settings"])
            changeable = ("steps", "decay")
            names = [name for name in JointSettings.model_fields if name not in changeable]
            if other := [k for k in names if getattr(there, k) != getattr(settings, k)]:
                raise ConfigError(
                    f"{out} holds a run with another {', '.join(other)}; continue with the "
                    "same, or use another folder"
                )
            self.average.load_state_dict(state["average"])
            content = {"state_dict": state["joint"], "optimizer_states": [state["optimizer"]]}
            self.load_state_dict({**content, "global_step": state["step"]})

    def save(self) -> None:
        """Writes all that it takes to go on, and the result so far. Raises OutputError."""
        content = {
            "settings": self.settings.to_dict(),
            "vocabulary": list(self.vocabulary),
            "joint": self.joint.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "heard": self.tracks,
        }
        save_checkpoint(content, self.out / CHECKPOINT)
        write_model(self.average, self.out / MODEL, self.tracks)
        write_json(self.out / MODEL / TRAINING, {**self.facts, "step": self.step}, indent=2)

    def make_optimizer(self) -> torch.optim.Optimizer:
        parameters = list(self.joint.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() > 1]},  # matrices, whose weights decay
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        decay = self.settings.weight_decay
        return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=decay)

    def learning_rates(self, step: int) -> Sequence[float]:
        return [self.settings.learning_rate_at(step)] * 2

    def loss(self, batch: JointBatch, micro_step: int) -> Tensor:
        settings = self.settings
        generator = torch.Generator().manual_seed(derive_seed(settings.seed, "mask", self.step))
        torch.manual_seed(derive_seed(settings.seed, "dropout", self.step))
        self.losses = losses_of(self.joint, self.average, batch, settings, generator)
        terms = [settings.loss_weights[name] * loss for name, loss in self.losses.items()]
        return cast(Tensor, sum(terms))

    def before_step(self) -> None:
        """Clips the gradient. Raises TrainingError if it is not finite."""
        norm = nn.utils.clip_grad_norm_(self.joint.parameters(), self.settings.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient of step {self.step} is NaN or infinite; lower the learning rate, "
                "and begin again"
            )
        self.losses["norm"] = norm


@torch.no_grad()
def _follow(average: Joint, joint: Joint, decay: float) -> None:
    """Moves the mean of the weights, and the statistics of BatchNorm, towards the newest ones."""
    pairs = zip(average.state_dict().values(), joint.state_dict().values(), strict=True)
    for mean, newest in pairs:
        if mean.is_floating_point():
            mean.lerp_(newest, 1.0 - decay)
        else:
            mean.copy_(newest)


def _log(
    out: Path, bar: Steps, step: int, rate: float, recent: Mapping[str, Sequence[float]]
) -> None:
    """Appends a line of means over the last steps, and shows it."""
    means = {name: round(fmean(values), 4) for name, values in recent.items()}
    line = {"step": step, "learning_rate": rate, **means}
    with (out / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")
    bar.say(", ".join(f"{name} {value:.3g}" for name, value in line.items()))
