"""Masked token modelling: which blocks of a waveform to hide, and the loss on what was hidden.

Pure functions of shapes, a configuration and a generator. The waveform is cut into aligned blocks
of 400 ms; each is hidden with probability 0.6 under quiet noise. A tail shorter than a block is
never hidden.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from musicfm.errors import ConfigError
from musicfm.model.config import Config, ModelConfig

IGNORED = -100
"""The target of tokens that are not hidden: no code has it."""


class MaskingConfig(Config):
    """Length and probability of the hidden blocks, and the noise that replaces them."""

    block_seconds: Annotated[float, Field(gt=0.0)] = 0.4
    probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.6
    noise_std: Annotated[float, Field(ge=0.0)] = 0.1

    def tokens_per_block(self, model: ModelConfig) -> int:
        """Tokens under one block. Raises ConfigError where blocks and tokens do not align."""
        tokens = self.block_seconds * model.frame_rate
        if abs(tokens - round(tokens)) > 1e-6 or round(tokens) == 0:
            raise ConfigError(
                f"block_seconds {self.block_seconds} is {tokens:g} tokens at {model.frame_rate:g} "
                "Hz; choose a whole number of them"
            )
        return round(tokens)


def draw_blocks(
    batch: int,
    num_blocks: int,
    probability: float,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Which blocks to hide, (batch, num_blocks) bool. The generator lives on ``device``."""
    return torch.rand(batch, num_blocks, generator=generator, device=device) < probability


def hide(waveform: Tensor, blocks: Tensor, block_samples: int, noise: Tensor) -> Tensor:
    """Replaces the samples of hidden blocks by noise.

    Args:
        waveform: (batch, samples).
        blocks: (batch, samples // block_samples) bool.
        block_samples: length of a block.
        noise: as the waveform.
    """
    return torch.where(_spread(blocks, block_samples, waveform.shape[1]), noise, waveform)


def hidden_tokens(blocks: Tensor, tokens_per_block: int, num_tokens: int) -> Tensor:
    """Which tokens lie under hidden blocks, (batch, num_tokens) bool."""
    return _spread(blocks, tokens_per_block, num_tokens)


def _spread(blocks: Tensor, width: int, total: int) -> Tensor:
    """Repeats each block ``width`` times and fills up to ``total`` with False."""
    wide = blocks.repeat_interleave(width, dim=1)
    return F.pad(wide, (0, total - wide.shape[1]), value=False)


def mask_waveform(
    waveform: Tensor,
    model: ModelConfig,
    masking: MaskingConfig,
    generator: torch.Generator | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Hides random blocks of a batch.

    Args:
        waveform: (batch, samples) of clean audio.
        model: whose tokens are to be predicted.
        masking: how much to hide.
        generator: on the waveform's device; None uses the global one.
        lengths: (batch,) true samples of padded clips; blocks that reach beyond are not hidden.

    Returns:
        The masked waveform, and (batch, num_tokens) bool: the tokens to predict.
    """
    tokens_per_block = masking.tokens_per_block(model)
    block_samples = tokens_per_block * model.samples_per_frame
    batch, samples = waveform.shape
    num_blocks = samples // block_samples
    device = waveform.device
    blocks = draw_blocks(batch, num_blocks, masking.probability, generator, device)
    if lengths is not None:
        whole = lengths // block_samples
        blocks &= torch.arange(num_blocks, device=device)[None] < whole[:, None]
    noise = masking.noise_std * torch.randn(
        waveform.shape, generator=generator, device=device, dtype=waveform.dtype
    )
    masked = hide(waveform, blocks, block_samples, noise)
    return masked, hidden_tokens(blocks, tokens_per_block, model.num_tokens(samples))


class MaskedLoss(NamedTuple):
    """Sums over hidden tokens and codebooks, float32 scalars; they add up over batches."""

    total: Tensor
    """Cross-entropy in nats."""
    num_correct: Tensor
    num_hidden: Tensor

    @property
    def mean(self) -> Tensor:
        """Loss per hidden token, zero when nothing is hidden."""
        return self.total / self.num_hidden.clamp(min=1)

    @property
    def accuracy(self) -> Tensor:
        """Part of the hidden tokens that the largest logit names, zero when nothing is hidden."""
        return self.num_correct / self.num_hidden.clamp(min=1)


def masked_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> MaskedLoss:
    """Cross-entropy and accuracy on the hidden tokens.

    Shapes do not depend on how many are hidden, so a GPU need not be waited for.

    Args:
        logits: (batch, time, num_codebooks, codebook_size); time may exceed the tokens' by the
            last, partial frame.
        tokens: (batch, num_tokens, num_codebooks) of the clean audio.
        mask: (batch, num_tokens) bool.
    """
    predicted = logits[:, : tokens.shape[1]].flatten(0, 2).float()
    targets = tokens.masked_fill(~mask[..., None], IGNORED).flatten()
    total = F.cross_entropy(predicted, targets, reduction="sum", ignore_index=IGNORED)
    num_correct = (predicted.argmax(dim=-1) == targets).sum().float()
    return MaskedLoss(total, num_correct, mask.sum().float() * tokens.shape[2])
