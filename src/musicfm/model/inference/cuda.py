"""The front end on CUDA, a whole batch at a time."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model.encoder import padded_taps, patches
from musicfm.model.inference.convolutions import steps_over
from musicfm.model.inference.weights import Linear, folded
from musicfm.model.musicfm import FrontEnd, ResidualBlock, frame_mask


class CudaFrontEnd(nn.Module):
    """See :class:`musicfm.model.musicfm.FrontEnd`; images are (time, frequency), channels last."""

    def __init__(self, front_end: FrontEnd, dtype: torch.dtype) -> None:
        super().__init__()
        blocks: Any = front_end.blocks
        self.blocks = nn.ModuleList(_CudaResidualBlock(block, dtype) for block in blocks)
        weight, channels = front_end.linear.weight.detach(), blocks[-1].conv2.out_channels
        weight = weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        self.linear = Linear(weight, front_end.linear.bias.detach(), dtype)
        self.dtype = dtype

    def forward(self, mel: Tensor, num_mel_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, mel time, n_mels) to (batch, time, dim) float32, and each clip's frames."""
        count = num_mel_frames
        x = _zero_outside(mel[:, None].to(self.dtype), frame_mask(count, mel.shape[1]))
        for block in self.blocks:
            assert isinstance(block, _CudaResidualBlock)
            stride = block.strides[0]
            count = None if count is None else (count + stride - 1) // stride
            x = block(x, frame_mask(count, steps_over(x.shape[2], stride)))
        return self.linear(x.permute(0, 2, 3, 1).flatten(2)).float(), count


class _CudaResidualBlock(nn.Module):
    """See :class:`musicfm.model.musicfm.ResidualBlock`; what follows a convolution is fused."""

    first: Tensor
    second: Tensor
    skip: Tensor
    first_bias: Tensor
    bias: Tensor

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.strides = (block.time_stride, 2)
        self.in_channels = block.conv1.in_channels
        first, second, skip = (
            folded(convolution, norm)
            for convolution, norm in (
                (block.conv1, block.norm1),
                (block.conv2, block.norm2),
                (block.conv_skip, block.norm_skip),
            )
        )
        for name, weight in (("first", first[0]), ("second", second[0]), ("skip", skip[0])):
            layout = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            if self.in_channels == 1 and name != "second":
                layout = padded_taps(weight.to(dtype)).contiguous()
            self.register_buffer(name, layout)
        self.register_buffer("first_bias", first[1].to(dtype))
        self.register_buffer("bias", (second[1] + skip[1]).to(dtype))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, in_channels, time, frequency) to (batch, channels, time', frequency / 2)."""
        if self.in_channels == 1:
            seen = patches(x[:, 0], self.strides)
            rows = seen.flatten(0, 2)
            y = torch._addmm_activation(self.first_bias, rows, self.first.T)
            y, skip = (
                part.unflatten(0, seen.shape[:3]).permute(0, 3, 1, 2)
                for part in (y, rows @ self.skip.T)
            )
        else:
            y = _convolved(x, self.first, self.first_bias, self.strides)
            skip = F.conv2d(x, self.skip, None, self.strides, 1)
        y = _convolved(_zero_outside(y, mask), self.second, self.bias, (1, 1), skip)
        return _zero_outside(y, mask)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor, strides: tuple[int, int], plus: Tensor | None = None
) -> Tensor:
    """ReLU of a 3x3 convolution, and of something more; in one kernel where cuDNN has it."""
    if not (x.is_cuda and torch.version.cuda):
        y = F.conv2d(x, weight, bias, strides, 1)
        return F.relu(y if plus is None else y + plus)
    if plus is None:
        return torch.cudnn_convolution_relu(x, weight, bias, strides, (1, 1), (1, 1), 1)
    ones = (1, 1)
    return torch.cudnn_convolution_add_relu(x, weight, plus, 1.0, bias, strides, ones, ones, 1)


def _zero_outside(x: Tensor, mask: Tensor | None) -> Tensor:
    """As :func:`musicfm.model.musicfm.zero_outside`, for (batch, channels, time, frequency)."""
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], 0.0)
