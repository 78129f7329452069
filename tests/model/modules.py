"""Maps, and modules off their start, for the tests of the model."""

import numpy as np
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


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    """What the module has learned and counted, by name."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}
