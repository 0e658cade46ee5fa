"""The model laid out for inference on a CPU: the same function in fewer, larger operations.

Weights are folded and laid out once. BatchNorm becomes part of the convolution before it; the two
strided convolutions of a front-end block, which share their input, become one; wide 3x3
convolutions run as Winograd's; frames stay (time, feature) throughout, so that no convolution
copies them into another layout. The front end computes one clip at a time, some frames after
others, which bounds its memory and makes a clip in a padded batch exactly a clip alone.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016 (arXiv
1509.09308); the matrices are those of Toom and Cook, see Blahut, "Fast Algorithms for Signal
Processing".
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm import encoder as exact
from musicfm.encoder import over_taps, padded_taps, patches, rotate
from musicfm.errors import ConfigError
from musicfm.model import FrontEnd, MusicFM, ResidualBlock, frame_mask

_TILE = 4
"""Outputs of a Winograd convolution along either axis, computed together."""
_VALUES = 2**20
"""Values of a block's output computed together: more are no faster, and need more memory."""
_WIDE = 64
"""Channels from which on Winograd's saving outweighs its transforms."""
_TINY = 1e-30
"""Stands for the largest of values that are all zero."""


def optimize(
    model: MusicFM, *, winograd: bool = True, int8: bool = False, compile: bool = False
) -> "InferenceModel":
    """The inference form of a model on a CPU or on CUDA; the model itself stays as it is.

    It gives what the model gives in eval mode, within 1e-4 in float32, and knows no gradients. It
    holds the weights of this moment, folded or shared: once the model has changed, make another. A
    model in bfloat16 or float16 is computed so between float32 residuals. A CPU does that with
    bfloat16 where it multiplies bfloat16 natively, and else computes in float32, which is then
    faster.

    Args:
        model: on a CPU or on CUDA.
        winograd: whether wide convolutions may use Winograd's arithmetic, in float32 on a CPU.
        int8: on a CPU, whether the convolutions and the products of the blocks are of 8-bit
            integers; what is between them is in bfloat16 where the CPU multiplies that natively. On
            music, nano's frames then have a cosine of 0.9997 or more with those of float32.
        compile: whether PyTorch's compiler fuses what is between products. On a GPU that saves a
            quarter of the time, after some ten seconds of work for each new shape.

    Raises ConfigError for a model on another device, or int8 without instructions for it.
    """
    if model.device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no inference form for {model.device}, where the model is")
    if int8 and model.device.type != "cpu":
        raise ConfigError(f"int8 is for CPUs, and the model is on {model.device}")
    if int8 and not multiplies_int8():
        raise ConfigError(
            "this CPU has no AVX512-VNNI instructions, without which int8 is slow and inexact; "
            "compute in bfloat16 or float32"
        )
    dtype = model.dtype
    if model.device.type == "cpu":
        native = (dtype == torch.bfloat16 or int8) and multiplies_bfloat16()
        dtype = torch.bfloat16 if native else torch.float32
    with torch.no_grad():
        return InferenceModel(model, dtype, winograd, int8, compile)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def multiplies_int8() -> bool:
    """Whether this CPU has instructions for products of 8-bit integers, summed in 32 bits.

    Without them oneDNN sums pairs in 16 bits, which overflow.
    """
    return torch.cpu._is_vnni_supported()


class InferenceModel(MusicFM):
    """What :func:`optimize` returns: called like the model, hidden states in float32."""

    def __init__(
        self, model: MusicFM, dtype: torch.dtype, winograd: bool, int8: bool, compile: bool
    ) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        self.mel = model.mel
        front_end: Any = (
            _CudaFrontEnd(model.front_end, dtype)
            if model.device.type == "cuda"
            else _FrontEnd(model.front_end, dtype, winograd, int8)
        )
        self.front_end = front_end
        self.encoder = _Encoder(model.encoder, dtype, int8)
        self.quantizer = model.quantizer
        self.head = _linear(model.head, torch.float32)
        self.eval()
        if compile:
            for block in self.encoder.blocks:
                block.compile_parts()  # type: ignore[operator]

    forward = torch.no_grad()(MusicFM.forward)

    def state_dict(self, *args: Any, **options: Any) -> NoReturn:
        """Raises ConfigError: folded weights are not for keeping."""
        raise ConfigError("the inference form is not for saving; save the model it was made from")


