"""Images, maps, and modules off their start."""

import numpy as np
import torch
from torch import Tensor, nn


def some_map(*shape: int) -> Tensor:
    """A rectified map in float64, with a dead channel and, in larger maps, a dead cell."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu().double()
    values[:, 1] = 0
    values[:, :, 1:2, 2:3] = 0
    return values


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stirred(net: nn.Module) -> nn.Module:
    """All that is learned or counted moved off its start: no module is the identity by chance."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*net.parameters(), *(one for one in net.buffers() if one.ndim)):
            value += 0.1 * torch.randn(value.shape, generator=source)
    return net


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    """What the module has learned and counted, by name."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}
