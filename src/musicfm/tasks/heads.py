"""Task heads: a small network on the hidden states of one model, for one task.

One hidden layer of 512, as MARBLE's probes have (Yuan et al., NeurIPS 2023). A head is a folder
with ``head.safetensors`` and ``head.json``; it records the model whose hidden states it was trained
on, and refuses those of another.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from musicfm.errors import CheckpointError, did_you_mean
from musicfm.files import parse_json
from musicfm.model import checkpoint
from musicfm.model.checkpoint import SHIPPED
from musicfm.model.config import Config, Probability, Width
from musicfm.tasks.base import Decoding, Task
from musicfm.tasks.features import Inputs, stack_offsets
from musicfm.tasks.names import TASKS, TaskName

WEIGHTS, CONFIG = "head.safetensors", "head.json"
MODEL = "model"
"""A folder of this name beside a head holds the model that was trained together with it."""

HEADS = "heads"
"""The folder of a model that holds heads for it, each under its task's name."""


def task_class(name: TaskName) -> type[Task[Any]]:
    """The task of that name, from the module of that name."""
    return getattr(import_module(f"musicfm.tasks.{name}"), name.title())


def build_task(name: TaskName, vocabulary: tuple[str, ...] = ()) -> Task[Any]:
    """The task of that name; a vocabulary is for those that have one."""
    return task_class(name).build(vocabulary)


class HeadConfig(Config):
    """All that defines a head."""

    task: TaskName
    vocabulary: tuple[str, ...] = ()
    model: str
    fingerprint: str
    """Fingerprint of the model, see :func:`musicfm.model.checkpoint.fingerprint`."""
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    """The hidden state, or several that are averaged with learned weights."""
    dim: Width
    inputs: Inputs = "frames"
    relative: bool = False
    """Whether it also sees how hidden states differ from the mean of the whole recording."""
    context: Literal["paper", "model"] = "model"
    """Context of the model: clips of the task's length, or its own."""
    hidden: Width = 512
    dropout: Probability = 0.2
    decoding: Mapping[str, float | str | Mapping[str, float] | None] = Field(default_factory=dict)
    """The task's decoding, chosen on validation."""


class Head(nn.Module):
    """Hidden states to the logits of a task.

    Hidden states are standardised by their means and standard deviations over the training data,
    which are part of the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.task = build_task(config.task, config.vocabulary)
        width = config.dim * _parts(config, self.task)
        shape = (len(config.layers), 1, width)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.mixing = nn.Parameter(torch.zeros(len(config.layers)))
        self.hidden = nn.Linear(width, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden, self.task.num_logits)

    @property
    def decoding(self) -> Decoding:
        """How logits become annotations."""
        default: Decoding = self.task.decodings[0]
        return type(default).from_dict(self.config.decoding)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits at the frames' rate.

        Args:
            frames: (batch, layers, time, width), pooled to the task's rate; for a task with one
                output per clip, time is the clips. The width follows from the inputs.

        Returns:
            (batch, time, num_logits).
        """
        weights = self.mixing.softmax(dim=0)[:, None, None]
        mixed = (weights * (frames - self.mean) / self.std).sum(dim=1)
        return self.output(self.dropout(torch.relu(self.hidden(mixed))))


def _parts(config: HeadConfig, task: Task[Any]) -> int:
    """How many times the hidden states' width a head sees."""
    if config.inputs == "stacked":
        return len(stack_offsets(task.output_rate)) * (1 + config.relative)
    return (2 if config.inputs == "statistics" else 1) + config.relative


def shipped(model: str | Path) -> dict[str, Path]:
    """The folders of the heads that come with a model, by task."""
    folder = checkpoint.folder_of(model)
    found = {} if folder is None else {task: folder / HEADS / task for task in TASKS}
    return {task: path for task, path in found.items() if os.path.isdir(path)}


def locate(name: str | Path) -> Path:
    """The folder of a head: itself, or what a name such as "nano/beat" stands for.

    Raises CheckpointError if there is none.
    """
    path = Path(name)
    if os.path.exists(path):
        return path
    known = {f"{SHIPPED}/{task}": folder for task, folder in shipped(SHIPPED).items()}
    known |= {f"{path.parent}/{task}": folder for task, folder in shipped(path.parent).items()}
    if str(name) not in known:
        raise CheckpointError(
            f"there is no head {name}{did_you_mean(str(name), known)}; give the folder of one, or "
            f"one of {', '.join(known)}"
        )
    return known[str(name)]


def save(head: Head, folder: str | Path) -> None:
    """Writes ``folder/head.safetensors`` and ``folder/head.json``. Raises OutputError."""
    weights, config = Path(folder) / WEIGHTS, Path(folder) / CONFIG
    checkpoint.write_pair(weights, config, head.state_dict(), head.config)


def copy(source: Path, folder: Path) -> None:
    """Copies a head, with what it was trained on. Raises CheckpointError or OutputError."""
    save(load(source), folder)
    checkpoint.write_tracks(folder, checkpoint.read_tracks(source))


def load_config(folder: str | Path) -> HeadConfig:
    """What a head is, without its weights. Raises CheckpointError."""
    path = Path(folder) / CONFIG
    try:
        return HeadConfig.from_dict(parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the head's configuration {path}: {error}") from error


def load(folder: str | Path) -> Head:
    """Loads a head, in eval mode. Raises CheckpointError."""
    weights = Path(folder) / WEIGHTS
    config, tensors = checkpoint.read_pair(weights, Path(folder) / CONFIG, HeadConfig, "head")
    with torch.device("meta"):
        head = Head(config)
    checkpoint.fill(head, tensors, weights)
    return head.eval()


def fingerprint(head: Head) -> str:
    """SHA-256 of all that a head computes with."""
    digest = hashlib.sha256(json.dumps(head.config.to_dict(), sort_keys=True).encode())
    for tensor in head.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_model(head: Head, fingerprint: str, name: str) -> None:
    """Raises CheckpointError unless a head was trained on the hidden states of this model."""
    if head.config.fingerprint != fingerprint:
        raise CheckpointError(
            f"this {head.config.task} head was trained on the hidden states of "
            f"'{head.config.model}', and '{name}' is another model; train a head on it"
        )
