"""The front end on a CPU, one clip at a time and some frames after others."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model.inference.convolutions import (
    TILE,
    VALUES,
    Workspace,
    convolution,
    steps_over,
)
from musicfm.model.inference.int8 import Int8ResidualBlock
from musicfm.model.inference.weights import folded, linear
from musicfm.model.musicfm import FrontEnd, ResidualBlock


class CpuFrontEnd(nn.Module):
    """See :class:`musicfm.model.musicfm.FrontEnd`."""

    def __init__(self, front_end: FrontEnd, dtype: torch.dtype, winograd: bool, int8: bool) -> None:
        super().__init__()
        blocks: Any = front_end.blocks
        self.blocks = nn.ModuleList(
            Int8ResidualBlock(block, dtype) if int8 else _ResidualBlock(block, dtype, winograd)
            for block in blocks
        )
        self.linear = linear(front_end.linear, dtype)
        self.dtype = torch.float32 if int8 else dtype

    def forward(self, mel: Tensor, num_mel_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, mel time, n_mels) to (batch, time, dim) float32, and each clip's frames."""
        batch, time, _ = mel.shape
        if num_mel_frames is None:
            return torch.stack([self.clip(clip) for clip in mel]), None
        clips = [self.clip(mel[i, :count]) for i, count in enumerate(num_mel_frames.tolist())]
        counts = torch.tensor([len(clip) for clip in clips])
        for block in self.blocks:
            assert isinstance(block, _ResidualBlock | Int8ResidualBlock)
            time = steps_over(time, block.strides[0])
        out = mel.new_zeros(batch, time, self.linear.out_features)
        for row, clip in zip(out, clips, strict=True):
            row[: len(clip)] = clip
        return out, counts

    def clip(self, mel: Tensor) -> Tensor:
        """(mel time, n_mels) to (time, dim) float32."""
        x = mel[..., None].to(self.dtype)
        workspace = Workspace()
        for block in self.blocks:
            x = block(x, workspace)
        return self.linear(x.transpose(1, 2).flatten(1)).float()


class _ResidualBlock(nn.Module):
    """See :class:`musicfm.model.musicfm.ResidualBlock`; two strided convolutions are one here."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype, winograd: bool) -> None:
        super().__init__()
        self.strides = (block.time_stride, 2)
        first, skip = folded(block.conv1, block.norm1), folded(block.conv_skip, block.norm_skip)
        both = torch.cat((first[0], skip[0])), torch.cat((first[1], skip[1]))
        self.strided = convolution(*both, self.strides, dtype, winograd)
        self.conv2 = convolution(*folded(block.conv2, block.norm2), (1, 1), dtype, winograd)

    def forward(self, x: Tensor, workspace: Workspace) -> Tensor:
        """(time, frequency, in_channels) to (time', frequency / 2, channels)."""
        time, bands = (steps_over(x.shape[axis], self.strides[axis]) for axis in (0, 1))
        channels = len(self.conv2.bias)
        out = x.new_empty(time, bands, channels)
        # One frame more on either side, for the second convolution: so the first fills its tiles.
        step = TILE * steps_over(VALUES, TILE * bands * channels) - 2
        for start in range(0, time, step):
            stop = min(start + step, time)
            both = self.strided(x, start - 1, stop + 1, workspace, "strided")
            y, skip = both.split(channels, dim=2)
            F.relu_(y)
            if start == 0:  # beyond the clip are zeros, as of the convolution's padding
                y[0] = 0.0
            if stop == time:
                y[-1] = 0.0
            y = self.conv2(y, 1, stop - start + 1, workspace, "conv2")
            torch.relu_(torch.add(y, skip[1:-1], out=out[start:stop]))
        return out
