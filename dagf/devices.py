"""Where networks and products run."""

import torch

from dagf.model.network import RetrievalNet


def device() -> str:
    """Where networks and products run fastest here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def on_device(net: RetrievalNet) -> RetrievalNet:
    """The network where it runs fastest here."""
    return net.to(device()).to(memory_format=torch.channels_last)


def bfloat16_pays() -> bool:
    """Whether a backbone in bfloat16 is faster here: on GPUs, and on CPUs that multiply matrices of it (AMX).

    Measured by `make bench`: there ResNet-18 takes a third of its time, and mAP on photographs moves by 0.1.
    """
    return torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("amx_bf16"))
