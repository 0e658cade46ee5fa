"""The encoder on any device: products in one type, residuals and norms in float32."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model import encoder as exact
from musicfm.model.encoder import over_taps, rotate
from musicfm.model.inference.int8 import Int8Linear
from musicfm.model.inference.weights import Linear, folded, norm


class InferenceEncoder(exact.BlockStack):
    """See :class:`musicfm.model.encoder.Encoder`."""

    def __init__(self, encoder: exact.Encoder, dtype: torch.dtype, int8: bool) -> None:
        given: Any = encoder.blocks
        blocks = (
            _ConformerBlock(block, dtype, int8)
            if isinstance(block, exact.ConformerBlock)
            else _TransformerBlock(block, dtype, int8)
            for block in given
        )
        super().__init__(blocks, norm(encoder.norm), encoder.inv_freq)
        self.int8 = int8

    def forward(self, x: Tensor, mask: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """See :meth:`musicfm.model.encoder.Encoder.forward`; with int8, one clip after another."""
        if not self.int8:
            return super().forward(x, mask, layers)
        counts = [x.shape[1]] * len(x) if mask is None else mask.sum(1).tolist()
        out = [torch.zeros_like(x) for _ in layers]
        for i, count in enumerate(counts):
            states = super().forward(x[i : i + 1, :count], None, layers)
            for state, clip in zip(out, states, strict=True):
                state[i, :count] = clip[0]
        return out


class _ConformerBlock(nn.Module):
    """See :class:`musicfm.model.encoder.ConformerBlock`."""

    def __init__(self, block: exact.ConformerBlock, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.ffn1 = _FeedForward(block.ffn1, dtype, int8)
        self.attention = _SelfAttention(block.attention, dtype, int8)
        self.convolution = _ConvolutionModule(block.convolution, dtype, int8)
        self.ffn2 = _FeedForward(block.ffn2, dtype, int8)
        self.norm = norm(block.norm)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        return self._end(*self._begin(x, rotation, mask))

    def compile_parts(self) -> None:
        """Apart, or the compiled convolution would compute what it reads anew for each tap."""
        for part in ("_begin", "_end"):
            setattr(self, part, torch.compile(getattr(self, part)))

    def _begin(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x = torch.add(x, self.ffn1(x), alpha=0.5)
        x += self.attention(x, rotation, mask)
        return x, self.convolution.gated(x, mask)

    def _end(self, x: Tensor, gated: Tensor) -> Tensor:
        x += self.convolution(gated)
        x.add_(self.ffn2(x), alpha=0.5)
        return self.norm(x)


class _TransformerBlock(nn.Module):
    """See :class:`musicfm.model.encoder.TransformerBlock`."""

    def __init__(self, block: exact.TransformerBlock, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.attention = _SelfAttention(block.attention, dtype, int8)
        self.ffn = _FeedForward(block.ffn, dtype, int8)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = x + self.attention(x, rotation, mask)
        return x.add_(self.ffn(x))

    def compile_parts(self) -> None:
        """As a whole."""
        self.compile()


class _FeedForward(nn.Module):
    """See :class:`musicfm.model.encoder.FeedForward`."""

    def __init__(self, ffn: exact.FeedForward, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.norm = norm(ffn.norm)
        self.up, self.down = _product(ffn.up, dtype, int8), _product(ffn.down, dtype, int8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(self.norm(x)), inplace=True))


class _SelfAttention(nn.Module):
    """See :class:`musicfm.model.encoder.SelfAttention`."""

    def __init__(self, attention: exact.SelfAttention, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.num_heads, self.dtype = attention.num_heads, dtype
        self.norm = norm(attention.norm)
        self.query, self.key, self.value, self.out = (
            _product(layer, dtype, int8)
            for layer in (attention.query, attention.key, attention.value, attention.out)
        )

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x = self.norm(x)
        rotated = rotate(x, rotation, self.num_heads)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(rotated)),
            self._heads(self.key(rotated)),
            self._heads(self.value(x)),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.out(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, dim) to (batch, head, time, dim / heads)."""
        return x.to(self.dtype).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class _ConvolutionModule(nn.Module):
    """See :class:`musicfm.model.encoder.ConvolutionModule`; channels stay last."""

    weight: Tensor
    bias: Tensor

    def __init__(self, module: exact.ConvolutionModule, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.norm = norm(module.norm)
        self.pointwise1 = _product(module.pointwise1, dtype, int8)
        weight, bias = folded(module.depthwise, module.batch_norm)
        weight = weight[..., None].to(dtype)  # a column in two dimensions: there is a kernel for it
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        self.pointwise2 = _product(module.pointwise2, dtype, int8)

    def gated(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What comes before the convolution over time."""
        x = F.glu(self.pointwise1(self.norm(x))).to(self.weight.dtype)
        # A clip ends in zeros, as the convolution's own padding.
        return x if mask is None else x.masked_fill(~mask[..., None], 0.0)

    def forward(self, gated: Tensor) -> Tensor:
        """From there on."""
        return self.pointwise2(F.silu(self._depthwise(gated)))

    def _depthwise(self, x: Tensor) -> Tensor:
        weight, bias = self.weight[..., 0], self.bias
        if x.is_cuda and torch.compiler.is_compiling():
            return over_taps(x, weight, bias)
        half, channels = weight.shape[2] // 2, len(weight)
        if x.is_cuda:
            return F.conv1d(x.mT, weight, bias, padding=half, groups=channels).mT
        x = x.mT[..., None]
        return F.conv2d(x, self.weight, bias, padding=(half, 0), groups=channels)[..., 0].mT


def _product(layer: nn.Linear | nn.Conv1d, dtype: torch.dtype, int8: bool) -> nn.Module:
    """A layer of a block that maps each frame by itself."""
    weight = layer.weight.detach().flatten(1)  # of a convolution over one frame, too
    bias = None if layer.bias is None else layer.bias.detach()
    return Int8Linear(weight, bias) if int8 else Linear(weight, bias, dtype)