# ---------------------------------------------------------------------------- front end


class _FrontEnd(nn.Module):
    """See :class:`musicfm.model.FrontEnd`."""

    def __init__(self, front_end: FrontEnd, dtype: torch.dtype, winograd: bool, int8: bool) -> None:
        super().__init__()
        blocks: Any = front_end.blocks
        self.blocks = nn.ModuleList(
            _Int8ResidualBlock(block, dtype) if int8 else _ResidualBlock(block, dtype, winograd)
            for block in blocks
        )
        self.linear = _linear(front_end.linear, dtype)
        self.dtype = torch.float32 if int8 else dtype

    def forward(self, mel: Tensor, num_mel_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, mel time, n_mels) to (batch, time, dim) float32, and each clip's frames."""
        batch, time, _ = mel.shape
        if num_mel_frames is None:
            return torch.stack([self.clip(clip) for clip in mel]), None
        clips = [self.clip(mel[i, :count]) for i, count in enumerate(num_mel_frames.tolist())]
        counts = torch.tensor([len(clip) for clip in clips])
        for block in self.blocks:
            assert isinstance(block, _ResidualBlock | _Int8ResidualBlock)
            time = _over(time, block.strides[0])
        out = mel.new_zeros(batch, time, self.linear.out_features)
        for row, clip in zip(out, clips, strict=True):
            row[: len(clip)] = clip
        return out, counts

    def clip(self, mel: Tensor) -> Tensor:
        """(mel time, n_mels) to (time, dim) float32."""
        x = mel[..., None].to(self.dtype)
        space = _Space()
        for block in self.blocks:
            x = block(x, space)
        return self.linear(x.transpose(1, 2).flatten(1)).float()


