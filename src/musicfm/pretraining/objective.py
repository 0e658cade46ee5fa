"""The objective: a thin module around the model that predicts the tokens of hidden audio.

Best-RQ (Chiu et al. 2022, arXiv 2202.01855), as MusicFM masks: on the waveform, with targets from
the clean audio. Everything comes out as sums, so that what several processes and micro-batches
found is added up and divided once, by the number of hidden tokens of the whole batch.
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as differentiable
from torch.nn import functional as F

from musicfm.model.masking import MaskedLoss, masked_loss
from musicfm.model.musicfm import MusicFM


class Batch(NamedTuple):
    """Clips to learn from; each was masked by itself."""

    clean: Tensor
    """(batch, samples)."""
    masked: Tensor
    """(batch, samples), with noise in the hidden blocks."""
    hidden: Tensor
    """(batch, num_tokens) bool."""
    lengths: Tensor | None
    """(batch,) true samples of each clip; None when all are whole, which lets attention run
    without a mask."""


class Objective(nn.Module):
    """Masked token modelling."""

    def __init__(self, model: MusicFM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[MaskedLoss, Tensor]:
        """The sums of the loss, and how often each code was hidden, (num_codebooks, size)."""
        tokens = self.model.tokenize(batch.clean, batch.lengths)
        output = self.model(batch.masked, batch.lengths, layers=[0], logits=True)
        assert output.logits is not None
        loss = masked_loss(output.logits, tokens, batch.hidden)
        return loss, count_codes(tokens, batch.hidden, self.model.config.quantizer.codebook_size)


@torch.no_grad()
def count_codes(tokens: Tensor, hidden: Tensor, codebook_size: int) -> Tensor:
    """How often each code occurs among hidden tokens, (num_codebooks, codebook_size) int64."""
    counts = tokens.new_zeros(tokens.shape[2], codebook_size)
    weights = hidden[..., None].expand_as(tokens).flatten(0, 1).T.long()
    return counts.scatter_add_(1, tokens.flatten(0, 1).T, weights)


class CodeStatistics(NamedTuple):
    """What the targets themselves look like, as means over codebooks."""

    unigram_accuracy: float
    """The accuracy of always naming the most frequent code: what has to be beaten."""
    code_usage: float
    """Part of the codes that occur at all."""
    code_perplexity: float
    """Exponential of the entropy: as if so many codes were equally frequent."""


def code_statistics(counts: Tensor) -> CodeStatistics:
    """Describes (num_codebooks, codebook_size) counts; zeros if nothing was counted."""
    if not counts.any():
        return CodeStatistics(0.0, 0.0, 0.0)
    shares = counts.double() / counts.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(shares).sum(dim=1)
    return CodeStatistics(
        shares.amax(dim=1).mean().item(),
        (counts > 0).double().mean().item(),
        math.exp(entropy.mean().item()),
    )


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batches of all processes together, on any device.

    PyTorch's SyncBatchNorm does the same on GPUs and refuses CPUs. Parameters, buffers and
    results in evaluation are BatchNorm's.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        x = input.float()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        count = x.numel() // x.shape[1]
        count_all = _over_all(x.new_full((), count))
        mean = _over_all(x.sum(dim=axes)) / count_all
        centred = x - mean.view(shape)
        variance = _over_all(centred.square().sum(dim=axes)) / count_all
        self._track(mean.detach(), (variance * count_all / (count_all - 1)).detach())
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None
        cast(Tensor, self.running_mean).lerp_(mean, self.momentum)
        cast(Tensor, self.running_var).lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any: statistics are per channel."""


def _over_all(x: Tensor) -> Tensor:
    """Sums over processes; gradients flow back to each."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    reduce: Any = differentiable.all_reduce
    return reduce(x)


def use_global_batch_norm(model: nn.Module) -> None:
    """Replaces every BatchNorm within a model by a :class:`GlobalBatchNorm` of the same state."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            norm = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(model, name, norm.to(child.weight.device))
        else:
            use_global_batch_norm(child)
