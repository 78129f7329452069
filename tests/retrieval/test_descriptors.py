import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.benchmarks.protocol import Benchmark, Box, Query
from dagf.common import UserError
from dagf.model.network import AttentiveHead, MapEncoder, RetrievalNet
from dagf.model.trunks import TrunkSpec
from dagf.model.variants import variant
from dagf.retrieval.descriptors import (
    BenchmarkMaps,
    MultiScale,
    benchmark_scores,
    cache_benchmark,
    cache_maps,
    describe,
    image_batches,
)
from dagf.retrieval.images import ImageSpec, load_image, to_input

from .pictures import quarters, save, smooth

SPEC = ImageSpec(32)
SIZES = [(32, 24), (24, 32), (40, 40), (64, 48), (16, 32)]  # the first and the fourth become one


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """23 pictures that all differ, of four sizes in turn."""
    paths = []
    for number in range(23):
        picture = smooth(*SIZES[number % len(SIZES)]).rotate(7 * number)
        paths.append(save(picture, tmp_path / f"{number:02}.png"))
    return paths


@pytest.fixture(scope="module")
def net() -> RetrievalNet:
    torch.manual_seed(0)
    network = RetrievalNet(TrunkSpec("small"), "dagf")
    with torch.no_grad():
        for parameter in network.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return network.eval()


def alone(net: nn.Module, path: Path, box: Box | None = None, spec: ImageSpec = SPEC) -> Tensor:
    with torch.inference_mode():
        return net(to_input(load_image(path, spec, box))[None])[0]


class Counted(nn.Module):
    """A module that counts the images it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.inner(images)


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4, 64])
def test_every_file_comes_once_in_batches_of_one_size(files: list[Path], batch: int) -> None:
    seen: dict[int, Tensor] = {}
    short: list[tuple[int, ...]] = []
    for rows, images in image_batches(files, SPEC, batch=batch):
        assert rows.dtype == np.int64
        assert images.shape[:2] == (len(rows), 3)
        assert 1 <= len(rows) <= batch
        short += [tuple(images.shape[2:])] * (len(rows) < batch)
        assert seen.keys().isdisjoint(rows.tolist())
        seen |= dict(zip(rows.tolist(), images, strict=True))
    assert sorted(seen) == list(range(len(files)))
    assert len(short) == len(set(short))  # at most one batch of each size is not full
    for row, path in enumerate(files):
        assert torch.equal(seen[row], to_input(load_image(path, SPEC)))


def test_no_files_no_batches() -> None:
    assert list(image_batches([], SPEC)) == []
    assert len(describe(nn.Identity(), image_batches([], SPEC), 0)) == 0


def test_crops_go_with_their_files(files: list[Path]) -> None:
    boxes: list[Box | None] = [(1.0, 2.0, 13.0 + row % 3, 15.0) if row % 2 else None for row in range(len(files))]
    for rows, images in image_batches(files, SPEC, boxes, batch=3):
        for row, image in zip(rows.tolist(), images, strict=True):
            assert torch.equal(image, to_input(load_image(files[row], SPEC, boxes[row])))


def test_a_corrupt_file_is_named(files: list[Path], net: RetrievalNet) -> None:
    files[17].write_bytes(files[17].read_bytes()[:60])
    with pytest.raises(UserError, match=r"cannot decode .*17\.png") as caught:
        describe(net, image_batches(files, SPEC, batch=2), len(files))
    assert "\n" not in str(caught.value)
    files[17].unlink()
    with pytest.raises(UserError, match=r"17\.png does not exist"):
        list(image_batches(files, SPEC))


def test_no_thread_outlives_its_batches(files: list[Path]) -> None:
    before = threading.active_count()
    stream: Iterator[object] = image_batches(files, SPEC, batch=1)
    next(stream)
    assert threading.active_count() > before
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


# --- descriptors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_descriptors_do_not_depend_on_their_batch(files: list[Path], net: RetrievalNet, batch: int) -> None:
    net.train()  # describe itself goes to evaluation mode: batch norms would mix the images of a batch
    found = describe(net, image_batches(files, SPEC, batch=batch), len(files))
    assert found.dtype == np.float32
    assert found.shape == (len(files), 128)
    expected = np.stack([alone(net, path).numpy() for path in files])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-4) > 3  # they are not all alike


def test_describing_learns_nothing(files: list[Path]) -> None:
    net = RetrievalNet(TrunkSpec("small"), "gem").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    describe(net, image_batches(files, SPEC), len(files))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


class Pixels(nn.Module):
    """A descriptor that shows the scale it was given: the unit vector of the mean colour and the height."""

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
            torch.testing.assert_close(found, total / total.norm(dim=1, keepdim=True), rtol=0, atol=1e-6)
            assert torch.equal(MultiScale(encode)(images), fn.normalize(encode(images)))
            assert MultiScale(encode, (0.5,))(images[:, :, :1, :1]).shape == found.shape  # never less than a pixel


# --- cached maps ------------------------------------------------------------------------------------------------


def test_cached_maps_give_the_same_descriptors_and_are_made_once(
    files: list[Path], net: RetrievalNet, tmp_path: Path
) -> None:
    trunk, folder = Counted(net.trunk), tmp_path / "cache" / "abc"
    maps = cache_maps(trunk, image_batches(files, SPEC, batch=4), len(files), folder)
    assert trunk.seen == maps.count == len(files)
    expected = describe(net, image_batches(files, SPEC), len(files))
    for size in (1, 5, 64):
        found = describe(MapEncoder(net.head), maps.batches(size), maps.count)
        np.testing.assert_allclose(found, expected, atol=1e-3)
    again = cache_maps(trunk, image_batches(files, SPEC), len(files), folder)
    assert trunk.seen == len(files)
    other = describe(MapEncoder(AttentiveHead(128, variant("mac"))), again.batches(), again.count)
    mac = RetrievalNet(TrunkSpec("small"), "mac")
    mac.trunk.load_state_dict(net.trunk.state_dict())
    np.testing.assert_allclose(other, describe(mac, image_batches(files, SPEC), len(files)), atol=1e-3)


def test_cached_maps_cover_every_file_once(files: list[Path], net: RetrievalNet, tmp_path: Path) -> None:
    maps = cache_maps(net.trunk, image_batches(files, SPEC), len(files), tmp_path / "maps")
    rows = np.concatenate([rows for rows, _ in maps.batches(4)])
    assert sorted(rows.tolist()) == list(range(len(files)))
    assert len(maps.groups) == 4
    assert all(batch.dtype == torch.float32 and len(batch) == len(rows) for rows, batch in maps.batches(4))


def test_a_failure_leaves_no_half_cache(files: list[Path], net: RetrievalNet, tmp_path: Path) -> None:
    files[20].write_bytes(b"broken")
    with pytest.raises(UserError, match=r"20\.png"):
        cache_maps(net.trunk, image_batches(files, SPEC, batch=2), len(files), tmp_path / "cache" / "a")
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []
    save(smooth(32, 24), files[20])
    assert cache_maps(net.trunk, image_batches(files, SPEC), len(files), tmp_path / "cache" / "a").count == 23


def test_rows_are_taken_in_the_order_asked_for(files: list[Path], tmp_path: Path) -> None:
    """Of a trunk whose maps have negative values (they are kept rectified), whatever the order of the batches."""
    trunk, squash = nn.Conv2d(3, 16, 8, 8), ImageSpec(32, "squash")
    batches = list(image_batches(files, squash, batch=4))[::-1]
    maps = cache_maps(trunk, batches, len(files), tmp_path / "maps")
    rows = np.array([7, 0, 22, 7])
    found = maps.take(rows)
    assert found.shape == (4, 16, 4, 4)
    for row, feature_map in zip(rows.tolist(), found, strict=True):
        expected = alone(trunk, files[row], spec=squash).relu()
        torch.testing.assert_close(feature_map, expected, rtol=1e-3, atol=1e-4)


# --- benchmarks -------------------------------------------------------------------------------------------------


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """The query's box holds a crop that is also in the database; its whole is there as well, to mislead."""
    root = tmp_path / "images"
    root.mkdir()
    save(quarters(64, 48), root / "query.png")
    save(quarters(64, 48), root / "whole.png")
    save(quarters(64, 48).crop((32, 0, 64, 24)), root / "crop.png")
    save(smooth(50, 40), root / "other.png")
    outside = save(smooth(64, 64), tmp_path / "distractor.png")
    labels = {"ok": np.array([1]), "junk": np.array([], np.int64)}
    queries = (Query("query.png", labels, (32, 0, 64, 24)), Query("query.png", {"ok": np.array([0])}))
    return Benchmark("tiny", root, ("whole.png", "crop.png", "other.png"), queries, (outside,))


