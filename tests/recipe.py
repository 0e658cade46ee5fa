"""Weights and waveforms that are functions of names, shapes and seeds alone.

The golden numbers were made from them by the code of MusicFM's authors, so no checkpoint need be
stored: :func:`write_published` writes one of any size, in either layout of theirs.
"""

import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicfm.model.config import ModelConfig, PitchConfig, preset
from musicfm.model.mel import mel_filters
from musicfm.model.musicfm import MusicFM
from musicfm.model.published import published

Array = npt.NDArray[np.float32]
TINY = preset("tiny")
PITCH = PitchConfig(lowest_hertz=110.0, num_semitones=24, conv_dim=4)
COUNT = 95_489.0
"""Batches that the published BatchNorms counted; stored as floats."""
MEL = "preprocessor_melspec_2048.mel_stft."
LEGACY_NAMES = {
    "quantizer_melspec_2048_0.": "quantizer_melspec.",
    MEL: "preprocessor_melspec.melspec.",
}


def waveform(seed: int, batch: int, samples: int, sample_rate: int = 24_000) -> Array:
    """Music-like signal: decaying notes on a beat grid, and noise; (batch, samples) in [-1, 1]."""
    return _waveform(seed, batch, samples, sample_rate).copy()


@lru_cache(maxsize=64)
def _waveform(seed: int, batch: int, samples: int, sample_rate: int) -> Array:
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / sample_rate
    # After five seconds a note is below the last bit of float32; the golden clips are shorter.
    audible = t[: 5 * sample_rate]
    decay = np.exp(-4 * audible)
    out = np.zeros((batch, samples))
    for clip in out:
        beat = 0.3 + 0.4 * rng.random()
        for i in range(int(t[-1] / beat) + 1):
            start = int(i * beat * sample_rate)
            if start >= samples:
                break
            note = slice(start, start + len(audible))
            tail = audible[: samples - start]
            for midi in rng.integers(36, 84, size=3):
                frequency = 440.0 * 2 ** ((midi - 69) / 12)
                clip[note] += 0.1 * np.sin(2 * np.pi * frequency * tail) * decay[: len(tail)]
        clip += 0.01 * rng.standard_normal(samples)
    return np.clip(out, -1, 1).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> Array:
    """One tensor of a checkpoint, from its published name and its shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    parent = name.split(".")[-2] if "." in name else ""
    if name.endswith("running_var"):
        array = 0.5 + rng.random(shape)
    elif name.endswith("running_mean"):
        array = 0.1 * rng.standard_normal(shape)
    elif "norm" in parent or parent.startswith("bn"):
        array = name.endswith("weight") + 0.1 * rng.standard_normal(shape)
    elif name.endswith("bias"):
        array = 0.05 * rng.standard_normal(shape)
    elif name.endswith(("codebook", "cls_token")):
        array = rng.standard_normal(shape)
    else:
        projects = name.endswith("random_projection")
        fan_in = shape[0] if projects else int(np.prod(shape[1:])) or 1
        array = rng.standard_normal(shape) / np.sqrt(fan_in)
    return np.asarray(array, np.float32)


def published_state(config: ModelConfig = TINY) -> dict[str, Tensor]:
    """All tensors of a model in the published layout, unused ones included; no prefix."""
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in MusicFM(config).state_dict().items()}
    state = {}
    for ours, shape in shapes.items():
        name = published(ours)
        counter = name.endswith("num_batches_tracked")
        state[name] = torch.tensor(COUNT) if counter else torch.from_numpy(tensor(name, shape))
    dim, head = config.encoder.dim, config.encoder.dim // config.encoder.num_heads
    return state | {
        "cls_token": torch.from_numpy(tensor("cls_token", (dim,))),
        "conformer.pos_conv_embed.conv.bias": torch.zeros(dim),
        "conformer.pos_conv_embed.conv.weight_g": torch.ones(1, 1, 128),
        "conformer.pos_conv_embed.conv.weight_v": torch.ones(dim, dim // 16, 128),
        "conformer.embed_positions.inv_freq": 10_000.0 ** -(torch.arange(0, head, 2) / head),
        f"{MEL}spectrogram.window": torch.hann_window(config.mel.n_fft),
        f"{MEL}mel_scale.fb": mel_filters(config.mel),
    }


def write_published(
    path: Path,
    config: ModelConfig = TINY,
    *,
    legacy: bool = False,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Writes a published checkpoint and its statistics; returns its path.

    ``changes`` replaces tensors by name, or drops those that are None.
    """
    state = published_state(config) | (changes or {})
    state = {name: value for name, value in state.items() if value is not None}
    feature = "melspec_2048"
    if legacy:
        feature = "melspec"
        state.pop("cls_token", None)
        for new, old in LEGACY_NAMES.items():
            state = {name.replace(new, old): value for name, value in state.items()}
    state = {f"model.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state if legacy else {"state_dict": state}, path)
    stats = {f"{feature}_mean": config.mel.mean, f"{feature}_std": config.mel.std}
    name = f"{path.stem.removeprefix('pretrained_')}_stats.json"
    path.with_name(name).write_text(json.dumps(stats))
    return path
