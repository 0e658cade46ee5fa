"""Probing: what the frozen hidden states of a model know about a task.

A head is trained on clips of the task's length, drawn from hidden states on the disk; it is
stopped by the loss on validation, where its decoding is chosen too. The protocol's optimizer is
MARBLE's (Yuan et al., NeurIPS 2023): Adam at 1e-3, a plateau schedule and early stopping.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from musicfm.config import Config, Positive
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.errors import DataError
from musicfm.seeds import derive_seed
from musicfm.tasks.base import Array, Decoding, Scores, Task
from musicfm.tasks.features import Features
from musicfm.tasks.heads import Head, HeadConfig

OUTPUTS_AT_ONCE = 2_048
"""Of a long recording, through a head."""


class ProbeSettings(Config):
    """How a head is trained."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    batch_size: Positive = 64
    """Clips of the task's length."""
    max_epochs: Positive = 100
    """An epoch has as many clips as the recordings."""
    patience: Positive = 10
    """Epochs without a lower validation loss until it stops; half of them lower the rate."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Recording:
    """A labelled recording and its hidden states."""

    item: LabelledTrack
    features: Features


@dataclass(frozen=True)
class Evaluation:
    """How a head does on some recordings."""

    summary: Mapping[str, float]
    tracks: Mapping[str, Scores]
    """By the path of the recording."""
    estimates: Mapping[str, Annotations]


@dataclass(frozen=True)
class Fitted:
    """A trained head."""

    head: Head
    losses: tuple[tuple[float, float], ...]
    """Of each epoch, on training and validation."""
    validation: Evaluation


def fit(
    config: HeadConfig,
    settings: ProbeSettings,
    train: Sequence[Recording],
    valid: Sequence[Recording],
) -> Fitted:
    """Trains a head.

    Args:
        config: of the head; its decoding is chosen here.
        settings: how to train it.
        train: recordings to learn from.
        valid: recordings to stop by, and to choose the decoding on.

    Raises DataError if either has no labels for the task.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "head"))
        head = Head(config)
        task = head.task
        train, valid = _labelled(task, train, "training"), _labelled(task, valid, "validation")
        _standardise(head, train)
        losses = _optimise(head, settings, train, valid)
    head.eval()
    logits = {recording.item.track.path: run(head, recording) for recording in valid}
    best = max(
        task.decodings,
        key=lambda decoding: _comparable(
            task.objective(_decode(task, valid, logits, decoding).summary)
        ),
    )
    head.config = config.replace(decoding=best.to_dict())
    return Fitted(head, tuple(losses), _decode(task, valid, logits, best))


def evaluate(head: Head, recordings: Sequence[Recording]) -> Evaluation:
    """Scores a head on the recordings that are labelled for its task.

    Raises DataError if none is.
    """
    recordings = _labelled(head.task, recordings, "testing")
    logits = {recording.item.track.path: run(head, recording) for recording in recordings}
    return _decode(head.task, recordings, logits, head.decoding)


@torch.inference_mode()
def run(head: Head, recording: Recording) -> Array:
    """The logits of a whole recording, (outputs, num_logits)."""
    rate = head.task.output_rate
    count = len(recording.features.times(rate))
    parts = []
    for first in range(0, count, OUTPUTS_AT_ONCE):
        outputs = range(first, min(first + OUTPUTS_AT_ONCE, count))
        frames = recording.features.pooled(head.config.layers, rate, outputs)
        parts.append(head(frames[None])[0])
    return torch.cat(parts).double().numpy()


def _labelled(
    task: Task[Any], recordings: Sequence[Recording], purpose: str
) -> Sequence[Recording]:
    found = [r for r in recordings if task.is_labelled(r.item.annotations)]
    if not found:
        raise DataError(
            f"none of the {len(recordings)} recordings for {purpose} has labels for {task.name}"
        )
    return found


def _decode(
    task: Task[Any],
    recordings: Sequence[Recording],
    logits: Mapping[str, Array],
    decoding: Decoding,
) -> Evaluation:
    estimates, tracks, pairs = {}, {}, []
    for recording in recordings:
        path, truth = recording.item.track.path, recording.item.annotations
        times = recording.features.times(task.output_rate)
        duration = recording.item.track.duration
        estimates[path] = task.decode(logits[path], times, duration, decoding)
        tracks[path] = task.score(truth, estimates[path])
        pairs.append((truth, estimates[path]))
    return Evaluation(task.summarise(pairs), tracks, estimates)