def test_queries_are_cropped_to_their_boxes(benchmark: Benchmark, net: RetrievalNet) -> None:
    spec = ImageSpec(100)
    scores, rows, asked = benchmark_scores(net, benchmark, spec, batch=2)
    assert scores.shape == (2, 4)
    assert scores.argmax(1).tolist() == [1, 0]
    assert scores[[0, 1], [1, 0]] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(scores, asked @ rows.T, atol=1e-6)
    outside = alone(net, benchmark.distractors[0], spec=spec).numpy()
    np.testing.assert_allclose(rows[3], outside, atol=1e-5)


def test_cached_benchmarks_score_alike(benchmark: Benchmark, net: RetrievalNet, tmp_path: Path) -> None:
    trunk = Counted(net.trunk)

    def make() -> BenchmarkMaps:
        return cache_benchmark(trunk, benchmark, ImageSpec(100), tmp_path / "maps")

    found = make().scores(MapEncoder(net.head))
    np.testing.assert_allclose(found, benchmark_scores(net, benchmark, ImageSpec(100))[0], atol=2e-3)
    assert np.array_equal(make().scores(MapEncoder(net.head)), found)
    assert trunk.seen == 6


def test_a_collapsed_network_is_not_ranked(benchmark: Benchmark) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 4), float("nan"))

    with pytest.raises(UserError, match="database: row 0 holds NaN"):
        benchmark_scores(Broken(), benchmark, ImageSpec(100))


def test_a_missing_query_is_named(benchmark: Benchmark, net: RetrievalNet) -> None:
    (benchmark.root / "query.png").unlink()
    with pytest.raises(UserError, match=r"query\.png does not exist"):
        benchmark_scores(net, benchmark, ImageSpec(100))


def test_pixels_outside_the_box_do_not_reach_the_descriptor(benchmark: Benchmark, net: RetrievalNet) -> None:
    before = benchmark_scores(net, benchmark, ImageSpec(100))[2]
    picture = Image.new("RGB", (64, 48), "black")
    picture.paste(quarters(64, 48).crop((32, 0, 64, 24)), (32, 0))
    save(picture, benchmark.root / "query.png")
    after = benchmark_scores(net, benchmark, ImageSpec(100))[2]
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-3
