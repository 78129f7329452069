"""Modules off their start, maps, and numeric gradients, for the tests of the model."""

import torch
from torch import Tensor, nn


def some_map(*shape: int) -> Tensor:
    """A rectified map in float64, with a dead channel and, in larger maps, a dead cell."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().double()
    values[:, 1] = 0
    values[:, :, 1:2, 2:3] = 0
    return values


def moved(module: nn.Module) -> nn.Module:
    """The module in float64, in use, with all parameters and statistics off their start."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*module.parameters(), *(one for one in module.buffers() if one.ndim)):
            value += 0.3 * torch.rand(value.shape, generator=source)
    return module.double().eval()


def gradients_are_right(module: nn.Module, shape: tuple[int, ...], *rest: Tensor) -> bool:
    """Whether the gradients of a positive map and of every parameter are the numeric ones."""
    named = dict(module.named_parameters())

    def call(image: Tensor, *values: Tensor) -> Tensor:
        changed = dict(zip(named, values, strict=True))
        return torch.func.functional_call(module, changed, (image, *rest))

    features = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double() + 0.1
    inputs = [features, *(value.detach().clone() for value in named.values())]
    return torch.autograd.gradcheck(call, [one.requires_grad_() for one in inputs])
