"""Descriptors against one image at a time, networks for inference, benchmarks, shards, maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as fn

from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Benchmark, Query
from dagf.datasets.contents import Contents
from dagf.datasets.decode import ImageSpec
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval import extract as module
from dagf.retrieval.extract import MultiScale, benchmark_scores, extract, for_inference
from dagf.retrieval.shards import SHARDS, ShardedDescriptors
from tests.fixtures import fails, photograph
from tests.model.modules import stirred
from tests.pictures import quarters, save, smooth

from .tools import SPEC, Array, Counted, alone, together

LETTERS = st.text("abcdefgh", min_size=1, max_size=11)
numbers = st.integers(-20, 20) | st.none()
some = st.lists(st.integers(0, 16), max_size=30).map(lambda rows: np.array(rows, np.int64))


@pytest.fixture(scope="module")
def net() -> RetrievalNet:
    torch.manual_seed(0)
    network = RetrievalNet(BackboneSpec("small"), variant("dagf"))
    stirred(network.head)
    return network.eval()


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_descriptors_know_no_batch(files: list[Path], net: RetrievalNet, batch: int) -> None:
    net.train()  # extract goes to evaluation mode: batch norms would mix the images of a batch
    found = extract(net, image_batches(files, SPEC, batch=batch), len(files))
    assert found.dtype == np.float32
    expected = np.stack([alone(net, path).numpy() for path in files])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found - found.mean(0), tol=1e-4) > 3  # they are not all alike


def test_several_scales_are_averaged(net: RetrievalNet) -> None:
    images = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
    sizes = (48, 40), (34, 28), (24, 20)
    with torch.inference_mode():
        smaller = (fn.interpolate(images, s, mode="bilinear", antialias=True) for s in sizes)
        expected = fn.normalize(torch.stack([net(one) for one in smaller]).sum(0))
        found = MultiScale(net, (1.0, 2**-0.5, 0.5))(images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert torch.equal(MultiScale(net)(images), fn.normalize(net(images)))
        pixel = MultiScale(net, (0.5,))(images[:, :, :1, :1])  # never less than one
        assert pixel.shape == found.shape


def lively(net: nn.Module) -> nn.Module:
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


@pytest.mark.parametrize("backbone", ["small", "resnet18", "mobilenet_v2", PACKAGED])
def test_folded_batch_norms_give_the_same_descriptors(backbone: str) -> None:
    net = lively(RetrievalNet(BackboneSpec(backbone), variant("dagf")))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fast = for_inference(net)
    norms = [sum(isinstance(n, nn.BatchNorm2d) for n in one.modules()) for one in (net, fast)]
    assert norms[0] > 0 == norms[1]
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


class Deciding(nn.Conv2d):
    """A layer that cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.shape[2] > 8 else images + 1)


CONV, NORM = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
ODD = {"used twice": (CONV, NORM, CONV, NORM), "not traced": (Deciding(3, 3, 3), NORM)}


@pytest.mark.parametrize("layers", ODD.values(), ids=ODD)
def test_what_cannot_be_folded_stays(layers: Sequence[nn.Module]) -> None:
    net = RetrievalNet(BackboneSpec(), variant("gem"))
    net.backbone = nn.Sequential(*layers)
    images, net = torch.rand(2, 3, 16, 16), lively(net).eval()
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


def test_queries_are_cropped_to_their_boxes(tmp_path: Path, net: RetrievalNet) -> None:
    """The query's box holds a crop that is in the database; so is its whole, to mislead."""
    picture, spec, box = quarters(64, 48), ImageSpec(100), (32, 0, 64, 24)
    pictures = {"whole": picture, "crop": picture.crop(box), "other": smooth(50, 40)}
    files = [save(one, tmp_path / f"{name}.png").name for name, one in pictures.items()]
    right, whole = {"ok": np.array([1])}, {"ok": np.array([0])}
    queries = Query("whole.png", right, box), Query("whole.png", whole)
    outside = save(smooth(64, 64), tmp_path / "distractor.png")
    test = Benchmark("tiny", tmp_path, tuple(files), queries, (outside,))
    scores, rows, asked = benchmark_scores(net, test, spec)
    assert scores.shape == (2, 4)
    assert scores.argmax(1).tolist() == [1, 0]
    assert scores[[0, 1], [1, 0]] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(scores, asked @ rows.T, atol=1e-6)
    np.testing.assert_allclose(rows[3], alone(net, outside, spec=spec).numpy(), atol=1e-5)


