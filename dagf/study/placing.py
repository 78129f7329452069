"""Where networks and products run."""

import torch

from dagf.model.network import RetrievalNet


def device() -> str:
    """Where networks and products run fastest here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def placed(net: RetrievalNet) -> RetrievalNet:
    """The network where it runs fastest here."""
    return net.to(device()).to(memory_format=torch.channels_last)
