"""Cached maps: computed once, whole or not at all, and as good as the network itself."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.model.network import RetrievalNet
from dagf.retrieval.extract import cache_benchmark, cache_maps, extract

from .networks import SPEC, Counted, alone


def test_descriptors_of_cached_maps(files: list[Path], net: RetrievalNet, tmp_path: Path) -> None:
    backbone, folder = Counted(net.backbone), tmp_path / "cache" / "abc"
    for _ in range(2):
        maps = cache_maps(backbone, image_batches(files, SPEC, batch=4), len(files), folder)
        assert backbone.seen == maps.count == len(files)
    found = maps.extract(net.head)
    expected = extract(net, image_batches(files, SPEC), len(files))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_benchmarks_share_the_maps_of_their_distractors(
    files: list[Path], net: RetrievalNet, tmp_path: Path
) -> None:
    """Those of the second's database and queries alone are new, and rows stay in their order."""
    backbone, shared = Counted(net.backbone), tmp_path / "distractors"
    root, extra = files[0].parents[1], tuple(files[-5:])
    names = [file.relative_to(root).as_posix() for file in files]
    for count in 7, 3:
        before = backbone.seen
        test = Benchmark("test", root, tuple(names[:count]), (), extra)
        maps = cache_benchmark(backbone, test, SPEC, tmp_path / f"{count}", shared).database
        assert backbone.seen - before == count + 5 * (count == 7)
        found, expected = (
            maps.extract(net.head),
            extract(net, image_batches(test.database_paths, SPEC), count + 5),
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"{}", b"half"])
@pytest.mark.parametrize("name", ["maps-1.npy", "groups.json"])
def test_damaged_maps_name_their_folder(
    files: list[Path], net: RetrievalNet, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = tmp_path / "maps"
    cache_maps(net.backbone, image_batches(files, SPEC), len(files), folder)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(whole[:-20] if content == b"half" else content)
    message = f"the feature maps in {folder} are damaged: delete the folder, it is made again"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        cache_maps(net.backbone, [], len(files), folder)


def test_rows_are_taken_in_the_order_asked_for(files: list[Path], tmp_path: Path) -> None:
    """Maps are kept rectified, whatever the order of the batches."""
    backbone, squash = nn.Conv2d(3, 16, 8, 8), ImageSpec(32, "squash")
    batches = list(image_batches(files, squash, batch=4))[::-1]
    maps = cache_maps(backbone, batches, len(files), tmp_path / "maps")
    rows = np.array([7, 0, 22, 7])
    found = maps.take(rows)
    assert found.shape == (4, 16, 4, 4)
    for row, feature_map in zip(rows.tolist(), found, strict=True):
        expected = alone(backbone, files[row], spec=squash).relu()
        torch.testing.assert_close(feature_map, expected, rtol=1e-3, atol=1e-4)
