"""Batches: every file once, in batches of one size, decoded in threads that end with them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dagf import devices
from dagf.datasets import batches
from dagf.datasets.batches import AHEAD, WAITING, image_batches
from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.images import load_image
from dagf.errors import UserError

SPEC = ImageSpec(32)


@pytest.mark.parametrize(
    ("batch", "cropped"), [(1, False), (2, False), (4, False), (64, False), (3, True)]
)
def test_every_file_comes_once_in_its_size(files: list[Path], batch: int, cropped: bool) -> None:
    seen: dict[int, Tensor] = {}
    boxes: list[Box | None] = [(1, 2, 13, 15) if cropped and row % 2 else None for row in range(23)]
    short: list[tuple[int, ...]] = []
    for rows, images in image_batches(files, SPEC, boxes, batch):
        assert rows.dtype == np.int64
        assert 1 <= len(rows) <= batch
        short += [tuple(images.shape[2:])] * (len(rows) < batch)
        assert seen.keys().isdisjoint(rows.tolist())
        seen |= dict(zip(rows.tolist(), images, strict=True))
    assert sorted(seen) == list(range(len(files)))
    assert cropped or len(short) == len(set(short))  # at most one batch of each size is not full
    for row, path in enumerate(files):
        assert torch.equal(seen[row], load_image(path, SPEC, boxes[row]))


def test_pixels_of_a_batch_on_a_cpu(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "device", lambda: "cpu")
    monkeypatch.setattr(devices, "CACHED", 2 * 32 * 32)
    found = [images[:, 0] for _, images in image_batches(files, SPEC)]
    assert sum(map(len, found)) == len(files)
    assert max(images.numel() for images in found) <= 2 * 32 * 32
    assert max(map(len, found)) >= 2
    monkeypatch.setattr(devices, "CACHED", 1)
    assert {len(rows) for rows, _ in image_batches(files, SPEC)} == {1}
    monkeypatch.setattr(devices, "device", lambda: "cuda")
    assert max(len(rows) for rows, _ in image_batches(files, SPEC)) > 2


def test_no_thread_outlives_its_batches_and_all_corrupt_files_are_named(files: list[Path]) -> None:
    before = threading.active_count()
    stream: Iterator[object] = image_batches(files, SPEC, batch=1)
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before
    for number in (3, 17):
        files[number].write_bytes(files[number].read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot decode .*03\.png.*\ncannot decode .*17\.png"):
        list(image_batches(files, SPEC, batch=2))
    assert threading.active_count() == before
    damaged = dict[int, str]()
    seen = [row for rows, _ in image_batches(files, SPEC, damaged=damaged) for row in rows.tolist()]
    assert sorted([*seen, *damaged]) == list(range(23)) and [*damaged] == [3, 17]
    assert "17.png" in damaged[17]


@pytest.mark.parametrize("shapes", [1, 30])
def test_decoding_runs_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: int) -> None:
    started: list[Path] = []

    def picture(file: Path, *_: object) -> Tensor:
        started.append(file)
        return torch.zeros(3, 1 + int(file.name) % shapes, 1, dtype=torch.uint8)

    monkeypatch.setattr(batches, "load_image", picture)
    files, taken, most = [tmp_path / str(number) for number in range(60)], 0, 0
    stream = image_batches(files, SPEC, batch=2)
    for rows, _ in stream:
        taken += len(rows)
        until = time.monotonic() + 30
        wanted = min(AHEAD * 2, len(files) - taken)
        while len(started) - taken < wanted and time.monotonic() < until:
            time.sleep(0.001)  # the reader works; the threads decode
        ahead = len(started) - taken
        assert ahead >= wanted
        most = max(most, ahead)
    assert taken == len(files) == len(started)
    assert most <= (AHEAD + WAITING + 1) * 2
