"""The layouts in which MusicFM's authors published their checkpoints.

The one in use is ``torch.save`` of ``{"state_dict": {...}}`` with ``model.`` before every key. That
of November 2023, withdrawn by its authors as incorrect, has no ``state_dict`` around it and calls
its feature ``melspec``. Sizes are not stored: they are read off the tensors. The normalisation lies
in a JSON file beside the checkpoint.
"""

import json
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from musicfm.errors import CheckpointError, ConfigError, OutputError
from musicfm.files import atomic_write, differences, parse_json
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    RandomProjectionConfig,
)
from musicfm.model.encoder import inverse_frequencies
from musicfm.model.mel import LogMel

Stats = str | Path | tuple[float, float]
"""A JSON file of statistics, or the mean and standard deviation of the mel in dB."""

PREFIX = "model."
"""Prefix of every key of a published file."""

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_AFFINE = ("weight", "bias")

KEYS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # published name                                ours                               tensors
    ("conv.conv.{i}.conv1", "front_end.blocks.{i}.conv1", _AFFINE),
    ("conv.conv.{i}.bn1", "front_end.blocks.{i}.norm1", _BATCH_NORM),
    ("conv.conv.{i}.conv2", "front_end.blocks.{i}.conv2", _AFFINE),
    ("conv.conv.{i}.bn2", "front_end.blocks.{i}.norm2", _BATCH_NORM),
    ("conv.conv.{i}.conv3", "front_end.blocks.{i}.conv_skip", _AFFINE),
    ("conv.conv.{i}.bn3", "front_end.blocks.{i}.norm_skip", _BATCH_NORM),
    ("conv.linear", "front_end.linear", _AFFINE),
    ("conformer.layers.{i}.ffn1_layer_norm", "encoder.blocks.{i}.ffn1.norm", _AFFINE),
    ("conformer.layers.{i}.ffn1.intermediate_dense", "encoder.blocks.{i}.ffn1.up", _AFFINE),
    ("conformer.layers.{i}.ffn1.output_dense", "encoder.blocks.{i}.ffn1.down", _AFFINE),
    ("conformer.layers.{i}.self_attn_layer_norm", "encoder.blocks.{i}.attention.norm", _AFFINE),
    ("conformer.layers.{i}.self_attn.linear_q", "encoder.blocks.{i}.attention.query", _AFFINE),
    ("conformer.layers.{i}.self_attn.linear_k", "encoder.blocks.{i}.attention.key", _AFFINE),
    ("conformer.layers.{i}.self_attn.linear_v", "encoder.blocks.{i}.attention.value", _AFFINE),
    ("conformer.layers.{i}.self_attn.linear_out", "encoder.blocks.{i}.attention.out", _AFFINE),
    ("conformer.layers.{i}.conv_module.layer_norm", "encoder.blocks.{i}.convolution.norm", _AFFINE),
    (
        "conformer.layers.{i}.conv_module.pointwise_conv1",
        "encoder.blocks.{i}.convolution.pointwise1",
        ("weight",),
    ),
    (
        "conformer.layers.{i}.conv_module.depthwise_conv",
        "encoder.blocks.{i}.convolution.depthwise",
        ("weight",),
    ),
    (
        "conformer.layers.{i}.conv_module.batch_norm",
        "encoder.blocks.{i}.convolution.batch_norm",
        _BATCH_NORM,
    ),
    (
        "conformer.layers.{i}.conv_module.pointwise_conv2",
        "encoder.blocks.{i}.convolution.pointwise2",
        ("weight",),
    ),
    ("conformer.layers.{i}.ffn2_layer_norm", "encoder.blocks.{i}.ffn2.norm", _AFFINE),
    ("conformer.layers.{i}.ffn2.intermediate_dense", "encoder.blocks.{i}.ffn2.up", _AFFINE),
    ("conformer.layers.{i}.ffn2.output_dense", "encoder.blocks.{i}.ffn2.down", _AFFINE),
    ("conformer.layers.{i}.final_layer_norm", "encoder.blocks.{i}.norm", _AFFINE),
    ("conformer.layer_norm", "encoder.norm", _AFFINE),
    ("linear", "head", _AFFINE),
    (
        "quantizer_melspec_2048_{i}",
        "quantizer.codebooks.{i}",
        ("random_projection", "codebook"),
    ),
)