def _comparable(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _standardise(head: Head, recordings: Sequence[Recording]) -> None:
    """Gives a head the means and deviations of its training data."""
    count = 0
    total = torch.zeros_like(head.mean, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for recording in recordings:
        frames = recording.features.pooled(head.config.layers, head.task.output_rate).double()
        count += frames.shape[1]
        total += frames.sum(dim=1, keepdim=True)
        squares += frames.square().sum(dim=1, keepdim=True)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0.0).sqrt()
    head.mean.copy_(mean)
    head.std.copy_(deviation.clamp(min=1e-6))


def _optimise(
    head: Head,
    settings: ProbeSettings,
    train: Sequence[Recording],
    valid: Sequence[Recording],
) -> list[tuple[float, float]]:
    """Trains until validation does not improve any more; leaves the best head."""
    optimizer = torch.optim.Adam(head.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=settings.patience // 2
    )
    best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), math.inf, 0
    losses: list[tuple[float, float]] = []
    for epoch in range(settings.max_epochs):
        head.train()
        total = weight = 0.0
        seed = derive_seed(settings.seed, "epoch", epoch)
        for batch in _batches(head, train, settings.batch_size, np.random.default_rng(seed)):
            loss = head.task.loss(head(batch[0]), *batch[1:])
            optimizer.zero_grad()
            loss.mean.backward()
            optimizer.step()
            total += loss.total.item()
            weight += loss.weight.item()
        valid_loss = _loss(head.eval(), valid)
        losses.append((total / max(weight, 1.0), valid_loss))
        schedule.step(valid_loss)
        if valid_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(head.state_dict()), valid_loss, epoch
        elif epoch - best_epoch >= settings.patience:
            break
    head.load_state_dict(best)
    return losses


@torch.inference_mode()
def _loss(head: Head, recordings: Sequence[Recording]) -> float:
    total = weight = 0.0
    for recording in recordings:
        logits = torch.from_numpy(run(head, recording)).float()[None]
        times = recording.features.times(head.task.output_rate)
        loss = head.task.loss(logits, *_targets(head.task, recording, times))
        total += loss.total.item()
        weight += loss.weight.item()
    return total / max(weight, 1.0)


def _targets(task: Task[Any], recording: Recording, times: Array) -> tuple[Tensor, Tensor]:
    values, known = task.targets(recording.item.annotations, times)
    return torch.from_numpy(values).float()[None], torch.from_numpy(known)[None]


def _batches(
    head: Head, recordings: Sequence[Recording], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clips at random places, as many as the recordings have, in random order.

    Recordings that are shorter than a clip are padded with what is not known.
    """
    task = head.task
    size = task.outputs_per_clip
    counts = [len(recording.features.times(task.output_rate)) for recording in recordings]
    order = np.repeat(np.arange(len(recordings)), [-(-count // size) for count in counts])
    rng.shuffle(order)
    for begin in range(0, len(order), batch_size):
        clips = []
        for index in order[begin : begin + batch_size]:
            first = int(rng.integers(max(1, counts[index] - size + 1)))
            outputs = range(first, min(first + size, counts[index]))
            clips.append(_clip(head, recordings[index], outputs, size))
        frames, values, known = (torch.cat(parts) for parts in zip(*clips, strict=True))
        yield frames, values, known


def _clip(
    head: Head, recording: Recording, outputs: range, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Frames and targets of some outputs, each (1, size, ...) or (1, layers, size, dim)."""
    frames = recording.features.pooled(head.config.layers, head.task.output_rate, outputs)[None]
    times = recording.features.times(head.task.output_rate)[outputs.start : outputs.stop]
    values, known = _targets(head.task, recording, times)
    missing = size - len(outputs)
    if missing:
        frames = torch.cat(
            [frames, frames.new_zeros(*frames.shape[:2], missing, frames.shape[3])], 2
        )
        values = torch.cat([values, values.new_zeros(1, missing, *values.shape[2:])], 1)
        known = torch.cat([known, known.new_zeros(1, missing, *known.shape[2:])], 1)
    return frames, values, known
