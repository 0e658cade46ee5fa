"""Recipes: everything that defines a pretraining run, apart from its data and its hardware.

Defaults are those of MuQ (arXiv 2501.01108), whose architecture and masking are MusicFM's;
MusicFM's own recipe is unpublished. MuQ trains with fairseq, whose Adam decays weights apart from
the gradient, which is PyTorch's AdamW.
"""

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from musicfm.errors import ConfigError
from musicfm.files import parse_json
from musicfm.model.config import (
    PRESETS,
    Config,
    ModelConfig,
    Positive,
    Probability,
)
from musicfm.model.masking import MaskingConfig

NonNegative = Annotated[float, Field(ge=0.0)]


class OptimizerConfig(Config):
    """AdamW, its learning rate over the steps, and the clipping of gradients."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    """The peak, at the end of a linear warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 32_000
    schedule: Literal["linear", "cosine"] = "linear"
    """Course of the learning rate from its peak to zero at the last step."""
    betas: tuple[Probability, Probability] = (0.9, 0.98)
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-6
    weight_decay: NonNegative = 0.01
    clip_norm: Annotated[float, Field(gt=0.0)] = 10.0

    def factor(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0, as a part of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        return 1.0 - done if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


class Recipe(Config):
    """A pretraining run: the model, how it is trained, and how it is watched."""

    model: ModelConfig = ModelConfig()
    init: str = ""
    """The model to begin with, whose configuration is ``model``; empty: random weights."""
    masking: MaskingConfig = MaskingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: Positive = 400_000
    batch_size: Positive = 192
    """Clips of the model's context per step, over all processes."""
    micro_batch_size: Positive = 6
    """Clips that a process computes at once; the rest of its share is accumulated."""
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of matrix products and convolutions; weights and the optimizer are float32."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more computation."""
    compile: bool = False
    """Compile the encoder's blocks, for GPUs: half a minute at the start, and faster steps."""
    global_batch_norm: bool = False
    """Normalise over the micro-batches of all processes together, not over each alone."""
    log_every: Positive = 50
    validate_every: Positive = 2_000
    validation_clips: Positive = 256
    checkpoint_every: Positive = 1_000
    keep_checkpoints: Positive = 3
    """Number of the last ones that are kept, besides the best."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        num_tokens = self.model.num_tokens(self.model.context_samples)
        if self.masking.tokens_per_block(self.model) > num_tokens or not self.masking.probability:
            raise ValueError(
                f"blocks of {self.masking.block_seconds:g} s with a probability of "
                f"{self.masking.probability:g} hide nothing of {self.model.context_seconds:g} s, "
                "and nothing would be learnt; choose other masking"
            )
        return self

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per step and process. Raises ConfigError if they don't come out even."""
        together = self.micro_batch_size * world_size
        if self.batch_size % together:
            raise ConfigError(
                f"batch_size {self.batch_size} cannot be shared by {world_size} processes of "
                f"micro_batch_size {self.micro_batch_size}; choose a multiple of {together}"
            )
        return self.batch_size // together


# What may change when a run is resumed, since no number hangs on it.
CHANGEABLE = frozenset({"checkpoint_every", "keep_checkpoints"})

_SMALL: Mapping[str, Any] = {"log_every": 10, "checkpoint_every": 100, "precision": "float32"}

RECIPES: Mapping[str, Recipe] = {
    "tiny": Recipe(
        model=PRESETS["tiny"].replace(context_seconds=4.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
        steps=200,
        batch_size=4,
        micro_batch_size=4,
        validate_every=100,
        validation_clips=16,
        **_SMALL,
    ),
    "nano": Recipe(
        model=PRESETS["nano"],
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, schedule="cosine"),
        steps=1_500,
        batch_size=3,
        micro_batch_size=3,
        validate_every=300,
        validation_clips=60,
        **_SMALL,
    ),
    **{
        name: Recipe(model=model, activation_checkpointing=model.frame_rate > 25.0)
        for name, model in PRESETS.items()
        if name.startswith("fm")
    },
}


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, or from a JSON or TOML file, with some values changed.

    Args:
        source: the name of a recipe, or a file; a file may begin with ``base = "nano"`` and then
            needs to hold only what differs.
        overrides: such as ``"optimizer.learning_rate=1e-4"``; values are JSON, or plain text.

    Raises:
        ConfigError: no such recipe, or a key or value that a recipe does not have.
    """
    fields = _read(Path(source)) if Path(source).suffix in (".json", ".toml") else {"base": source}
    base = fields.pop("base", None)
    if base is not None:
        fields = _merge(_named(str(base)).to_dict(), fields)
    for override in overrides:
        fields = _merge(fields, _parse(override))
    return Recipe.from_dict(fields)


def _named(name: str) -> Recipe:
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"no recipe '{name}'; did you mean '{near}'? (all: {', '.join(RECIPES)}, "
            "or a .json or .toml file)"
        )
    return RECIPES[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        fields = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper()
        raise ConfigError(f"{path} is not {kind}: {str(error).splitlines()[0]}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds no recipe; give an object with keys such as 'steps'")
    return fields


def _parse(override: str) -> dict[str, Any]:
    """``"a.b=1"`` as ``{"a": {"b": 1}}``."""
    path, equals, text = override.partition("=")
    if not (path and equals):
        raise ConfigError(f"'{override}' sets nothing; give key=value, such as steps=1000")
    try:
        value = parse_json(text)
    except ValueError:
        value = text
    for key in reversed(path.strip().split(".")):
        value = {key: value}
    return value


def _merge(fields: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``fields`` with ``changes`` put in, key by key; another ``kind`` replaces its section."""
    if changes.get("kind", fields.get("kind")) != fields.get("kind"):
        return dict(changes)
    merged = dict(fields)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
