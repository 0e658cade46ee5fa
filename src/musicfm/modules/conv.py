"""The convolutional front end, as MusicFM's authors call it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from musicfm.errors import AudioError
from musicfm.model.inference.front_end import CpuFrontEnd
from musicfm.modules.hooks import is_hooked, run_convolution

PIECE = 750
"""Output frames of a long clip that are computed at once."""
MARGIN = 4
"""Output frames beyond a piece's end on either side that share mel frames with it, at most."""
WORTH_FOLDING = 500
"""Mel frames from which on less work makes up for the 0.2 s that folding takes at full size."""


class Res2dModule(nn.Module):
    """Two 3x3 convolutions beside a third one: see :class:`musicfm.model.ResidualBlock`.

    There is no third one where the input has the shape of the output.

    Args:
        idim: channels of the input.
        odim: channels of the output.
        stride: along frequency and time.
    """

    norm1: Any = property(lambda self: self.bn1)
    norm2: Any = property(lambda self: self.bn2)
    conv_skip: Any = property(lambda self: self.conv3)
    norm_skip: Any = property(lambda self: self.bn3)
    time_stride: Any = property(lambda self: self.conv1.stride[1])

    def __init__(self, idim: int, odim: int, stride: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(idim, odim, 3, padding=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(odim)
        self.conv2 = nn.Conv2d(odim, odim, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(odim)
        self.relu = nn.ReLU()
        self.diff = idim != odim or stride[0] > 1
        if self.diff:
            self.conv3 = nn.Conv2d(idim, odim, 3, padding=1, stride=stride)
            self.bn3 = nn.BatchNorm2d(odim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, idim, frequency, time) to (batch, odim, frequency', time')."""
        out = self.relu(self.bn1(run_convolution(self.conv1, x)))
        out = self.bn2(run_convolution(self.conv2, out))
        skip = self.bn3(run_convolution(self.conv3, x)) if self.diff else x
        return self.relu(skip + out)


class Conv2dSubsampling(nn.Module):
    """Two residual modules and a Linear: see :class:`musicfm.model.FrontEnd`.

    Args:
        idim: channels of the input.
        hdim: channels within.
        odim: features of the output.
        strides: of the two modules along time.
        n_bands: frequency bands, a multiple of 4.
    """

    blocks: Any = property(lambda self: self.conv)

    def __init__(
        self, idim: int, hdim: int, odim: int, strides: Sequence[int] = (2, 2), n_bands: int = 64
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Res2dModule(idim, hdim, (2, strides[0])), Res2dModule(hdim, hdim, (2, strides[1]))
        )
        self.linear = nn.Linear(hdim * (n_bands // 4), odim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, bands, time) or (batch, idim, bands, time) to (batch, time', odim).

        In eval mode without gradients, long clips are computed piece by piece, and on a CPU in
        float32 with fewer products, as :func:`musicfm.optimize` does, from the weights of this
        moment: the result is the same but for rounding. Hooks, or parts that were replaced, get
        every convolution as it stands.
        """
        if x.dim() not in (3, 4):
            raise AudioError(f"mel has shape {tuple(x.shape)}; give (batch, bands, time)")
        x = x if x.dim() == 4 else x[:, None]
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if traced or self._is_watched(x) or not self._is_as_made():
            return self._whole(x)
        compute: Callable[[Tensor], Tensor] = self._whole
        if self._gains_from_folding(x):
            parts: Any = self  # has the names of a front end's, too
            folded = CpuFrontEnd(parts, torch.float32, winograd=True, int8=False)
            compute = lambda part: folded(part[:, 0].mT, None)[0]  # noqa: E731
        return in_pieces(compute, x, math.prod(block.time_stride for block in self.blocks))

    def _whole(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).permute(0, 3, 1, 2).flatten(2))

    def _is_as_made(self) -> bool:
        """Whether nothing was changed but weights, and strides along time."""
        if [type(module) for module in self.modules()] != [Conv2dSubsampling, *_PARTS]:
            return False
        norms = [part for part in self.modules() if isinstance(part, nn.BatchNorm2d)]
        if self.linear.bias is None or any(
            n.weight is None or n.running_mean is None for n in norms
        ):
            return False
        for block in self.conv:
            assert isinstance(block, Res2dModule)
            for conv, strides in (
                (block.conv1, [(2, 1), (2, 2)]),
                (block.conv2, [(1, 1)]),
                (block.conv3, [block.conv1.stride]),
            ):
                shape = conv.kernel_size, conv.padding, conv.dilation, conv.groups
                if conv.stride not in strides or shape != ((3, 3), (1, 1), (1, 1), 1):
                    return False
                if conv.padding_mode != "zeros":
                    return False
        return True

    def _is_watched(self, x: Tensor) -> bool:
        """Whether gradients, training, or hooks need the plain modules."""
        parts = list(self.modules())
        weights = list(self.parameters())
        return bool(
            type(x) is not Tensor
            or (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)))
            or any(part.training for part in parts)
            or is_hooked(*self.children())
        )

    def _gains_from_folding(self, x: Tensor) -> bool:
        batch, channels, _, time = x.shape
        tensors = x, *self.parameters()
        return (
            batch * time >= WORTH_FOLDING
            and channels == 1
            and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
            and not torch.is_autocast_enabled("cpu")
        )


_PARTS = [
    nn.Sequential,
    *2 * [Res2dModule, *2 * [nn.Conv2d, nn.BatchNorm2d], nn.ReLU, nn.Conv2d, nn.BatchNorm2d],
    nn.Linear,
]


def in_pieces(compute: Callable[[Tensor], Tensor], x: Tensor, stride: int) -> Tensor:
    """What a front end makes of a long clip, piece by piece.

    Each piece is computed with what its frames see on either side, so that the result is the same.

    Args:
        compute: (batch, channels, bands, time) to (batch, time / stride, dim).
        x: (batch, channels, bands, time).
        stride: frames of x per frame of the result.
    """
    frames = -(-x.shape[-1] // stride)
    pieces = []
    for start in range(0, frames, PIECE):
        before = min(start, MARGIN)
        part = x[..., (start - before) * stride : (start + PIECE + MARGIN) * stride]
        pieces.append(compute(part)[:, before : before + PIECE])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