class _ResidualBlock(nn.Module):
    """See :class:`musicfm.model.ResidualBlock`; its two strided convolutions are one here."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype, winograd: bool) -> None:
        super().__init__()
        self.strides = (block.time_stride, 2)
        first, skip = _folded(block.conv1, block.norm1), _folded(block.conv_skip, block.norm_skip)
        both = torch.cat((first[0], skip[0])), torch.cat((first[1], skip[1]))
        self.strided = _convolution(*both, self.strides, dtype, winograd)
        self.conv2 = _convolution(*_folded(block.conv2, block.norm2), (1, 1), dtype, winograd)

    def forward(self, x: Tensor, space: "_Space") -> Tensor:
        """(time, frequency, in_channels) to (time', frequency / 2, channels)."""
        time, bands = (_over(x.shape[axis], self.strides[axis]) for axis in (0, 1))
        channels = len(self.conv2.bias)
        out = x.new_empty(time, bands, channels)
        # One frame more on either side, for the second convolution: so the first fills its tiles.
        step = _TILE * _over(_VALUES, _TILE * bands * channels) - 2
        for start in range(0, time, step):
            stop = min(start + step, time)
            both = self.strided(x, start - 1, stop + 1, space, "strided")
            y, skip = both.split(channels, dim=2)
            F.relu_(y)
            if start == 0:  # beyond the clip are zeros, as of the convolution's padding
                y[0] = 0.0
            if stop == time:
                y[-1] = 0.0
            y = self.conv2(y, 1, stop - start + 1, space, "conv2")
            torch.relu_(torch.add(y, skip[1:-1], out=out[start:stop]))
        return out


class _Int8ResidualBlock(nn.Module):
    """See :class:`musicfm.model.ResidualBlock`; of one channel, convolutions stay float32."""

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.strides, self.dtype = (block.time_stride, 2), dtype
        strided: Any = _OfOneChannel if block.conv1.in_channels == 1 else _Int8Convolution
        self.conv1 = strided(*_folded(block.conv1, block.norm1), self.strides)
        self.skip = strided(*_folded(block.conv_skip, block.norm_skip), self.strides)
        self.conv2 = _Int8Convolution(*_folded(block.conv2, block.norm2), (1, 1))

    def forward(self, x: Tensor, space: "_Space") -> Tensor:
        """(time, frequency, in_channels) to (time', frequency / 2, channels)."""
        time, bands = (_over(x.shape[axis], self.strides[axis]) for axis in (0, 1))
        channels = len(self.conv2.bias)
        y, out = (x.new_empty(time, bands, channels, dtype=self.dtype) for _ in range(2))
        step = _over(_VALUES, bands * channels)
        parts = [(start, min(start + step, time)) for start in range(0, time, step)]
        if isinstance(self.conv1, _OfOneChannel):
            for start, stop in parts:
                y[start:stop] = F.relu_(self.conv1(x, start, stop, space, "conv1"))
                out[start:stop] = self.skip(x, start, stop, space, "skip")
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


class _Space:
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


def _convolution(
    weight: Tensor, bias: Tensor, strides: tuple[int, int], dtype: torch.dtype, winograd: bool
) -> "_Convolution":
    outputs, inputs = weight.shape[:2]
    if inputs == 1:
        return _OfOneChannel(weight.to(dtype), bias.to(dtype), strides)
    if winograd and dtype == torch.float32 and min(outputs, inputs) >= _WIDE:
        return _Winograd(weight, bias, strides)
    return _Direct(weight.to(dtype), bias.to(dtype), strides)


class _Convolution(nn.Module):
    """A 3x3 convolution of (time, frequency, in_channels), with zeros around."""

    bias: Tensor

    def __init__(self, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.register_buffer("bias", bias)

    def padded(self, x: Tensor, begin: int, shape: tuple[int, int], space: _Space) -> Tensor:
        """What outputs from row ``begin`` on need: (*shape, in_channels), zero outside of x."""
        first = begin * self.strides[0] - 1
        out = space.take("padded", x, *shape, x.shape[2])
        inside = x[max(first, 0) : first + shape[0]]
        top, bands = max(-first, 0), x.shape[1]
        bottom = top + len(inside)
        out[:top] = out[bottom:] = 0.0
        out[top:bottom, 0] = out[top:bottom, bands + 1 :] = 0.0
        out[top:bottom, 1 : bands + 1] = inside
        return out


class _OfOneChannel(_Convolution):
    """The convolution as a product with the 3x3 patches of its input."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__(bias, strides)
        self.register_buffer("weight", weight.flatten(1).T.contiguous())

    def forward(self, x: Tensor, begin: int, end: int, space: _Space, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        shape = (end - begin - 1) * self.strides[0] + 3, x.shape[1] + 2
        padded = self.padded(x, begin, shape, space)[..., 0]
        patches = padded.unfold(0, 3, self.strides[0]).unfold(1, 3, self.strides[1])
        out = space.take(name, x, *patches.shape[:2], len(self.bias))
        patches = patches.reshape(-1, self.weight.shape[0])
        torch.addmm(self.bias, patches, self.weight, out=out.view(-1, len(self.bias)))
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


def _image(x: Tensor) -> Tensor:
    """(time, frequency, channels) as oneDNN has them: (1, channels, time, frequency)."""
    return x.permute(2, 0, 1)[None]


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
    step = _over(_VALUES, x[0].numel())
    for part, integers in zip(x.split(step), out[1:-1].split(step), strict=True):
        integers.copy_(torch.mul(part, factors).round_())
    return out, 1.0 / factors.float()


def _rowwise(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, values) to int8 with a step per row, and the steps (rows, 1), float32."""
    steps = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
    steps = (steps / 127.0).clamp_min_(_TINY)
    return torch.div(x, steps).round_().to(torch.int8), steps


class _Direct(_Convolution):
    """The convolution of PyTorch, channels last."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, strides: tuple[int, int]) -> None:
        super().__init__(bias, strides)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor, begin: int, end: int, space: _Space, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        shape = (end - begin - 1) * self.strides[0] + 3, x.shape[1] + 2
        padded = self.padded(x, begin, shape, space).permute(2, 0, 1)[None]
        return F.conv2d(padded, self.weight, self.bias, self.strides)[0].permute(1, 2, 0)


class _Winograd(_Convolution):
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
        self.sizes = tuple((_TILE - 1) * stride + 3 for stride in strides)
        self.register_buffer("outputs", a)
        self.register_buffer("inputs", b)
        w = weight.permute(2, 3, 1, 0)
        self.register_buffer("weight", (g @ w.flatten(2).flatten(0, 1)).unflatten(1, w.shape[2:]))

    def forward(self, x: Tensor, begin: int, end: int, space: _Space, name: str) -> Tensor:
        """Rows ``begin`` to ``end`` of the result, (time', frequency', channels)."""
        bands = _over(x.shape[1], self.strides[1])
        rows, columns = _over(end - begin, _TILE), _over(bands, _TILE)
        (row, column), (down, across) = self.sizes, (_TILE * stride for stride in self.strides)
        shape = (rows - 1) * down + row, (columns - 1) * across + column
        padded = self.padded(x, begin, shape, space)
        tiles = padded.unfold(0, row, down).unfold(1, column, across)
        tiles = tiles.permute(0, 1, 3, 4, 2)  # (row, column, time, frequency, channel)
        # Two spaces in turn: what each held is not needed any more.
        gathered = space.take("even", x, *tiles.shape).copy_(tiles)
        gathered = gathered.view(rows * columns, -1, x.shape[2])
        count, products = len(gathered), len(self.inputs)
        transformed = space.take("odd", x, count, products, x.shape[2])
        torch.bmm(self.inputs.expand(count, -1, -1), gathered, out=transformed)
        product = space.take("even", x, products, count, len(self.bias))
        torch.bmm(transformed.transpose(0, 1), self.weight, out=product)
        y = space.take("odd", x, count, _TILE**2, len(self.bias))
        torch.bmm(self.outputs.expand(count, -1, -1), product.transpose(0, 1), out=y)
        y = y.view(rows, columns, _TILE, _TILE, -1).transpose(1, 2)
        out = space.take(name, x, *y.shape)
        torch.add(y, self.bias, out=out)
        return out.view(rows * _TILE, columns * _TILE, -1)[: end - begin, :bands]


def bilinear(stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices A, B, G with which three taps g give four outputs of x, A ((G g) * (B x)), float64.

    With stride 2, output i is ``g0 x[2i] + g1 x[2i + 1] + g2 x[2i + 2]``: the samples of even
    number meet two taps, with stride 1, and those of odd number one tap.
    """
    if stride == 1:
        return toom_cook(_TILE, 3, (0.0, 1.0, -1.0, 2.0, -2.0))
    a_even, b_even, g_even = toom_cook(_TILE, 2, (0.0, 1.0, -1.0, 2.0))
    even, size = len(b_even), 2 * _TILE + 1
    a = torch.cat((a_even, torch.eye(_TILE, dtype=torch.float64)), dim=1)
    b, g = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, 3, dtype=torch.float64)
    b[:even, ::2] = b_even
    b[even:, 1::2] = torch.eye(_TILE, dtype=torch.float64)
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


def _over(size: int, step: int) -> int:
    """How many steps cover a size."""
    return -(-size // step)


def _polynomial(roots: Sequence[float]) -> Tensor:
    """Coefficients of the polynomial with these roots, from the constant one up, float64."""
    coefficients = torch.ones(1, dtype=torch.float64)
    for root in roots:
        coefficients = F.pad(coefficients, (1, 0)) - root * F.pad(coefficients, (0, 1))
    return coefficients


# --------------------------------------------------------------------- front end on CUDA


class _CudaFrontEnd(nn.Module):
    """See :class:`musicfm.model.FrontEnd`; images are (time, frequency) with the channels last."""

    def __init__(self, front_end: FrontEnd, dtype: torch.dtype) -> None:
        super().__init__()
        blocks: Any = front_end.blocks
        self.blocks = nn.ModuleList(_CudaResidualBlock(block, dtype) for block in blocks)
        weight, channels = front_end.linear.weight.detach(), blocks[-1].conv2.out_channels
        weight = weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
        self.linear = _Linear(weight, front_end.linear.bias.detach(), dtype)
        self.dtype = dtype

    def forward(self, mel: Tensor, num_mel_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(batch, mel time, n_mels) to (batch, time, dim) float32, and each clip's frames."""
        count = num_mel_frames
        x = _zero_outside(mel[:, None].to(self.dtype), frame_mask(count, mel.shape[1]))
        for block in self.blocks:
            assert isinstance(block, _CudaResidualBlock)
            stride = block.strides[0]
            count = None if count is None else (count + stride - 1) // stride
            x = block(x, frame_mask(count, _over(x.shape[2], stride)))
        return self.linear(x.permute(0, 2, 3, 1).flatten(2)).float(), count


class _CudaResidualBlock(nn.Module):
    """See :class:`musicfm.model.ResidualBlock`; what follows a convolution is fused with it."""

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
            _folded(convolution, norm)
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
    """As :func:`musicfm.model.zero_outside`, for (batch, channels, time, frequency)."""
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], 0.0)


# ------------------------------------------------------------------------------ encoder


class _Encoder(exact.Encoder):
    """See :class:`musicfm.encoder.Encoder`."""

    def __init__(self, encoder: exact.Encoder, dtype: torch.dtype, int8: bool) -> None:
        nn.Module.__init__(self)
        blocks: Any = encoder.blocks
        self.blocks = nn.ModuleList(
            _ConformerBlock(block, dtype, int8)
            if isinstance(block, exact.ConformerBlock)
            else _TransformerBlock(block, dtype, int8)
            for block in blocks
        )
        self.norm = _norm(encoder.norm)
        self.dropout = nn.Dropout(0.0)
        self.register_buffer("inv_freq", encoder.inv_freq, persistent=False)
        self.activation_checkpointing = False
        self.int8 = int8

    def forward(self, x: Tensor, mask: Tensor | None, layers: Sequence[int]) -> list[Tensor]:
        """See :meth:`musicfm.encoder.Encoder.forward`; with int8, one clip after another."""
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
    """See :class:`musicfm.encoder.ConformerBlock`."""

    def __init__(self, block: exact.ConformerBlock, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.ffn1 = _FeedForward(block.ffn1, dtype, int8)
        self.attention = _SelfAttention(block.attention, dtype, int8)
        self.convolution = _ConvolutionModule(block.convolution, dtype, int8)
        self.ffn2 = _FeedForward(block.ffn2, dtype, int8)
        self.norm = _norm(block.norm)

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
    """See :class:`musicfm.encoder.TransformerBlock`."""

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
    """See :class:`musicfm.encoder.FeedForward`."""

    def __init__(self, ffn: exact.FeedForward, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.norm = _norm(ffn.norm)
        self.up, self.down = _product(ffn.up, dtype, int8), _product(ffn.down, dtype, int8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(self.norm(x)), inplace=True))


class _SelfAttention(nn.Module):
    """See :class:`musicfm.encoder.SelfAttention`."""

    def __init__(self, attention: exact.SelfAttention, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.num_heads, self.dtype = attention.num_heads, dtype
        self.norm = _norm(attention.norm)
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
    """See :class:`musicfm.encoder.ConvolutionModule`; channels stay last."""

    weight: Tensor
    bias: Tensor

    def __init__(self, module: exact.ConvolutionModule, dtype: torch.dtype, int8: bool) -> None:
        super().__init__()
        self.norm = _norm(module.norm)
        self.pointwise1 = _product(module.pointwise1, dtype, int8)
        weight, bias = _folded(module.depthwise, module.batch_norm)
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


# ------------------------------------------------------------------------------ weights


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _linear(layer: nn.Linear, dtype: torch.dtype) -> "_Linear":
    """The same, in a type; shares its memory where nothing changes."""
    return _Linear(layer.weight.detach(), layer.bias.detach(), dtype)


def _product(layer: nn.Linear | nn.Conv1d, dtype: torch.dtype, int8: bool) -> nn.Module:
    """A layer of a block that maps each frame by itself."""
    weight = layer.weight.detach().flatten(1)  # of a convolution over one frame, too
    bias = None if layer.bias is None else layer.bias.detach()
    return _Int8Linear(weight, bias) if int8 else _Linear(weight, bias, dtype)


class _Linear(nn.Linear):
    """Computes in the type of its weights, whatever comes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = _constant(weight.to(dtype))
        if bias is not None:
            self.bias = _constant(bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class _Int8Linear(nn.Module):
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


def _norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """The same in float32."""
    copy = nn.LayerNorm(norm.normalized_shape, norm.eps, device="meta")
    copy.weight = _constant(norm.weight.detach().float())
    copy.bias = _constant(norm.bias.detach().float())
    return copy


def _folded(
    convolution: nn.Conv1d | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, of a convolution that does what BatchNorm does after it.

    Those of two dimensions get (time, frequency) for (frequency, time).
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.float() / (norm.running_var.float() + norm.eps).sqrt()
    shift = norm.bias.float() - norm.running_mean.float() * scale
    weight = convolution.weight.float() * scale.view(-1, *[1] * (convolution.weight.dim() - 1))
    bias = shift if convolution.bias is None else shift + convolution.bias.float() * scale
    return (weight.transpose(2, 3) if weight.dim() == 4 else weight), bias
