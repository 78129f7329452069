"""Descriptors against one image at a time, networks for inference, benchmarks, and shards."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.images import ImageSpec
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval import extract as extraction
from dagf.retrieval.extract import (
    SHARDS,
    MultiScale,
    ShardedDescriptors,
    benchmark_scores,
    extract,
    extract_shards,
    for_inference,
)
from tests.fixtures import fails

from .neighbourhoods import Array
from .networks import SPEC, Counted, alone

N = TypeVar("N", bound=nn.Module)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_descriptors_know_no_batch(files: list[Path], net: RetrievalNet, batch: int) -> None:
    net.train()  # extract goes to evaluation mode: batch norms would mix the images of a batch
    found = extract(net, image_batches(files, SPEC, batch=batch), len(files))
    assert found.dtype == np.float32
    assert found.shape == (len(files), 128)
    expected = np.stack([alone(net, path).numpy() for path in files])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-4) > 3  # they are not all alike


class Pixels(nn.Module):
    """A descriptor that shows the scale it was given: mean colour and height."""

    def forward(self, images: Tensor) -> Tensor:
        height = images.new_full((len(images), 1), images.shape[2] / 10)
        return fn.normalize(torch.cat([images.mean((2, 3)), height], 1))


def test_several_scales_are_averaged(net: RetrievalNet) -> None:
    images = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    scales = (1.0, 2**-0.5, 0.5)
    with torch.inference_mode():
        for encode in (net, Pixels()):
            total = torch.zeros(())
            for size in [(48, 40), (34, 28), (24, 20)]:
                scaled = fn.interpolate(images, size, mode="bilinear", antialias=True)
                total = total + encode(scaled)
            found = MultiScale(encode, scales)(images)
            torch.testing.assert_close(found, fn.normalize(total), rtol=0, atol=1e-6)
            assert torch.equal(MultiScale(encode)(images), fn.normalize(encode(images)))
            pixel = MultiScale(encode, (0.5,))(images[:, :, :1, :1])  # never less than one
            assert pixel.shape == found.shape


def lively(net: N) -> nn.Module:
    """The network with batch norms as training leaves them: they change what they see."""
    torch.manual_seed(1)
    net.train()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 64, 64))
    return net


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize("backbone", ["small", "resnet18", "mobilenet_v2", PACKAGED])
def test_folded_batch_norms_give_the_same_descriptors(backbone: str) -> None:
    net = lively(RetrievalNet(BackboneSpec(backbone), variant("dagf")))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = for_inference(net)
    assert norms(net) > 0 == norms(fast)
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = net.eval()(images)
        several = MultiScale(net, (1.0, 0.5))
        for one in (fast, for_inference(fast)):
            torch.testing.assert_close(one(images), expected, rtol=0, atol=1e-5)
        found = for_inference(several)(images)
        torch.testing.assert_close(found, several(images), rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_layer_that_is_used_twice_is_not_folded_twice() -> None:
    net, conv = RetrievalNet(BackboneSpec(), variant("gem")), nn.Conv2d(3, 3, 3)
    net.backbone = nn.Sequential(conv, norm := nn.BatchNorm2d(3), conv, norm)
    images, net = torch.rand(2, 3, 16, 16), lively(net).eval()
    with torch.inference_mode():
        torch.testing.assert_close(for_inference(net)(images), net(images))


def test_what_cannot_be_traced_is_not_folded() -> None:
    class Deciding(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images if images.shape[2] > 8 else images + 1)

    net = lively(RetrievalNet(BackboneSpec(), variant("gem"))).eval()
    net.backbone, images = nn.Sequential(Deciding(3, 128, 3)), torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(for_inference(net)(images), net(images))


def test_in_half_precision_the_head_is_whole() -> None:
    net = lively(RetrievalNet(BackboneSpec("small"), variant("dagf"))).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fast = for_inference(net, half=True)
    with torch.inference_mode():
        assert fast.backbone(images).dtype == torch.bfloat16
        found, expected = fast(images), net(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    assert 0 < (found - expected).norm(dim=1).max() < 0.03


def test_queries_are_cropped_to_their_boxes(benchmark: Benchmark, net: RetrievalNet) -> None:
    spec = ImageSpec(100)
    scores, rows, asked = benchmark_scores(net, benchmark, spec)
    assert scores.shape == (2, 4)
    assert scores.argmax(1).tolist() == [1, 0]
    assert scores[[0, 1], [1, 0]] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(scores, asked @ rows.T, atol=1e-6)
    outside = alone(net, benchmark.distractors[0], spec=spec).numpy()
    np.testing.assert_allclose(rows[3], outside, atol=1e-5)


class Colours(nn.Module):
    """A small descriptor of an image: the unit vector of its corner's colours."""

    def forward(self, images: Tensor) -> Tensor:
        return fn.normalize(images[:, :, :2, :2].flatten(1) + 3)


@pytest.fixture(autouse=True)
def shards_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "SHARD", 5)


def made(
    files: Sequence[Path], folder: Path, encode: nn.Module | None = None, **options: Any
) -> ShardedDescriptors:
    return extract_shards(encode or Colours(), "colours", files, SPEC, folder, **options)[0]


