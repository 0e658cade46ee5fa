"""The model laid out for inference: the same function in fewer, larger operations.

Weights are folded and laid out once. BatchNorm becomes part of the convolution before it; frames
stay (time, feature) throughout, so that no convolution copies them into another layout.

On a CPU, the two strided convolutions of a front-end block, which share their input, become one;
wide 3x3 convolutions run as Winograd's. The front end computes one clip at a time, some frames
after others, which bounds its memory and makes a clip in a padded batch exactly a clip alone. On
CUDA it computes a batch at a time, and what follows a convolution is part of its kernel.
"""

from copy import deepcopy
from typing import Any, NoReturn

import torch

from musicfm.errors import ConfigError
from musicfm.model.inference.cuda import CudaFrontEnd
from musicfm.model.inference.encoder import InferenceEncoder
from musicfm.model.inference.front_end import CpuFrontEnd
from musicfm.model.inference.weights import linear
from musicfm.model.musicfm import MusicFM, Parts


def optimize(
    model: MusicFM, *, winograd: bool = True, int8: bool = False, compile: bool = False
) -> "InferenceModel":
    """A model optimised for inference, on a CPU or on CUDA; the model itself stays as it is.

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
            music, nano's frames then have a cosine of 0.9993 or more with those of float32.
        compile: on CUDA, whether PyTorch's compiler fuses what is between products. At full size
            that saves a tenth of the time, after some ten seconds of work for each new shape.

    Raises ConfigError for a model on another device, one that is optimised already, int8 without
    instructions for it, or compiling on a CPU, where it gains nothing.
    """
    if isinstance(model, InferenceModel):
        raise ConfigError("the model is optimised already; give the one that it was made from")
    if model.device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"a model on {model.device} cannot be optimised; move it to a CPU or CUDA"
        )
    if int8 and model.device.type != "cpu":
        raise ConfigError(f"int8 is for CPUs, and the model is on {model.device}")
    if compile and model.device.type != "cuda":
        raise ConfigError(
            f"compiling is for CUDA, and the model is on {model.device}; leave it out"
        )
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
        front_end: Any = (
            CudaFrontEnd(model.front_end, dtype)
            if model.device.type == "cuda"
            else CpuFrontEnd(model.front_end, dtype, winograd, int8)
        )
        encoder: Any = InferenceEncoder(model.encoder, dtype, int8)
        pitch = None if model.pitch is None else deepcopy(model.pitch).to(dtype)
        head: Any = linear(model.head, torch.float32)
        parts = Parts(model.mel, front_end, pitch, encoder, model.quantizer, head)
        super().__init__(model.config, parts)
        self.eval()
        if compile:
            for block in self.encoder.blocks:
                block.compile_parts()  # type: ignore[operator]

    forward = torch.no_grad()(MusicFM.forward)

    def state_dict(self, *args: Any, **options: Any) -> NoReturn:
        """Raises ConfigError: folded weights are not for keeping."""
        raise ConfigError("an optimised model cannot be saved; save the one that it was made from")
