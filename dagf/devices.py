"""Where networks run."""

import os
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
CACHED = 2**21


def device() -> str:
    """Return where networks run fastest here."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def take_gpu() -> None:
    """Let each of the processes that torchrun started on a machine have a GPU of its own."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def on_device(net: M) -> M:
    """Put a network where, and in the memory format in which, it runs fastest here."""
    take_gpu()
    return net.to(device()).to(memory_format=torch.channels_last)


def at_once(most: int, size: int) -> int:
    """Return how many images of `size` pixels, or maps of `size` numbers, go into a batch.

    On a GPU `most`. On a CPU, of large ones, fewer: a ResNet's maps would leave the caches and fill
    the memory.
    """
    return most if device() == "cuda" else min(most, max(1, CACHED // size))


def has_bfloat16() -> bool:
    """Whether there are instructions for bfloat16 here: of a GPU, or of a CPU (AVX-512's, AMX's).

    Without them a convolution in it takes many times as long as in float32.
    """
    found = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(found[name] for name in found if name.endswith("bf16"))
