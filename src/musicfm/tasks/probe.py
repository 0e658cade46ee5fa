"""Probing: what the frozen hidden states of a model know about a task.

A head is trained on clips of the task's length, drawn from hidden states on the disk; it is
stopped by the loss on validation, where its decoding is chosen too. The protocol's optimizer is
MARBLE's (Yuan et al., NeurIPS 2023): Adam at 1e-3, a plateau schedule and early stopping.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from musicfm._lazy import renamed
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.datasets.tracks import Track
from musicfm.errors import DataError, MusicFMError
from musicfm.model.config import Config, Positive
from musicfm.seeds import derive_seed
from musicfm.tasks.base import Array, Decoding, Scores, Task, comparable
from musicfm.tasks.features import Features, stacked
from musicfm.tasks.heads import Head, HeadConfig, build_task

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Recording": "EncodedTrack"}, globals().__getitem__)

LabelledT = TypeVar("LabelledT", "EncodedTrack", LabelledTrack)

OUTPUTS_AT_ONCE = 2_048
"""Outputs of a long recording that go through a head at once."""


class ProbeSettings(Config):
    """How a head is trained."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    batch_size: Positive = 16
    """Clips of the task's length, of which each has up to 300 outputs."""
    max_epochs: Positive = 100
    """An epoch has as many clips as the recordings, or ``epoch_clips``."""
    epoch_clips: Positive = 1_024
    """Most clips of an epoch, at random from all recordings: what it takes to learn a task does not
    grow with the collection, and so the time between two looks at validation need not."""
    patience: Positive = 6
    """Epochs without a lower validation loss until it stops; half of them lower the rate."""
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class EncodedTrack:
    """A labelled recording and its hidden states."""

    item: LabelledTrack
    features: Features

    @property
    def track(self) -> Track:
        """The recording."""
        return self.item.track

    @property
    def annotations(self) -> Annotations:
        """What is known about it."""
        return self.item.annotations


def paired(
    tracks: Sequence[LabelledTrack], features: Mapping[str, Features]
) -> tuple[EncodedTrack, ...]:
    """Those recordings whose hidden states are there, by their SHA-256."""
    return tuple(
        EncodedTrack(item, features[item.track.sha256])
        for item in tracks
        if item.track.sha256 in features
    )


@dataclass(frozen=True)
class Evaluation:
    """How well some recordings are annotated."""

    summary: Scores
    tracks: Mapping[str, Scores]
    """Scores by the path of the recording."""

    @classmethod
    def of(
        cls,
        task: Task[Any],
        recordings: Iterable[LabelledT],
        annotate: Callable[[LabelledT], Annotations],
    ) -> "Evaluation":
        """Scores annotations of recordings, one recording after another."""
        tracks = {
            recording.track.path: task.score(recording.annotations, annotate(recording))
            for recording in recordings
        }
        return cls(task.summarise(list(tracks.values())), tracks)


@dataclass(frozen=True)
class Fitted:
    """A trained head."""

    head: Head
    losses: tuple[tuple[float, float], ...]
    """Losses of each epoch, on training and validation."""
    validation: Evaluation


