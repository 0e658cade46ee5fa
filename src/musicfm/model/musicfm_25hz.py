"""The interface of MusicFM's authors, over our model.

Code written for their repository runs with one line changed, ``from musicfm import MusicFM25Hz``.
New code is better served by :class:`musicfm.MusicFM`, which also takes clips of different lengths,
stops at the layer asked for, and loads more layouts.
"""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from musicfm.errors import CheckpointError, ConfigError
from musicfm.model import hub, published
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    RandomProjectionConfig,
)
from musicfm.model.masking import MaskingConfig, mask_waveform, masked_loss
from musicfm.model.musicfm import MusicFM

FEATURES: Final = ("melspec_2048", "melspec")
"""What the authors call the mel: today, and in November 2023."""

STATS_PATH: Final = "./data/fma_stats.json"
MODEL_PATH: Final = "./data/pretrained_fma.pt"
LEGACY_STATS_PATH: Final = "./data/fma_classic_stats.json"
LEGACY_MODEL_PATH: Final = "./data/musicfm_25hz_FMA_330m_500k.pt"
"""Where the authors' first README put the files; used when those of today are not there."""


class MusicFM25Hz(nn.Module):
    """MusicFM as its authors publish it.

    The sizes are read off the checkpoint: an argument left at its default yields to the file, one
    that was changed must agree with it.

    Args:
        num_codebooks: 1; the interface has no place for more.
        codebook_dim: width of a code.
        codebook_size: number of codes.
        features: the mel, by the authors' name; it is the key of all dictionaries.
        hop_length: samples per mel frame.
        n_mels: mel bands.
        conv_dim: channels of the front end.
        encoder_dim: width of the encoder.
        encoder_depth: number of Conformer blocks.
        mask_hop: seconds of a hidden block.
        mask_prob: probability that a block is hidden.
        is_flash: makes no difference: attention always runs in PyTorch's fastest kernel for the
            device, which is flash attention where there is one.
        stat_path: JSON file of statistics. None, or the default beside another ``model_path``:
            what lies beside the checkpoint.
        model_path: anything that :meth:`MusicFM.from_pretrained` takes. None: random weights of
            the given sizes, with the statistics of ``stat_path`` (None: those of MSD).

    Raises:
        CheckpointError: no such file, or an argument contradicts it.
        ConfigError: arguments that no model can have.
    """

    def __init__(
        self,
        num_codebooks: int = 1,
        codebook_dim: int = 16,
        codebook_size: int = 4_096,
        features: Sequence[str] = ("melspec_2048",),
        hop_length: int = 240,
        n_mels: int = 128,
        conv_dim: int = 512,
        encoder_dim: int = 1_024,
        encoder_depth: int = 12,
        mask_hop: float = 0.4,
        mask_prob: float = 0.6,
        is_flash: bool = False,
        stat_path: str | Path | None = STATS_PATH,
        model_path: str | Path | None = MODEL_PATH,
    ) -> None:
        super().__init__()
        if num_codebooks != 1:
            raise ConfigError(
                f"num_codebooks is {num_codebooks}: the authors' interface returns one set of "
                "tokens per feature; use musicfm.MusicFM for several codebooks"
            )
        if len(features) != 1 or features[0] not in FEATURES:
            raise ConfigError(f"features are {list(features)}; the model hears ['{FEATURES[0]}']")
        self.feature = features[0]
        sizes = {
            "codebook_dim": codebook_dim,
            "codebook_size": codebook_size,
            "hop_length": hop_length,
            "n_mels": n_mels,
            "conv_dim": conv_dim,
            "encoder_dim": encoder_dim,
            "encoder_depth": encoder_depth,
        }
        if model_path is None:
            self.model = _random_model(sizes, stat_path)
        else:
            self.model = _pretrained_model(model_path, stat_path)
            _check_sizes(sizes, self.model.config, model_path)
        self.masking_config = MaskingConfig(block_seconds=mask_hop, probability=mask_prob)
        self.masking_config.tokens_per_block(self.model.config)  # refuses what does not align

    def get_latent(self, x: Tensor, layer_ix: int = 12) -> Tensor:
        """One hidden state of (batch, samples) audio at 24 kHz, (batch, time, encoder_dim).

        Layer 0 is the front end's output, layer i that of block i. Blocks beyond are not run.
        """
        return self.model(x, layers=[layer_ix]).hidden_states[0]

    def get_predictions(self, x: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Logits, (batch, time, codebook_size) by feature, and all hidden states."""
        output = self.model(x, logits=True)
        return {self.feature: output.logits[:, :, 0]}, output.hidden_states

    def get_targets(self, x: Tensor) -> dict[str, Tensor]:
        """Tokens of clean audio, (batch, tokens) int64 by feature."""
        return {self.feature: self.model.tokenize(x)[:, :, 0]}

    def masking(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hides random blocks under noise, drawn from PyTorch's global generator.

        Returns:
            The masked audio, and the (clip, token) indices of what is hidden, (n, 2).
        """
        masked, tokens = mask_waveform(x, self.model.config, self.masking_config)
        return masked, tokens.nonzero()

    def get_loss(
        self, logits: Mapping[str, Tensor], target_tokens: Mapping[str, Tensor], indices: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Cross-entropy and accuracy on the hidden tokens, by feature; zero if none is hidden."""
        losses, accuracies = {}, {}
        for key, predicted in logits.items():
            targets = target_tokens[key]
            mask = torch.zeros_like(targets, dtype=torch.bool)
            mask[tuple(indices.T)] = True
            loss = masked_loss(predicted[:, :, None], targets[:, :, None], mask)
            losses[key], accuracies[key] = loss.mean, loss.accuracy
        return losses, accuracies

    def forward(
        self, x: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...], dict[str, Tensor], dict[str, Tensor]]:
        """One masked prediction: logits, hidden states, losses and accuracies."""
        targets = self.get_targets(x)
        masked, indices = self.masking(x)
        logits, hidden_states = self.get_predictions(masked)
        return logits, hidden_states, *self.get_loss(logits, targets, indices)


def _random_model(sizes: Mapping[str, int], stat_path: str | Path | None) -> MusicFM:
    mel = MelConfig(hop_length=sizes["hop_length"], n_mels=sizes["n_mels"])
    if stat_path is not None:
        mean, std = published.read_stats(stat_path)
        mel = mel.replace(mean=mean, std=std)
    config = ModelConfig(
        mel=mel,
        front_end=FrontEndConfig(conv_dim=sizes["conv_dim"]),
        encoder=ConformerConfig(dim=sizes["encoder_dim"], depth=sizes["encoder_depth"]),
        quantizer=RandomProjectionConfig(
            codebook_size=sizes["codebook_size"], codebook_dim=sizes["codebook_dim"]
        ),
    )
    return MusicFM(config)


def _pretrained_model(model_path: str | Path, stat_path: str | Path | None) -> MusicFM:
    stats = stat_path
    if model_path == MODEL_PATH and not Path(MODEL_PATH).exists():
        if not Path(LEGACY_MODEL_PATH).exists():
            fma = hub.PUBLISHED["fma"]
            advice = hub.by_hand(fma.repo_id, (fma.weights, fma.stats), fma.revision)
            raise CheckpointError(f"there is no {MODEL_PATH}: {advice}, or load model_path='fma'")
        model_path = LEGACY_MODEL_PATH
        stats = LEGACY_STATS_PATH if stat_path == STATS_PATH else stat_path
    elif model_path != MODEL_PATH and stat_path == STATS_PATH:
        stats = None  # the default belongs to the default checkpoint, not to any other
    return MusicFM.from_pretrained(model_path, stats=stats)


def _check_sizes(asked: Mapping[str, int], config: ModelConfig, model_path: str | Path) -> None:
    """Raises CheckpointError where an argument that was changed contradicts the checkpoint."""
    quantizer = config.quantizer
    if not isinstance(quantizer, RandomProjectionConfig) or quantizer.num_codebooks != 1:
        raise CheckpointError(
            f"{model_path} has {quantizer.num_codebooks} codebooks of kind '{quantizer.kind}'; "
            "the authors' interface knows one random projection: use musicfm.MusicFM"
        )
    found = {
        "codebook_dim": quantizer.codebook_dim,
        "codebook_size": quantizer.codebook_size,
        "hop_length": config.mel.hop_length,
        "n_mels": config.mel.n_mels,
        "conv_dim": config.front_end.conv_dim,
        "encoder_dim": config.encoder.dim,
        "encoder_depth": config.encoder.depth,
    }
    defaults: Mapping[str, Any] = signature(MusicFM25Hz).parameters
    for name, value in asked.items():
        if value != defaults[name].default and value != found[name]:
            raise CheckpointError(
                f"{name} is {value}, and {model_path} has {found[name]}; leave the argument out"
            )
