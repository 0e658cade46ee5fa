"""Convolutions and products of 8-bit integers, by oneDNN, for one clip at a time."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model.inference.convolutions import (
    VALUES,
    OfOneChannel,
    Workspace,
    steps_over,
)
from musicfm.model.inference.weights import folded
from musicfm.model.musicfm import ResidualBlock

_TINY = 1e-30
"""Stands for the largest of values that are all zero."""


class Int8ResidualBlock(nn.Module):
    """See :class:`musicfm.model.musicfm.ResidualBlock`; with one channel it stays float32."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.strides, self.dtype = (block.time_stride, 2), dtype
        strided: Any = OfOneChannel if block.conv1.in_channels == 1 else _Int8Convolution
        self.conv1 = strided(*folded(block.conv1, block.norm1), self.strides)
        self.skip = strided(*folded(block.conv_skip, block.norm_skip), self.strides)
        self.conv2 = _Int8Convolution(*folded(block.conv2, block.norm2), (1, 1))

    def forward(self, x: Tensor, workspace: Workspace) -> Tensor:
        """(time, frequency, in_channels) to (time', frequency / 2, channels)."""
        time, bands = (steps_over(x.shape[axis], self.strides[axis]) for axis in (0, 1))
        channels = len(self.conv2.bias)
        y, out = (x.new_empty(time, bands, channels, dtype=self.dtype) for _ in range(2))
        step = steps_over(VALUES, bands * channels)
        parts = [(start, min(start + step, time)) for start in range(0, time, step)]
        if isinstance(self.conv1, OfOneChannel):
            for start, stop in parts:
                y[start:stop] = F.relu_(self.conv1(x, start, stop, workspace, "conv1"))
                out[start:stop] = self.skip(x, start, stop, workspace, "skip")
        else:
            integers, steps = _channelwise(x)
            first, skip = self.conv1.packed(steps), self.skip.packed(steps)
            for start, stop in parts:
                y[start:stop] = F.relu_(self.conv1(integers, start, stop, first, self.dtype))
                out[start:stop] = self.skip(integers, start, stop, skip, self.dtype)
        integers, steps = _channelwise(y)
        second = self.conv2.packed(steps)
        for start, stop in parts:
            self.conv2(integers, start, stop, second, self.dtype, out[start:stop])
        return out


class _Int8Convolution(nn.Module):
    """A 3x3 convolution of 8-bit integers, with zeros around.

    Each channel of the input has a scale of its own, from its largest value in the clip: what the
    result is depends on no other clip, and quiet channels keep their digits beside loud ones. The
    scales become part of the weights, whose integers therefore are the clip's, too.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def packed(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """The weights for an input in these steps, laid out for oneDNN, and the outputs' steps."""
        weight = self.weight * steps.view(-1, 1, 1)
        integers, out_steps = _rowwise(weight.flatten(1))
        prepack = torch.ops.onednn.qconv_prepack
        integers = integers.view(weight.shape)
        packed = prepack(integers, out_steps, 1.0, 0, self.strides, (0, 1), (1, 1), 1)
        return packed, out_steps

    def forward(
        self,
        x: Tensor,
        begin: int,
        end: int,
        packed: tuple[Tensor, Tensor],
        dtype: torch.dtype,
        onto: Tensor | None = None,
    ) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels).

        Args:
            x: of :func:`_channelwise`.
            packed: of :meth:`packed`, for the steps of x.
            dtype: of the result.
            onto: to be added to, in place; a ReLU follows.
        """
        stride, zeros = self.strides[0], torch.zeros(len(self.bias), dtype=torch.int32)
        rows = _image(x[begin * stride : (end - 1) * stride + 3])
        product = rows, 1.0, 0, *packed, zeros
        layout = self.bias, self.strides, (0, 1), (1, 1), 1, 1.0, 0, dtype
        onednn: Any = torch.ops.onednn
        if onto is None:
            out = onednn.qconv2d_pointwise(*product, *layout, "none", [], "")
        else:
            operands = *product, _image(onto), *layout, 1.0, 0
            out = onednn.qconv2d_pointwise.binary(*operands, "sum", 1.0, "relu", [], "")
        return out[0].permute(1, 2, 0)


class Int8Linear(nn.Module):
    """A linear layer of 8-bit integers, for one clip at a time.

    Each frame and each output has a step of its own. What is rounded are the frames without their
    mean over the clip: the mean is often most of a frame, and its error then most of what tells
    frames apart. It takes part as one row more.
    """

    weight: Tensor
    steps: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        integers, steps = _rowwise(weight.float())
        self.register_buffer("weight", integers.T.contiguous())
        self.register_buffer("steps", steps[:, 0])
        self.register_buffer("bias", None if bias is None else bias.float())

    def forward(self, x: Tensor) -> Tensor:
        """(1, time, in_features) to (1, time, out_features) float32."""
        frames = x[0].float()
        rows = frames.new_empty(len(frames) + 1, frames.shape[1])
        torch.mean(frames, 0, out=rows[-1])
        torch.sub(frames, rows[-1], out=rows[:-1])
        integers, steps = _rowwise(rows)
        out = torch._int_mm(integers, self.weight).float().mul_(steps)
        constant = out[-1] * self.steps
        constant = constant if self.bias is None else constant + self.bias
        return torch.addcmul(constant, out[:-1], self.steps)[None]


def _channelwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(time, frequency, channels), not negative, to integers with a step per channel.

    Returns:
        (1 + time + 1, frequency, channels) uint8 between two frames of zeros, and (channels,)
        float32.
    """
    # Not 255: in bfloat16 the product with a rounded factor could be 256.
    factors = (254.0 / x.amax((0, 1)).float().clamp_min(_TINY)).to(x.dtype)
    out = x.new_empty(len(x) + 2, *x.shape[1:], dtype=torch.uint8)
    out[0] = out[-1] = 0
    step = steps_over(VALUES, x[0].numel())
    for part, integers in zip(x.split(step), out[1:-1].split(step), strict=True):
        integers.copy_(torch.mul(part, factors).round_())
    return out, 1.0 / factors.float()


def _rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, values) to int8 with a step per row, and the steps (rows, 1), float32."""
    steps = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
    steps = (steps / 127.0).clamp_min_(_TINY)
    return torch.div(x, steps).round_().to(torch.int8), steps


def _image(x: Tensor) -> Tensor:
    """(time, frequency, channels) as oneDNN has them: (1, channels, time, frequency)."""
    return x.permute(2, 0, 1)[None]
