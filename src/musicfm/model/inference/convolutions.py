"""3x3 convolutions of (time, frequency, channels) on a CPU: direct, or Winograd's.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016 (arXiv
1509.09308); the matrices are those of Toom and Cook, see Blahut, "Fast Algorithms for Signal
Processing".
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 4
"""Outputs of a Winograd convolution along either axis, computed together."""
VALUES = 2**20
"""Values of a block's output computed together: more are no faster, and need more memory."""
_WIDE = 64
"""Channels from which on Winograd's saving outweighs its transforms."""


class Workspace:
    """Memory by name, used again and again: fresh memory costs more than what is done in it."""

    def __init__(self) -> None:
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised, of a shape, in the type of ``like``; overwrites what has the same name."""
        size = math.prod(shape)
        taken = self._taken.get(name)
        if taken is None or len(taken) < size:
            self._taken[name] = taken = like.new_empty(size)
        return taken[:size].view(shape)


def convolution(
    weight: Tensor, bias: Tensor, strides: tuple[int, int], dtype: torch.dtype, winograd: bool
) -> "Convolution":
    outputs, inputs = weight.shape[:2]
    if inputs == 1:
        return OfOneChannel(weight.to(dtype), bias.to(dtype), strides)
    if winograd and dtype == torch.float32 and min(outputs, inputs) >= _WIDE:
        return Winograd(weight, bias, strides)
    return _Direct(weight.to(dtype), bias.to(dtype), strides)


class Convolution(nn.Module):
    """A 3x3 convolution of (time, frequency, in_channels), with zeros around."""

    bias: Tensor

    def __init__(self, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.register_buffer("bias", bias)

    def padded(self, x: Tensor, begin: int, shape: tuple[int, int], workspace: Workspace) -> Tensor:
        """What outputs from row ``begin`` on need: (*shape, in_channels), zero outside of x."""
        first = begin * self.strides[0] - 1
        out = workspace.take("padded", x, *shape, x.shape[2])
        inside = x[max(first, 0) : first + shape[0]]
        top, bands = max(-first, 0), x.shape[1]
        bottom = top + len(inside)
        out[:top] = out[bottom:] = 0.0
        out[top:bottom, 0] = out[top:bottom, bands + 1 :] = 0.0
        out[top:bottom, 1 : bands + 1] = inside
        return out


class OfOneChannel(Convolution):
    """The convolution as a product with the 3x3 patches of its input."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__(bias, strides)
        self.register_buffer("weight", weight.flatten(1).T.contiguous())

    def forward(self, x: Tensor, begin: int, end: int, workspace: Workspace, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        shape = (end - begin - 1) * self.strides[0] + 3, x.shape[1] + 2
        padded = self.padded(x, begin, shape, workspace)[..., 0]
        patches = padded.unfold(0, 3, self.strides[0]).unfold(1, 3, self.strides[1])
        out = workspace.take(name, x, *patches.shape[:2], len(self.bias))
        patches = patches.reshape(-1, self.weight.shape[0])
        torch.addmm(self.bias, patches, self.weight, out=out.view(-1, len(self.bias)))
        return out


class _Direct(Convolution):
    """The convolution of PyTorch, channels last."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__(bias, strides)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor, begin: int, end: int, workspace: Workspace, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        shape = (end - begin - 1) * self.strides[0] + 3, x.shape[1] + 2
        padded = self.padded(x, begin, shape, workspace).permute(2, 0, 1)[None]
        return F.conv2d(padded, self.weight, self.bias, self.strides)[0].permute(1, 2, 0)


class Winograd(Convolution):
    """The convolution with fewer products: of 4 x 4 outputs, 36 for 144, or 81 with stride 2.

    Each tile of the input is transformed, multiplied by the transformed weights position by
    position, and the products are transformed into outputs: ``A ((G w) * (B x))``.
    """

    outputs: Tensor
    inputs: Tensor
    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__(bias, strides)
        axes = zip(*(bilinear(stride) for stride in strides), strict=True)
        a, b, g = (torch.kron(*pair).float() for pair in axes)
        self.sizes = tuple((TILE - 1) * stride + 3 for stride in strides)
        self.register_buffer("outputs", a)
        self.register_buffer("inputs", b)
        w = weight.permute(2, 3, 1, 0)
        self.register_buffer("weight", (g @ w.flatten(2).flatten(0, 1)).unflatten(1, w.shape[2:]))

    def forward(self, x: Tensor, begin: int, end: int, workspace: Workspace, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        bands = steps_over(x.shape[1], self.strides[1])
        rows, columns = steps_over(end - begin, TILE), steps_over(bands, TILE)
        (row, column), (down, across) = self.sizes, (TILE * stride for stride in self.strides)
        shape = (rows - 1) * down + row, (columns - 1) * across + column
        padded = self.padded(x, begin, shape, workspace)
        tiles = padded.unfold(0, row, down).unfold(1, column, across)
        tiles = tiles.permute(0, 1, 3, 4, 2)  # (row, column, time, frequency, channel)
        # Two spaces in turn: what each held is not needed any more.
        gathered = workspace.take("even", x, *tiles.shape).copy_(tiles)
        gathered = gathered.view(rows * columns, -1, x.shape[2])
        count, products = len(gathered), len(self.inputs)
        transformed = workspace.take("odd", x, count, products, x.shape[2])
        torch.bmm(self.inputs.expand(count, -1, -1), gathered, out=transformed)
        product = workspace.take("even", x, products, count, len(self.bias))
        torch.bmm(transformed.transpose(0, 1), self.weight, out=product)
        y = workspace.take("odd", x, count, TILE**2, len(self.bias))
        torch.bmm(self.outputs.expand(count, -1, -1), product.transpose(0, 1), out=y)
        y = y.view(rows, columns, TILE, TILE, -1).transpose(1, 2)
        out = workspace.take(name, x, *y.shape)
        torch.add(y, self.bias, out=out)
        return out.view(rows * TILE, columns * TILE, -1)[: end - begin, :bands]


def bilinear(stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices A, B, G with which three taps g give four outputs of x, A ((G g) * (B x)), float64.

    With stride 2, output i is ``g0 x[2i] + g1 x[2i + 1] + g2 x[2i + 2]``: the samples of even
    number meet two taps, with stride 1, and those of odd number one tap.
    """
    if stride == 1:
        return toom_cook(TILE, 3, (0.0, 1.0, -1.0, 2.0, -2.0))
    a_even, b_even, g_even = toom_cook(TILE, 2, (0.0, 1.0, -1.0, 2.0))
    even, size = len(b_even), 2 * TILE + 1
    a = torch.cat((a_even, torch.eye(TILE, dtype=torch.float64)), dim=1)
    b, g = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, 3, dtype=torch.float64)
    b[:even, ::2] = b_even
    b[even:, 1::2] = torch.eye(TILE, dtype=torch.float64)
    g[:even, ::2] = g_even
    g[even:, 1] = 1.0
    return a, b, g


def toom_cook(outputs: int, taps: int, points: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """A, B, G of a convolution with stride 1, by ``outputs + taps - 2`` points and infinity."""
    size = outputs + taps - 1
    a, b, g = (
        torch.zeros(n, m, dtype=torch.float64)
        for n, m in ((outputs, size), (size, size), (size, taps))
    )
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        powers = point ** torch.arange(size, dtype=torch.float64)
        a[:, i] = powers[:outputs]
        b[i, :-1] = _polynomial(others)
        g[i] = powers[:taps] / math.prod(point - other for other in others)
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = _polynomial(points)
    return a, b, g


def _polynomial(roots: Sequence[float]) -> Tensor:
    """Coefficients of the polynomial with these roots, from the constant one up, float64."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


def steps_over(size: int, step: int) -> int:
    """How many steps cover a size."""
    return -(-size // step)
