"""Weights folded, or shared, for inference."""

import torch
from torch import Tensor, nn


def linear(layer: nn.Linear, dtype: torch.dtype) -> "Linear":
    """The same, in a type; shares its memory where nothing changes."""
    return Linear(layer.weight.detach(), layer.bias.detach(), dtype)


class Linear(nn.Linear):
    """Computes in the type of its weights, whatever comes."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = _constant(weight.to(dtype))
        if bias is not None:
            self.bias = _constant(bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """The same in float32."""
    copy = nn.LayerNorm(norm.normalized_shape, norm.eps, device="meta")
    copy.weight = _constant(norm.weight.detach().float())
    copy.bias = _constant(norm.bias.detach().float())
    return copy


def folded(
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


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