_MEL = "preprocessor_melspec_2048.mel_stft."
COMPUTED = {
    "window": f"{_MEL}spectrogram.window",
    "filters": f"{_MEL}mel_scale.fb",
    "inv_freq": "conformer.embed_positions.inv_freq",
}
"""Constants that we compute instead of loading; a file with others is refused."""

UNUSED = ("cls_token", "conformer.pos_conv_embed.")
"""Weights that the authors' model has and never uses."""

WEIGHT_NORM = (
    ("parametrizations.weight.original0", "weight_g"),
    ("parametrizations.weight.original1", "weight_v"),
)
"""PyTorch's names for a normed weight: today's, and those when the files were written."""

LEGACY = (
    ("quantizer_melspec.", "quantizer_melspec_2048_0."),
    ("preprocessor_melspec.melspec.", _MEL),
)
"""Names of November 2023 and those of today."""

POSITION_GROUPS, POSITION_KERNEL = 16, 128  # shape of the unused convolution


def read(path: Path, stats: Stats | None) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads a published checkpoint.

    Args:
        path: the ``.pt`` file.
        stats: where the normalisation is; None looks beside the file.

    Returns:
        The configuration, and the tensors by our names; the unused ones (:data:`UNUSED`) keep
        those of the authors.

    Raises:
        CheckpointError: not a checkpoint, or not one of this model, or no statistics.
    """
    tensors, legacy = _read_tensors(path)
    mean, std = read_stats(find_stats(path) if stats is None else stats, legacy)
    config = infer_config(tensors, mean, std, path)
    _check_computed(tensors, config, path)
    known = {*COMPUTED.values()}
    renamed = {ours(name): tensor for name, tensor in tensors.items() if name not in known}
    return config, renamed


def write(config: ModelConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a checkpoint that the authors' code loads, and its statistics beside it.

    The weights that they have and never use are filled with ones. Raises CheckpointError when the
    layout cannot express the model.
    """
    if not isinstance(config.encoder, ConformerConfig) or not isinstance(
        config.quantizer, RandomProjectionConfig
    ):
        raise CheckpointError(
            f"cannot write {path}: the published layout holds only Conformers with random "
            f"projections, and this model has a {config.encoder.kind} and {config.quantizer.kind}"
        )
    dim = config.encoder.dim
    unused = {
        "cls_token": torch.ones(dim),
        "conformer.pos_conv_embed.conv.bias": torch.ones(dim),
        "conformer.pos_conv_embed.conv.weight_g": torch.ones(1, 1, POSITION_KERNEL),
        "conformer.pos_conv_embed.conv.weight_v": torch.ones(
            dim, -(-dim // POSITION_GROUPS), POSITION_KERNEL
        ),
        **_computed(config),
    }
    used = {published(name): tensor.float() for name, tensor in tensors.items()}
    implied = infer_config({**unused, **used}, config.mel.mean, config.mel.std, path)
    if implied != config:
        lost = differences(config.to_dict(), implied.to_dict())
        raise CheckpointError(
            f"cannot write {path}: the published layout has no place for "
            f"{', '.join(f'{key}={value}' for key, value in lost.items())}"
        )
    state = {PREFIX + name: tensor.contiguous() for name, tensor in {**unused, **used}.items()}
    stats = {"melspec_2048_mean": config.mel.mean, "melspec_2048_std": config.mel.std}
    for other in _with_statistics_of(path):
        if os.path.exists(stats_path(path)) and read_stats(stats_path(path)) != tuple(
            stats.values()
        ):
            raise OutputError(
                f"cannot write {path}: {stats_path(path)} would be its statistics, and has those "
                f"of {other}; choose another name, or another folder"
            )
    with atomic_write(path) as weights_file, atomic_write(stats_path(path)) as stats_file:
        stats_file.write_text(json.dumps(stats))
        try:
            torch.save({"state_dict": state}, weights_file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OutputError(f"cannot write {path}: {error}; free space there") from error


def old_spelling(name: str) -> str:
    """The name of a tensor with the names of :data:`WEIGHT_NORM` that the files have."""
    for new, old in WEIGHT_NORM:
        name = name.replace(new, old)
    return name


def ours(name: str) -> str:
    """Our name of a published tensor; a name that is not in the table stays as it is."""
    return _rename(name, 0, 1)


def published(name: str) -> str:
    """The published name of one of our tensors."""
    return _rename(name, 1, 0)


def _rename(name: str, source: Literal[0, 1], target: Literal[0, 1]) -> str:
    module, _, tensor = name.rpartition(".")
    index = re.search(r"(?<=[._])\d+(?=\.|$)", module)
    template = module if index is None else f"{module[: index.start()]}{{i}}{module[index.end() :]}"
    for row in KEYS:
        if row[source] == template and tensor in row[2]:
            return f"{row[target].format(i=index and index.group())}.{tensor}"
    return name


def unpickle(path: Path) -> Any:
    """What ``torch.save`` wrote, memory-mapped; no code is run. Raises CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.save compresses nothing, so what is said to be larger is there to fill memory.
            if any(entry.file_size > entry.compress_size for entry in archive.infolist()):
                raise zipfile.BadZipFile("compressed")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a plain checkpoint: it is damaged, or holds objects other than "
            "tensors, which could run code and are refused; download it again from its source"
        ) from error
    except Exception as error:  # of a damaged file torch raises nearly anything
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or is incomplete; download it again"
        ) from error


def checked_tensors(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Named tensors whose elements are all in the file.

    Pickled tensors are views of stored numbers: one number can pose as terabytes of them. Raises
    CheckpointError.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds something other than named tensors")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{path}: tensor '{name}' is sparse or quantized")
        if math.prod(tensor.shape) * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: tensor '{name}' claims {tuple(tensor.shape)} elements, more than the "
                "file holds"
            )
    return dict(state)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors by today's published names, no prefix, and whether the file is a legacy one."""
    content = unpickle(path)
    legacy = not (isinstance(content, dict) and isinstance(content.get("state_dict"), dict))
    state = content if legacy else content["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds something other than named tensors")
    state = checked_tensors(state, path)
    if not state or not all(name.startswith(PREFIX) for name in state):
        raise CheckpointError(
            f"{path} is not a MusicFM checkpoint: its keys do not all begin with '{PREFIX}'"
        )
    tensors = {old_spelling(name.removeprefix(PREFIX)): t for name, t in state.items()}
    legacy = legacy or any(name.startswith(LEGACY[0][0]) for name in tensors)
    if legacy:
        warnings.warn(
            f"{path} has the layout of November 2023, which its authors withdrew as incorrect; "
            "prefer pretrained_msd.pt or pretrained_fma.pt (from_pretrained('msd') or ('fma'))",
            stacklevel=2,
        )
        for old, new in LEGACY:
            tensors = {
                new + name.removeprefix(old) if name.startswith(old) else name: tensor
                for name, tensor in tensors.items()
            }
    return tensors, legacy


def infer_config(tensors: Mapping[str, Tensor], mean: float, std: float, path: Path) -> ModelConfig:
    """Reads a model's sizes off its tensors (today's published names, no prefix).

    What no tensor tells (hop, strides, dropout, context) is as published.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(f"{path} is no MusicFM checkpoint: tensor '{name}' is missing")
        if tensors[name].dim() != dims or 0 in tensors[name].shape:
            raise CheckpointError(f"{path}: tensor '{name}' has shape {tuple(tensors[name].shape)}")
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        found = {m.group(1) for name in tensors if (m := re.match(pattern, name))}
        return len(found)

    dim, _ = shape("conv.linear.weight", 2)
    (half_head,) = shape(COMPUTED["inv_freq"], 1)
    codebook_size, codebook_dim = shape("quantizer_melspec_2048_0.codebook", 2)
    num_bins, n_mels = shape(COMPUTED["filters"], 2)
    ffn = "conformer.layers.0.ffn1.intermediate_dense.weight"
    kernel = "conformer.layers.0.conv_module.depthwise_conv.weight"
    try:
        return ModelConfig(
            mel=MelConfig(n_fft=2 * (num_bins - 1), n_mels=n_mels, mean=mean, std=std),
            front_end=FrontEndConfig(conv_dim=shape("conv.conv.0.conv1.weight", 4)[0]),
            encoder=ConformerConfig(
                dim=dim,
                depth=count(r"conformer\.layers\.(\d+)\."),
                num_heads=dim // (2 * half_head),
                ffn_dim=shape(ffn, 2)[0],
                conv_kernel=shape(kernel, 3)[2],
            ),
            quantizer=RandomProjectionConfig(
                num_codebooks=count(r"quantizer_melspec_2048_(\d+)\."),
                codebook_size=codebook_size,
                codebook_dim=codebook_dim,
            ),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path} has tensors of impossible sizes: {error}") from error


def _computed(config: ModelConfig) -> dict[str, Tensor]:
    """The constants of a model, by their published names."""
    mel = LogMel(config.mel)
    return {
        COMPUTED["window"]: mel.window,
        COMPUTED["filters"]: mel.filters,
        COMPUTED["inv_freq"]: inverse_frequencies(config.encoder.dim, config.encoder.num_heads),
    }


def _check_computed(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> None:
    """Refuses a file whose window, filterbank or rotary frequencies are not what we compute."""
    for name, constant in _computed(config).items():
        stored = tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{path}: tensor '{name}' is missing")
        precision = torch.finfo(stored.dtype).eps if stored.is_floating_point() else 0.0
        if stored.shape != constant.shape or not torch.allclose(
            stored.float(), constant, rtol=max(precision, 1e-5), atol=1e-6
        ):
            raise CheckpointError(
                f"{path}: tensor '{name}' is not that of a model at "
                f"{config.sample_rate} Hz with HTK mel filters and rotary base 10000"
            )


# ------------------------------------------------------------------------------------ statistics


def stats_path(checkpoint: Path) -> Path:
    """``X_stats.json`` for ``pretrained_X.pt`` and for ``X.pt``."""
    return checkpoint.with_name(f"{checkpoint.stem.removeprefix('pretrained_')}_stats.json")


def _with_statistics_of(checkpoint: Path) -> list[Path]:
    """The other checkpoint that would have the same statistics, if it is there."""
    name = checkpoint.name.removeprefix("pretrained_")
    return [
        path
        for path in (checkpoint.with_name(name), checkpoint.with_name(f"pretrained_{name}"))
        if path != checkpoint and os.path.exists(path)
    ]


def find_stats(checkpoint: Path) -> Path:
    """The statistics of a checkpoint: those named after it, else the only ones in its folder."""
    named = stats_path(checkpoint)
    if os.path.isfile(named):
        return named
    found = sorted(checkpoint.parent.glob("*stats*.json"))
    if len(found) == 1:
        return found[0]
    many = f", and there are several others ({', '.join(p.name for p in found)})" if found else ""
    raise CheckpointError(
        f"{checkpoint} needs its statistics: there is no {named.name} beside it{many}; "
        "put it there, or name the file with stats="
    )


def read_stats(stats: Stats, legacy: bool = False) -> tuple[float, float]:
    """Mean and standard deviation of the mel, in dB. Raises CheckpointError."""
    if isinstance(stats, tuple):
        mean, std = stats
        where = "the given statistics"
    else:
        where = str(stats)
        mean, std = _read_stats_file(Path(stats), legacy)
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise CheckpointError(
            f"{where}: a mean of {mean} and a standard deviation of {std} are impossible"
        )
    return mean, std


def _read_stats_file(path: Path, legacy: bool) -> tuple[float, float]:
    try:
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read statistics {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON; expected MusicFM's statistics") from error
    # The files hold other features too, so the layout's own name comes first.
    names = ("melspec", "melspec_2048") if legacy else ("melspec_2048", "melspec")
    for name in names:
        if isinstance(values, dict) and f"{name}_mean" in values and f"{name}_std" in values:
            mean, std = values[f"{name}_mean"], values[f"{name}_std"]
            if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (mean, std)):
                raise CheckpointError(f"{path}: {name}_mean and {name}_std must be numbers")
            return float(mean), float(std)
    raise CheckpointError(f"{path} has no 'melspec_2048_mean' and 'melspec_2048_std'")
