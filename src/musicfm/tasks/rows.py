"""What is compared: models, baselines, and anything else that gives frames for samples.

A row of the table is named by a text:

    nano, msd, a folder ...     a model, as --model of other commands takes it
    untrained:MODEL             the same model with random weights
    mel, chroma                 features that know nothing
    FILE.py:NAME                NAME(context_seconds) in a file of yours gives a WindowEncoder;
                                context_seconds is None for the encoder's own context
    finetuned:MODEL             the model trained together with the head
    scratch:MODEL               the same, begun with random weights
    trivial                     the best constant guess
    oracle                      the labels themselves
"""

import os
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from musicfm.embedding.embedder import Embedder, WindowEncoder
from musicfm.errors import ConfigError
from musicfm.model import checkpoint
from musicfm.model.musicfm import MusicFM
from musicfm.seeds import derive_seed
from musicfm.tasks.baselines import ChromaEncoder, MelEncoder
from musicfm.tasks.features import Inputs
from musicfm.tasks.heads import task_class
from musicfm.tasks.names import TASKS, TaskName

_PLAIN: dict[str, Callable[[], WindowEncoder]] = {"mel": MelEncoder, "chroma": ChromaEncoder}
_TRAINED = ("finetuned", "scratch")
_NO_SOUND = ("trivial", "oracle")


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str

    @property
    def folder(self) -> str:
        """Its name in a path."""
        return "".join(c if c.isalnum() or c in "-_." else "_" for c in self.name)

    @property
    def is_from_file(self) -> bool:
        """Whether it is an encoder in a file of the user's."""
        return self.name.rpartition(":")[0].endswith(".py")

    @property
    def absolute_name(self) -> str:
        """Its name in any working directory."""
        if self.is_from_file:
            path, _, function = self.name.rpartition(":")
            return f"{Path(path).resolve()}:{function}"
        return str(Path(self.name).resolve()) if os.path.isdir(Path(self.name)) else self.name

    @property
    def kind(self) -> str:
        """What is done for it: "probe" (heads on frozen frames), "finetuned", "scratch", "trivial"
        or "oracle".
        """
        first = self.name.partition(":")[0]
        return first if first in (*_TRAINED, *_NO_SOUND) else "probe"

    @property
    def model(self) -> str:
        """Of a row that belongs to a model, how that is called."""
        prefixes = (*_TRAINED, "untrained")
        first, found, rest = self.name.partition(":")
        return rest if found and first in prefixes else self.name

    def tasks(self) -> tuple[TaskName, ...]:
        """Those that it has something to say about."""
        return ("chord", "key") if self.name == "chroma" else TASKS

    def inputs(self, task: TaskName) -> Inputs:
        """What heads see of its frames."""
        if self.name not in _PLAIN:
            return "frames"
        return "statistics" if task_class(task).describes_spans else "stacked"

    def check(self) -> None:
        """Raises ConfigError or CheckpointError if what the row is named after is not there."""
        if self.is_from_file:
            _function(self.name)
        elif self.name not in (*_PLAIN, *_NO_SOUND):
            checkpoint.locate(self.model)

    def load(self) -> MusicFM:
        """The model. Raises CheckpointError."""
        model = MusicFM.from_pretrained(self.model)
        return untrained(model) if self.name.startswith("untrained:") else model

    def encoder(
        self,
        context_seconds: float | None = None,
        device: str = "cpu",
        layers: Sequence[int] | Literal["all"] | None = "all",
    ) -> WindowEncoder:
        """What gives the frames.

        Args:
            context_seconds: encoded at once; None: the encoder's own context.
            device: to compute on.
            layers: of a model; None: the embedder's default.

        Raises ConfigError or CheckpointError if there is none.
        """
        encoder: WindowEncoder
        if self.name in _PLAIN:
            encoder = _PLAIN[self.name]()
        elif self.is_from_file:
            encoder = _function(self.name)(context_seconds)
            if not isinstance(encoder, WindowEncoder):
                raise ConfigError(
                    f"{self.name} returns {type(encoder).__name__}, not a WindowEncoder"
                )
        else:
            return Embedder(self.load().to(device), layers, context_seconds=context_seconds)
        asked = set() if layers is None or layers == "all" else set(layers)
        if missing := asked - set(encoder.layers):
            raise ConfigError(f"'{self.name}' has no layer {min(missing)}")
        return encoder


def untrained(model: MusicFM) -> MusicFM:
    """A model of the same kind with random weights, always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "untrained"))
        return MusicFM(model.config).eval()


def _function(name: str) -> Callable[[float | None], WindowEncoder]:
    """What ``FILE.py:NAME`` names."""
    path, _, attribute = name.rpartition(":")
    if not os.path.isfile(path):
        raise ConfigError(f"there is no file {path}")
    try:
        found: dict[str, Any] = runpy.run_path(path)
    except ImportError as error:
        raise ConfigError(f"{path} cannot be run: {error}; install what it needs") from error
    if attribute not in found:
        raise ConfigError(f"{path} has no '{attribute}'")
    return found[attribute]