class Colours(nn.Module):
    """A small descriptor of an image: the unit vector of its regions' colours."""

    def forward(self, images: Tensor) -> Tensor:
        return fn.normalize(fn.adaptive_avg_pool2d(images, 3).flatten(1))


@pytest.fixture(autouse=True)
def shards_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 5)


def made(
    files: Sequence[Path], folder: Path, encode: nn.Module | None = None, **options: Any
) -> ShardedDescriptors:
    given = encode or Colours(), "colours", files, SPEC, folder, Contents()
    return module.extract_shards(*given, **options)[0]


@pytest.fixture
def whole(files: list[Path]) -> Array:
    return extract(Colours(), image_batches(files, SPEC), len(files))


@pytest.mark.parametrize("shard", [1, 5, 23, 4096])
def test_shards_hold_what_one_array_would(
    files: list[Path], whole: Array, tmp_path: Path, shard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", shard)
    found = made(files, tmp_path / "out")
    assert (len(found), found.shape, found.dtype) == (len(files), whole.shape, np.float32)
    assert len(found.names) == len(list((tmp_path / "out").glob(SHARDS))) == -(-len(files) // shard)
    np.testing.assert_array_equal(found[:], whole)
    assert made([], tmp_path)[:].shape == (0, 0)


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
        given = Colours(), about, files, spec, tmp_path, Contents(), precision
        found, new = module.extract_shards(*given)
        assert (found.dtype, new) == (precision, 23)


def lettered(contents: str, root: Path) -> list[Path]:
    """A photograph a letter: equal letters are equal contents."""
    root.mkdir(exist_ok=True)
    files = [root / f"{place:02}.png" for place in range(len(contents))]
    return [save(photograph(ord(one), 0), file) for one, file in zip(contents, files, strict=True)]


def renewed(files: list[Path], folder: Path) -> int:
    """How many photographs are extracted; the rows are those of all files."""
    rows, counted = extract(Colours(), image_batches(files, SPEC), len(files)), Counted(Colours())
    np.testing.assert_array_equal(made(files, folder, counted)[:], rows)
    return counted.seen


@settings(max_examples=30)
@given(LETTERS, LETTERS, st.booleans())
def test_only_new_contents_are_extracted(
    tmp_path_factory: pytest.TempPathFactory, before: str, after: str, moved: bool
) -> None:
    """Whatever their names, in whatever order, and however often."""
    root = tmp_path_factory.mktemp("contents")
    assert renewed(lettered(before, root / "a"), root / "out") == len({*before})
    files, new = lettered(after, root / "ab"[moved]), len({*after} - {*before})
    assert [renewed(files, root / "out") for _ in range(2)] == [new, 0]


def test_a_stopped_job_goes_on_though_images_were_added(tmp_path: Path) -> None:
    """Ten of eleven are extracted, in two shards; then one more comes, before all others."""
    with pytest.raises(KeyboardInterrupt):
        made(lettered("abcdefghijk", tmp_path / "a"), tmp_path / "out", Counted(Colours(), 10))
    assert len(list((tmp_path / "out").glob(SHARDS))) == 2
    assert renewed(lettered("zabcdefghijk", tmp_path / "a"), tmp_path / "out") == 2


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
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """17 rows in shards of 4, and the same as one array."""
    folder = tmp_path_factory.mktemp("table")
    files = lettered("abcdefghijklmnopq", folder / "photographs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SHARD", 4)
        rows = made(files, folder, precision=request.param)
    return rows, extract(Colours(), image_batches(files, SPEC), 17).astype(request.param)


@given(st.builds(slice, numbers, numbers, st.none()) | some)
def test_slices_and_rows_are_an_arrays(table: Any, rows: Any) -> None:
    found = table[0][rows]
    np.testing.assert_array_equal(found, table[1][rows])
    assert found.dtype == table[1].dtype
    assert found.flags.c_contiguous and found.flags.writeable  # as PyTorch wants it
    found += 1  # a copy: the file stays
    np.testing.assert_array_equal(table[0][rows], table[1][rows])


@pytest.mark.parametrize("size", [2, 3, 7])
def test_processes_share_images(files: list[Path], whole: Array, tmp_path: Path, size: int) -> None:
    counted = [Counted(Colours()) for _ in range(size)]

    def work(group: Group) -> ShardedDescriptors:
        return made(files, tmp_path, counted[group.rank], group=group)

    for found in together(size, work):
        np.testing.assert_array_equal(found[:], whole)
    shares = [[5, 5, 5, 5, 3][rank::size] for rank in range(size)]
    assert [one.seen for one in counted] == [sum(share) for share in shares]


def test_benchmarks_share_the_maps_of_their_distractors(
    files: list[Path], net: RetrievalNet, tmp_path: Path
) -> None:
    """Those of the second's database alone are new, of the third nothing; rows keep their order."""
    backbone, shared = Counted(net.backbone), tmp_path / "distractors"
    root, extra = files[0].parents[1], tuple(files[-5:])
    names = [file.relative_to(root).as_posix() for file in files]
    for count, new in (7, 12), (3, 3), (3, 0):
        before = backbone.seen
        test = Benchmark("test", root, tuple(names[:count]), (), extra)
        maps = module.cache_benchmark(backbone, test, SPEC, tmp_path / f"{count}", shared).database
        assert backbone.seen - before == new
        expected = extract(net, image_batches(test.database_paths, SPEC), count + 5)
        np.testing.assert_allclose(maps.extract(net.head), expected, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"{}", b"half"])
@pytest.mark.parametrize("name", ["maps-1.npy", "groups.json"])
def test_damaged_maps_name_their_folder(
    files: list[Path], net: RetrievalNet, tmp_path: Path, name: str, content: bytes | None
) -> None:
    folder = tmp_path / "maps"
    module.cache_maps(net.backbone, image_batches(files, SPEC), len(files), folder)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(whole[:-20] if content == b"half" else content)
    message = f"^the feature maps in {folder} are damaged: delete the folder, it is made again$"
    fails(message, module.cache_maps, net.backbone, [], len(files), folder)


def test_rows_are_taken_in_the_order_asked_for(files: list[Path], tmp_path: Path) -> None:
    """Maps are kept as they are, negative parts too, whatever the order of the batches.

    Of an exact mask, beside them, its mean in each cell.
    """
    backbone, squash = nn.Conv2d(3, 16, 8, 8), ImageSpec(32, "squash")
    masks = np.random.default_rng(0).integers(0, 256, (len(files), 1, 32, 32), np.uint8)
    batches = [
        (rows, torch.cat([images, torch.from_numpy(masks[rows])], 1))
        for rows, images in image_batches(files, squash, batch=4)
    ][::-1]
    plain, both = (
        module.cache_maps(backbone, batches, len(files), tmp_path / "maps", exact)
        for exact in (False, True)
    )
    rows = np.array([7, 0, 22, 7])
    found, with_cells = plain.take(rows), both.take(rows)
    assert found.shape == (4, 16, 4, 4) and found.equal(with_cells[:, :16])
    cells = masks[rows].reshape(4, 1, 4, 8, 4, 8).mean((3, 5)) / 255
    np.testing.assert_allclose(with_cells[:, 16:], cells, atol=1e-3)
    for row, feature_map in zip(rows.tolist(), found, strict=True):
        expected = alone(backbone, files[row], spec=squash)
        torch.testing.assert_close(feature_map, expected, rtol=1e-3, atol=1e-4)
