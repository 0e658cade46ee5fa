"""Whether anybody sees or changes what a module does, so that it has to run as it stands."""

from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from musicfm.model.encoder import convolve


def is_hooked(*modules: nn.Module) -> bool:
    """Whether there are hooks on any of the modules or their parts, or other forward methods."""
    return torch_module._has_any_global_hook() or any(
        "forward" in vars(part)
        or part._forward_pre_hooks
        or part._forward_hooks
        or part._backward_pre_hooks
        or part._backward_hooks
        for part in chain.from_iterable(module.modules() for module in modules)
    )


def run_convolution(convolution: nn.Module, x: Tensor) -> Tensor:
    """Calls a convolution, where it is faster by :func:`musicfm.model.encoder.convolve`."""
    if type(convolution) not in (nn.Conv1d, nn.Conv2d) or is_hooked(convolution):
        return convolution(x)
    assert isinstance(convolution, nn.Conv1d | nn.Conv2d)
    # Not the attribute, which torch.fx makes no tensor. DataParallel's replicas have no parameters.
    weight = next(convolution.parameters(), None)
    if weight is None or not (weight.is_cuda or weight.dtype == torch.float16):
        return convolution(x)
    return convolve(convolution, x)