def shards(folder: Path) -> dict[str, int]:
    """The shards that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(SHARDS)}


@pytest.fixture
def whole(files: list[Path]) -> Array:
    return extract(Colours(), image_batches(files, SPEC), len(files))


@pytest.mark.parametrize("shard", [1, 5, 23, 4096])
def test_shards_hold_what_one_array_would(
    files: list[Path], whole: Array, tmp_path: Path, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SHARD", shard)
    found = made(files, tmp_path / "out")
    assert (len(found), found.shape, found.dtype) == (len(files), whole.shape, np.float32)
    assert len(found.names) == len(shards(tmp_path / "out")) == -(-len(files) // shard)
    np.testing.assert_array_equal(found[:], whole)
    assert made([], tmp_path)[:].shape == (0, 0)
    twice = [*files, *files, files[3]]
    counted = Counted(Colours())
    assert len(made(twice, tmp_path / "twice", counted)[:]) == 47 and counted.seen == 23


def test_images_that_cannot_be_read_are_named_and_the_others_kept(
    files: list[Path], whole: Array, tmp_path: Path
) -> None:
    """One fills a shard alone, one is in the middle of one, and one is gone."""
    good, out = {number: files[number].read_bytes() for number in (1, 12, 20)}, tmp_path / "out"
    for number in (1, 12):
        files[number].write_bytes(good[number][: 60 - number])
    files[20].unlink()
    with pytest.raises(UserError, match=r"^cannot read .*20.*\n.* decode .*01.*\n.* decode .*12"):
        made(files, out)
    damaged, counted = dict[Path, str](), Counted(Colours())
    rows = made(files, out, counted, damaged=damaged)
    assert counted.seen == 0 and {*damaged} == {files[number] for number in good}
    np.testing.assert_array_equal(rows[:], np.delete(whole, [*good], 0))
    assert made(files[12:13], tmp_path / "none", damaged=damaged)[:].shape == (0, 0)
    for number, content in good.items():
        files[number].write_bytes(content)
    for _ in range(2):
        np.testing.assert_array_equal(made(files, out, counted)[:], whole)
        assert counted.seen == 3


def test_what_is_extracted_otherwise_shares_no_shard(files: list[Path], tmp_path: Path) -> None:
    made(files, tmp_path)
    ways: list[tuple[Any, ImageSpec, Any]] = [
        (["colours", 0.5], SPEC, "float32"),
        ("colours", ImageSpec(33), "float32"),
        ("colours", SPEC, "float16"),
    ]
    for about, spec, precision in ways:
        found, new = extract_shards(Colours(), about, files, spec, tmp_path, precision)
        assert (found.dtype, new) == (precision, 23)


@pytest.mark.parametrize("content", [b"", b"no array", b"half"])
def test_a_broken_shard_is_named(files: list[Path], tmp_path: Path, content: bytes) -> None:
    found = made(files, tmp_path)
    path = tmp_path / found.names[1]
    path.write_bytes(path.read_bytes()[:-20] if content == b"half" else content)
    fails(rf"{path.name} is missing or broken", ShardedDescriptors, tmp_path, found.names)
    counted = Counted(Colours())
    made(files, tmp_path, counted)
    assert counted.seen == 5


@pytest.fixture(scope="module", params=["float16", "float32"])
def table(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ShardedDescriptors, Any]:
    """17 rows in shards of 4, and the same as one array."""
    folder = tmp_path_factory.mktemp("table")
    rows = np.random.default_rng(0).normal(size=(17, 3)).astype(request.param)
    names = [f"shard-{first}.npy" for first in range(0, 17, 4)]
    for number, name in enumerate(names):
        part = rows[4 * number : 4 * number + 4]
        shard = np.zeros(len(part), [("image", "S64"), ("row", part.dtype, (3,))])
        shard["row"] = part
        np.save(folder / name, shard)
    return ShardedDescriptors(folder, names), rows


numbers = st.integers(-20, 20) | st.none()


some = st.lists(st.integers(0, 16), max_size=30).map(lambda rows: np.array(rows, np.int64))


@given(st.builds(slice, numbers, numbers, st.none()) | some)
def test_slices_and_rows_are_an_arrays(table: tuple[ShardedDescriptors, Any], rows: Any) -> None:
    found = table[0][rows]
    np.testing.assert_array_equal(found, table[1][rows])
    assert found.dtype == table[1].dtype
    assert found.flags.c_contiguous and found.flags.writeable  # as PyTorch wants it
    found += 1  # a copy: the file stays
    np.testing.assert_array_equal(table[0][rows], table[1][rows])


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_share_images(files: list[Path], whole: Array, tmp_path: Path, size: int) -> None:
    """Threads play the processes."""
    barrier, given = threading.Barrier(size), dict[int, Any]()

    class Member(Group):
        def wait(self) -> None:
            barrier.wait()

        def gather(self, value: Any) -> list[Any]:
            barrier.wait()
            given[self.rank] = value
            barrier.wait()
            return [given[rank] for rank in range(self.size)]

    counted = [Counted(Colours()) for _ in range(size)]

    def process(rank: int) -> ShardedDescriptors:
        return made(files, tmp_path, counted[rank], group=Member(rank, size))

    with ThreadPoolExecutor(size) as pool:
        for found in pool.map(process, range(size)):
            np.testing.assert_array_equal(found[:], whole)
    shares = [[5, 5, 5, 5, 3][rank::size] for rank in range(size)]
    assert [one.seen for one in counted] == [sum(share) for share in shares]
