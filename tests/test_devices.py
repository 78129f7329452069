"""Where networks run, and how much goes through them at once."""

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


def test_large_images_go_in_small_batches_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, expected in (("cpu", [64, 4, 1]), ("cuda", [64, 64, 64])):
        monkeypatch.setattr(devices, "device", lambda where=where: where)
        sizes = 100, devices.CACHED // 4, devices.CACHED * 2
        assert [devices.at_once(64, size) for size in sizes] == expected
