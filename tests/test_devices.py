"""Where networks run."""

import pytest
import torch
from torch import nn

from dagf import devices


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(devices, "device", lambda: "meta")
    devices.on_device(nn.Linear(2, 2))
    monkeypatch.setenv("LOCAL_RANK", "3")  # as torchrun numbers them
    devices.on_device(nn.Linear(2, 2))
    assert taken == [0, 3]
