"""Conformer and Transformer encoders with rotary positions.

Everything here works on (batch, time, feature). ``mask`` is (batch, time), True for the frames that
belong to a clip, or None where all do; frames outside it never reach a frame inside it.

Sources: Conformer, Gulati et al. 2020 (arXiv 2005.08100), in the form of wav2vec 2.0-Conformer;
rotary positions, Su et al. 2021 (arXiv 2104.09864).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from musicfm.model.config import ConformerConfig, TransformerConfig
from musicfm.model.mel import Float32Buffers

ROTARY_BASE = 10_000.0


class Conv1d(nn.Conv1d):
    """``nn.Conv1d``, by :func:`convolve`."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, input)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, by :func:`convolve`."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(self, input)


def convolve(convolution: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution of ours makes of x, in the fastest way.

    CPU kernels are some 80 times slower in float16 than in float32. Of one input channel, a 3x3
    convolution is a product with patches on a GPU: there cuDNN is slow, and the result has the
    channels last, as all that follows is fastest.
    """
    weight, bias = convolution.weight, convolution.bias
    settings = convolution.padding, convolution.dilation, convolution.padding_mode
    if x.is_cuda and weight.shape[1:] == (1, 3, 3) and settings == ((1, 1), (1, 1), "zeros"):
        if convolution.groups == 1:
            columns = patches(x[:, 0], convolution.stride)
            return F.linear(columns, padded_taps(weight), bias).permute(0, 3, 1, 2)
    elif x.is_cuda and torch.compiler.is_compiling() and weight.dim() == 3:
        taps = weight.shape[2]
        same = settings == ((taps // 2,), (1,), "zeros") and convolution.stride == (1,)
        if same and weight.shape[1] == 1 < convolution.groups == len(weight):
            return over_taps(x.transpose(1, 2), weight, bias).transpose(1, 2)
    if x.device.type == "cpu" and x.dtype == torch.float16:
        bias = None if bias is None else bias.float()
        return convolution._conv_forward(x.float(), weight.float(), bias).half()
    return convolution._conv_forward(x, weight, bias)


def patches(x: Tensor, strides: Sequence[int]) -> Tensor:
    """What each output of a 3x3 convolution sees of one channel, with zeros around.

    Args:
        x: (batch, rows, columns).
        strides: along rows and columns.

    Returns:
        (batch, rows', columns', 16), of which the last 7 are zero: products are faster so.
    """
    windows = F.pad(x, (1, 1, 1, 1)).unfold(1, 3, strides[0]).unfold(2, 3, strides[1])
    return F.pad(windows.flatten(3), (0, 7))


def padded_taps(weight: Tensor) -> Tensor:
    """(channels, 1, 3, 3) as what :func:`patches` are multiplied with, (channels, 16)."""
    return F.pad(weight.flatten(1), (0, 7))


def over_taps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A depthwise convolution as a sum over taps, which PyTorch's compiler makes one kernel.

    Args:
        x: (batch, time, channels).
        weight: (channels, 1, taps), an odd number of them.
        bias: (channels,).

    Returns:
        (batch, time, channels) in the type of x; sums are float32.
    """
    taps = weight.shape[2]
    padded = F.pad(x, (0, 0, taps // 2, taps // 2))
    parts = [padded[:, k : k + x.shape[1]].float() * weight[:, 0, k].float() for k in range(taps)]
    total = sum(parts[1:], parts[0])
    return (total if bias is None else total + bias.float()).to(x.dtype)


class FeedForward(nn.Module):
    """LayerNorm, Linear, SiLU, Linear."""

    def __init__(self, config: ConformerConfig | TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.up = nn.Linear(config.dim, config.ffn_dim)
        self.down = nn.Linear(config.ffn_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.silu(self.up(self.norm(x))))
        return self.dropout(self.down(x))


class SelfAttention(nn.Module):
    """Attention whose rotation acts on the hidden states, before the query and key projections.

    That is how the published weights were trained; values are not rotated. The softmax runs in
    PyTorch's fused kernels where the hardware has them.
    """

    def __init__(self, config: ConformerConfig | TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.dim)
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask[:, None, None, :]
        return self.dropout(self.attend(self.norm(x), rotation, mask))

    def attend(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attention of normed frames; the mask broadcasts to (batch, head, query, key)."""
        rotated = rotate(x, rotation, self.num_heads)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(rotated)),
            self._heads(self.key(rotated)),
            self._heads(self.value(x)),
            attn_mask=mask,
            dropout_p=self.dropout.p if self.dropout.training else 0.0,
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, dim) to (batch, head, time, dim / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, kernel = config.dim, config.conv_kernel
        self.norm = nn.LayerNorm(dim)
        self.pointwise1 = Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise = Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise2 = Conv1d(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = F.glu(self.pointwise1(self.norm(x).transpose(1, 2)), dim=1)
        if mask is not None:  # a clip ends in zeros, as the convolution's own padding
            x = x.masked_fill(~mask[:, None], 0.0)
        x = F.silu(self.batch_norm(self.depthwise(x)))
        return self.dropout(self.pointwise2(x).transpose(1, 2))


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, LayerNorm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ffn1 = FeedForward(config)
        self.attention = SelfAttention(config)
        self.convolution = ConvolutionModule(config)
        self.ffn2 = FeedForward(config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + 0.5 * self.ffn1(x)
        x = x + self.attention(x, rotation, mask)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.ffn2(x)
        return self.norm(x)


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.ffn = FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.attention(x, rotation, mask)
        return x + self.ffn(x)


class BlockStack(Float32Buffers):
    """A stack of blocks and a final LayerNorm.

    Args:
        blocks: take (batch, time, dim), the rotation of each position, and the mask.
        norm: follows the last block.
        inv_freq: (dim / heads / 2,), see :func:`inverse_frequencies`.
        dropout: of the input.
    """

    inv_freq: Tensor

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        norm: nn.LayerNorm,
        inv_freq: Tensor,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.activation_checkpointing = False

    def forward(self, x: Tensor, mask: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """Runs as deep as the deepest layer asked for, and no deeper.

        Args:
            x: (batch, time, dim), the front end's output.
            mask: (batch, time) bool or None.
            layers: hidden states wanted, 0 (the input) to the depth; the last one is normed.

        Returns:
            The hidden states, (batch, time, dim) each, in the order of ``layers``.
        """
        wanted, deepest, depth = set(layers), max(layers), len(self.blocks)
        x = self.dropout(x)
        rotation = rotation_of(x, self.inv_freq)
        kept = {0: x}
        for index, block in enumerate(self.blocks[:deepest], start=1):
            x = run_block(block, x, rotation, mask, recompute=self.activation_checkpointing)
            if index in wanted:
                kept[index] = x
        if deepest == depth:
            kept[depth] = self.norm(x)
        return [kept[layer] for layer in layers]


class Encoder(BlockStack):
    """The stack that a configuration describes."""

    def __init__(self, config: ConformerConfig | TransformerConfig) -> None:
        super().__init__(
            (
                ConformerBlock(config)
                if isinstance(config, ConformerConfig)
                else TransformerBlock(config)
                for _ in range(config.depth)
            ),
            nn.LayerNorm(config.dim),
            inverse_frequencies(config.dim, config.num_heads),
            config.dropout,
        )


def inverse_frequencies(dim: int, num_heads: int) -> Tensor:
    """Angles per frame of the rotary positions, (dim / heads / 2,), float32."""
    head_dim = dim // num_heads
    return 1.0 / ROTARY_BASE ** (torch.arange(0, head_dim, 2, device="cpu").float() / head_dim)


def rotation_of(x: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, (time, 1, dim / heads), in the type of x."""
    positions = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)
    angles = (positions[:, None] * inv_freq).repeat(1, 2)[:, None]
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor], num_heads: int) -> Tensor:
    """Rotates (batch, time, dim), seen as heads, by position; first half against second half."""
    cos, sin = rotation
    heads = x.unflatten(-1, (num_heads, -1))
    first, second = heads.chunk(2, dim=-1)
    return (heads * cos + torch.cat((-second, first), dim=-1) * sin).flatten(2)


def run_block(block: nn.Module, *inputs: Any, recompute: bool, **options: Any) -> Any:
    """Calls a block; with ``recompute`` its activations are computed again in the backward pass."""
    if not (recompute and torch.is_grad_enabled()):
        return block(*inputs, **options)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts, **options)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Keeps BatchNorm from counting a batch a second time when it is recomputed.

    It must still take the same path, or it would not save the same tensors as the first time: so
    the update happens, with no weight.
    """
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