class ProbeExamples:
    """What heads learn from: the hidden states of recordings at a task's rate, and the targets.

    Pooled once, into a temporary file that is mapped into memory, so that collections of any size
    can be learnt from. Several heads may, one after another.

    Args:
        config: of the heads: their task, its rate and targets, and what they see.
        recordings: those that are labelled for the task count.
        purpose: of the recordings, for messages.

    Raises DataError if no recording is labelled for the task.
    """

    def __init__(
        self, config: HeadConfig, recordings: Sequence[EncodedTrack], purpose: str
    ) -> None:
        task = build_task(config.task, config.vocabulary)
        self.task, self._inputs = task, config.inputs
        self.recordings = labelled(task, recordings, purpose)
        # Above their own rate frames are repeated: each is kept, and seen by the head, once.
        ratio = task.output_rate / self.recordings[0].features.rate
        is_whole = ratio >= 1.0 and task.outputs_per_clip % ratio == 0 and ratio.is_integer()
        self.repeats = int(ratio) if is_whole and config.inputs == "frames" else 1
        values, known = [], []
        starts = [0]
        with tempfile.TemporaryFile() as file:
            for recording in self.recordings:
                times = recording.features.times(task.output_rate)
                targets = task.targets(recording.annotations, times)
                values.append(torch.from_numpy(targets.values).float())
                known.append(torch.from_numpy(targets.known))
                rate, count = task.output_rate / self.repeats, len(times) // self.repeats
                for first in range(0, count, OUTPUTS_AT_ONCE):
                    part = range(first, min(first + OUTPUTS_AT_ONCE, count))
                    frames = recording.features.pooled(
                        config.layers, rate, config.inputs, part, relative=config.relative
                    )
                    file.write(frames.transpose(0, 1).half().numpy().tobytes())
                starts.append(starts[-1] + len(times))
            file.flush()
            shape = (starts[-1] // self.repeats, len(config.layers), frames.shape[2])
            self._frames = np.memmap(file, np.float16, "r", shape=shape)
        self._bounds = list(pairwise(starts))
        self._values, self._known = torch.cat(values), torch.cat(known)

    @property
    def counts(self) -> list[int]:
        """Outputs of each recording."""
        return [stop - start for start, stop in self._bounds]

    def clip(self, index: int, outputs: range) -> tuple[Tensor, Tensor, Tensor]:
        """What a head sees of some outputs of a recording, and their targets.

        Args:
            index: of the recording.
            outputs: consecutive ones, from a multiple of ``repeats`` to another.

        Returns:
            (layers, outputs / repeats, width), (outputs, ...), (outputs, ...).
        """
        start, stop = self._bounds[index]

        def read(first: int, last: int) -> Tensor:
            begin = start // self.repeats
            frames = self._frames[begin + first : begin + last].astype(np.float32)
            return torch.from_numpy(frames).transpose(0, 1)

        if self._inputs == "stacked":
            frames = stacked(read, stop - start, outputs, self.task.output_rate)
        else:
            frames = read(outputs.start // self.repeats, outputs.stop // self.repeats)
        inside = slice(start + outputs.start, start + outputs.stop)
        return frames, self._values[inside], self._known[inside]

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over all outputs, (layers, 1, width) each."""
        total = torch.zeros(self._frames.shape[1:], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for first in range(0, len(self._frames), OUTPUTS_AT_ONCE):
            part = torch.from_numpy(
                self._frames[first : first + OUTPUTS_AT_ONCE].astype(np.float64)
            )
            total += part.sum(dim=0)
            squares += part.square().sum(dim=0)
        mean = total / len(self._frames)
        deviation = (squares / len(self._frames) - mean.square()).clamp(min=0.0).sqrt()
        return mean[:, None], deviation.clamp(min=1e-6)[:, None]


def fit(
    config: HeadConfig, settings: ProbeSettings, train: ProbeExamples, valid: ProbeExamples
) -> Fitted:
    """Trains a head.

    Args:
        config: of the head; its decoding is chosen here.
        settings: how to train it.
        train: to learn from.
        valid: to stop by, and to choose the decoding on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "head"))
        head = Head(config)
        for buffer, moment in zip((head.mean, head.std), train.moments(), strict=True):
            buffer.copy_(moment.repeat(1, 1, buffer.shape[2] // moment.shape[2]))
        losses = _optimise(head, settings, train, valid)
    return Fitted(head, tuple(losses), choose_decoding(head.eval(), valid.recordings))


def choose_decoding(head: Head, valid: Sequence[EncodedTrack]) -> Evaluation:
    """Gives a head the decoding that is best on validation.

    Args:
        head: changed.
        valid: recordings, all labelled for its task.

    Returns:
        How the head does there.
    """
    task = head.task
    logits = {recording.track.path: run(head, recording.features) for recording in valid}

    def score(decoding: Decoding) -> Evaluation:
        def annotate(recording: EncodedTrack) -> Annotations:
            return _decode(task, recording, logits[recording.track.path], decoding)

        return Evaluation.of(task, valid, annotate)

    best = task.choose(lambda decoding: comparable(task.objective(score(decoding).summary)))
    head.config = head.config.replace(decoding=best.to_dict())
    return score(best)


def evaluate(head: Head, recordings: Sequence[EncodedTrack]) -> Evaluation:
    """Scores a head on the recordings that are labelled for its task.

    Raises DataError if none is.
    """

    def annotate(recording: EncodedTrack) -> Annotations:
        return _decode(head.task, recording, run(head, recording.features), head.decoding)

    return Evaluation.of(head.task, labelled(head.task, recordings, "testing"), annotate)


@torch.inference_mode()
def run(head: Head, features: Features) -> Array:
    """The logits of a whole recording, (outputs, num_logits)."""
    config, rate = head.config, head.task.output_rate
    count = len(features.times(rate))

    def read(start: int, stop: int) -> Tensor:
        return features.pooled(
            config.layers, rate, config.inputs, range(start, stop), relative=config.relative
        )

    parts = []
    for first in range(0, count, OUTPUTS_AT_ONCE):
        outputs = range(first, min(first + OUTPUTS_AT_ONCE, count))
        if config.inputs == "stacked":
            frames = stacked(read, count, outputs, rate)
        else:
            frames = read(outputs.start, outputs.stop)
        parts.append(head(frames[None])[0])
    return torch.cat(parts).double().numpy()


def labelled(task: Task[Any], recordings: Sequence[LabelledT], purpose: str) -> list[LabelledT]:
    """Those that are labelled for a task. Raises DataError if none is."""
    found = [recording for recording in recordings if task.is_labelled(recording.annotations)]
    if not found:
        raise DataError(
            f"none of the {len(recordings)} recordings for {purpose} has labels for {task.name}; "
            "label some of them, or split the recordings in another way, with musicfm scan"
        )
    return found


def _decode(
    task: Task[Any], recording: EncodedTrack, logits: Array, decoding: Decoding
) -> Annotations:
    times = recording.features.times(task.output_rate)
    return task.decode(logits, times, recording.track.duration, decoding)


def _optimise(
    head: Head, settings: ProbeSettings, train: ProbeExamples, valid: ProbeExamples
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
        for batch in _batches(train, settings, np.random.default_rng(seed)):
            logits = head(batch[0]).repeat_interleave(train.repeats, dim=1)
            loss = head.task.loss(logits, *batch[1:])
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
    if math.isinf(best_loss):
        raise MusicFMError("the loss of a head is NaN; check its inputs for very large values")
    head.load_state_dict(best)
    return losses


@torch.inference_mode()
def _loss(head: Head, examples: ProbeExamples) -> float:
    """Over all that there is, in parts."""
    total = weight = 0.0
    for index, count in enumerate(examples.counts):
        step = OUTPUTS_AT_ONCE // examples.repeats * examples.repeats
        for first in range(0, count, step):
            outputs = range(first, min(first + step, count))
            frames, values, known = examples.clip(index, outputs)
            logits = head(frames[None]).repeat_interleave(examples.repeats, dim=1)
            loss = head.task.loss(logits, values[None], known[None])
            total += loss.total.item()
            weight += loss.weight.item()
    return total / max(weight, 1.0)


def _batches(
    examples: ProbeExamples, settings: ProbeSettings, rng: np.random.Generator
) -> Iterator[list[Tensor]]:
    """The clips of an epoch, at random places and in random order.

    Recordings that are shorter than a clip are padded with what is not known.
    """
    size, counts = examples.task.outputs_per_clip, examples.counts
    order = np.repeat(np.arange(len(counts)), [-(-count // size) for count in counts])
    rng.shuffle(order)
    order = order[: settings.epoch_clips]
    for begin in range(0, len(order), settings.batch_size):
        clips = []
        for index in order[begin : begin + settings.batch_size]:
            room = max(0, counts[index] - size) // examples.repeats
            first = examples.repeats * int(rng.integers(room + 1))
            clip = examples.clip(index, range(first, min(first + size, counts[index])))
            missing = size - clip[1].shape[0]
            clips.append(_padded(clip, missing, examples.repeats) if missing else clip)
        yield [torch.stack(parts) for parts in zip(*clips, strict=True)]


def _padded(
    clip: tuple[Tensor, Tensor, Tensor], missing: int, repeats: int
) -> tuple[Tensor, Tensor, Tensor]:
    """With outputs at the end of which nothing is known."""
    frames, values, known = clip
    after = [0] * (2 * values.dim() - 1) + [missing]
    return F.pad(frames, [0, 0, 0, missing // repeats]), F.pad(values, after), F.pad(known, after)
