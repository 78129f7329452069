"""Attention against exact masks: scores by hand and by counting, maps where they belong."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dagf.analysis import localise
from dagf.analysis.cam import CamTarget, Plane, cams, look
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import exact_mask, load_image, to_input
from dagf.datasets.toytown import toytown_records
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.study.runs import Run
from dagf.study.study import open_study
from tests.fixtures import Opened, fails, write_photographs

NAMES = [
    "region evaluator", "effective weight", "channel-weighted response", "MAX-Mask cells",
    "Grad-CAM", "LayerCAM", "EigenCAM", "feature norm", "centre prior", "random map", "random CAM",
]  # fmt: skip
FILES = ("4-0.jpg", "4-1.jpg", "5-1.jpg")
SPEC = ImageSpec(32)
# Few values, so many ties.
PLANES = arrays(np.float32, (3, 4), elements=st.integers(0, 5).map(float))
MASKS = arrays(np.bool_, (3, 4))
FRAME = pd.DataFrame(
    [
        ("a", 0, "easy", "m", 0.9, 1.0, 0.5, 0.2),
        ("b", 0, "junk", "m", 0.7, 0.0, 0.7, 0.6),
        ("c", 1, "easy", "m", 0.5, 0.5, 0.3, 0.1),
        ("d", 1, "easy", "m", np.nan, 0.0, np.nan, 0.0),
        ("a", 0, "easy", "n", 0.4, 1.0, 0.2, 0.2),
    ],
    columns=["file", "landmark", "difficulty", "map", "AUC", "pointing", "energy", "area"],
)


@pytest.fixture(scope="module")
def net(finished: Run) -> RetrievalNet:
    """A trained network whose attention, nearly flat so far, is made uneven."""
    net, random = finished.network(), torch.Generator().manual_seed(0)
    for parameter in net.head.spatial.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=random)
    return net


@pytest.fixture
def images(photographs: Path) -> Tensor:
    return to_input(torch.stack([load_image(photographs / "jpg" / name, SPEC) for name in FILES]))


@pytest.fixture
def targets(net: RetrievalNet, photographs: Path) -> list[CamTarget]:
    names = ("4-2.jpg", "5-2.jpg", "6-2.jpg")
    seen = [look(net, photographs / "jpg" / name, SPEC).descriptor for name in names]
    return [CamTarget(seen[0], seen[1]), CamTarget(seen[0], seen[2]), CamTarget(seen[1], seen[0])]


@given(PLANES, MASKS)
def test_auc_is_the_share_of_pairs(plane: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    found = localise.pixel_auc(plane, mask)
    if mask.all() or not mask.any():
        assert np.isnan(found)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in plane[mask] for b in plane[~mask]]
    assert found == pytest.approx(np.mean(pairs), abs=1e-12)
    assert localise.pixel_auc(plane, ~mask) == pytest.approx(1 - found, abs=1e-12)
    assert localise.pixel_auc(5 - plane, mask) == pytest.approx(1 - found, abs=1e-12)


def test_scores_by_hand() -> None:
    plane = np.array([[0.9, 0.6], [0.6, 0.1]], np.float32)
    top = np.array([[True, True], [False, False]])
    assert localise.pointing(plane, top) == 1
    assert localise.pointing(plane, ~top) == 0
    assert localise.energy_inside(plane, top) == pytest.approx(1.5 / 2.2)
    tied = np.array([[3, 3], [3, 1]], np.float32)
    assert localise.pointing(tied, top) == pytest.approx(2 / 3)
    assert localise.energy_inside(tied, top) == pytest.approx(0.6)


def cells(height: int, width: int, *kept: tuple[int, int]) -> Tensor:
    made = torch.zeros(1, 1, height, width, dtype=torch.bool)
    for row, column in kept:
        made[0, 0, row, column] = True
    return made


def test_kept_cells_land_where_their_windows_are() -> None:
    single = localise.kept_share([cells(3, 4, (2, 0))], (3, 4))
    assert torch.equal(single, cells(3, 4, (2, 0)).float())
    corner = localise.kept_share([cells(2, 3, (0, 0))], (3, 4))[0, 0]  # the windows of 2 x 2 cells
    # So many windows cover these cells: 1, 2, 2, 4.
    assert corner[:2, :2].tolist() == [[1, 0.5], [0.5, 0.25]]
    assert corner.sum() == 2.25
    both = localise.kept_share([cells(4, 4, (3, 3)), cells(3, 3, (1, 1))], (4, 4))[0, 0]
    assert both[3, 3] == 0.5
    assert both[1, 2] == 0.125
    everything = [torch.ones(2, 1, 5 - k, 6 - k, dtype=torch.bool) for k in range(3)]
    assert torch.equal(localise.kept_share(everything, (5, 6)), torch.ones(2, 1, 5, 6))


def test_centre_prior_by_hand() -> None:
    prior = localise.centre_prior(5, 3)
    assert prior.shape == (5, 3)
    assert prior[2, 1] == 1
    assert prior[2, 0] == pytest.approx(np.exp(-0.5 * (1 / 3 / 0.3) ** 2))
    assert prior[0, 1] == pytest.approx(np.exp(-0.5 * (0.4 / 0.3) ** 2))
    assert np.array_equal(prior, prior[::-1, ::-1])


def test_maps_are_the_networks(net: RetrievalNet, images: Tensor, targets: list[CamTarget]) -> None:
    images = enlarged(images, (64, 96))
    maps = localise.maps_of(net, images, targets, [3, 8, 3])
    assert list(maps) == NAMES
    for planes in maps.values():
        assert planes.shape == (3, 64, 96)
        assert planes.dtype == np.float32
        assert planes.min() == 0
        assert planes.max() == pytest.approx(1, abs=1e-3)
    assert np.array_equal(maps["centre prior"][0], maps["centre prior"][1])
    with torch.inference_mode():
        seen = net.inspect(images)
    norm = seen.features.square().sum(1, keepdim=True).sqrt()
    for name, cells in {
        "region evaluator": seen.attention,
        "effective weight": seen.attention * norm,
        "channel-weighted response": seen.attended.square().sum(1, keepdim=True).sqrt(),
        "MAX-Mask cells": localise.kept_share(seen.kept, (8, 12)),
        "feature norm": norm,
    }.items():
        assert np.allclose(maps[name], scaled(enlarged(cells, (64, 96))), atol=1e-3), name
    for name, planes in cams(net, seen.features.clone(), targets).items():
        large = scaled(enlarged(torch.from_numpy(planes)[:, None], (64, 96)))
        assert np.allclose(maps[name], large, atol=1e-3), name


def enlarged(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return fn.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def scaled(planes: Tensor) -> NDArray[np.float32]:
    lifted = planes[:, 0] - planes.amin((1, 2, 3))[:, None, None]
    return (lifted / lifted.amax((1, 2), keepdim=True)).numpy()


def test_a_random_cam_weighs_the_channels_of_its_image() -> None:
    features = torch.rand((3, 4, 2, 5), generator=torch.Generator().manual_seed(0))
    planes = localise.random_cams(features, [3, 8, 3])
    assert (planes >= 0).all()
    assert np.array_equal(localise.random_cams(features[2:], [3])[0], planes[2])
    for plane, cells in zip(planes, features.numpy(), strict=True):
        bright = plane > 0  # some weights give what is not cut off
        weights, *_ = np.linalg.lstsq(cells[:, bright].T, plane[bright], rcond=None)
        assert np.allclose(cells[:, bright].T @ weights, plane[bright], atol=1e-5)
    channels = torch.eye(4)[:, :, None, None].repeat(50, 1, 1, 1)
    sums = localise.random_cams(channels, list(range(200)))
    assert 0.3 < (sums > 0).mean() < 0.7  # each weight by itself: about half are negative
    assert sums.max() <= 1


def test_maps_of_a_network_without_attention_or_before_training(images: Tensor) -> None:
    nothing = np.zeros(128, np.float32)
    targets = [CamTarget(nothing + 1, nothing)] * 3

    def maps(arm: str) -> dict[str, Plane]:
        net = RetrievalNet(BackboneSpec(), variant(arm))
        return localise.maps_of(net.eval(), images, targets, [0, 1, 2])

    assert set(NAMES) - set(maps("gem")) == {"region evaluator", "MAX-Mask cells"}
    fresh = maps("dagf")
    assert not fresh["region evaluator"].any()  # the same everywhere
    assert all(np.isfinite(planes).all() for planes in fresh.values())


def test_summaries_by_hand() -> None:
    summary = localise.localisation_summary(FRAME).set_index("map")
    assert list(summary.index) == ["m", "n"]
    assert summary["pixel AUC (%)"].tolist() == pytest.approx([70, 40])
    assert summary["low"]["m"] == pytest.approx(50)  # of the two landmarks' means
    assert summary["high"]["m"] == pytest.approx(80)
    assert summary["pointing (%)"].tolist() == pytest.approx([37.5, 100])
    assert summary["energy inside (%)"].tolist() == pytest.approx([40, 20])
    assert summary["area (%)"].tolist() == pytest.approx([10, 20])
    large = localise.small_masks(FRAME)["energy"].isna()
    assert large.tolist() == [False, True, False, True, False]


@pytest.mark.study
def test_localisation(project: Path, profile: Callable[..., str], net: RetrievalNet) -> None:
    study = open_study(profile())
    frame = localise.localisation(study, of(net))
    assert len(frame) == 8 * len(NAMES)
    assert list(frame["map"].unique()) == NAMES
    assert not frame.duplicated(["file", "map"]).any()
    records = toytown_records(study.toytown, "test").set_index("file").to_dict("index")
    for row in frame.to_dict("records"):
        mask = np.asarray(exact_mask(study.test.root / row["file"])) > 127
        record = records[row["file"]]
        assert row["area"] == pytest.approx(mask.mean())
        assert all(row[key] == record[key] for key in ("landmark", "difficulty"))
        if row["map"] == "centre prior":
            expected = localise.pixel_auc(localise.centre_prior(48, 48), mask)
            assert row["AUC"] == pytest.approx(expected, abs=1e-3)
    half = localise.localisation(open_study(profile(image={"size": 24})), of(net))  # masks follow
    assert np.allclose(frame["area"], half["area"], atol=0.03)
    prior = frame["map"] == "centre prior"
    assert np.allclose(frame["AUC"][prior], half["AUC"][prior], atol=0.05)

    test, spec, targets = study.test, study.profile.image, localise.cam_targets(study, of(net))
    rows = [look(net, test.root / file, spec).descriptor for file in test.database]
    for query in test.queries:
        looked = look(net, test.root / query.file, spec, query.box).descriptor
        own = {int(row) for found in query.labels.values() for row in found}
        mistake = max(set(range(len(rows))) - own, key=lambda row: float(rows[row] @ looked))
        for row in own:
            assert np.allclose(targets[row].direction, looked - rows[mistake], atol=1e-5)


def test_localisation_by_boxes(heads_on: Opened, net: RetrievalNet, tmp_path: Path) -> None:
    """Of photographs: those that have a box, and that some query is about."""
    folder, box = write_photographs(tmp_path / "mine", train_instances=5), "{},i5,4,8,20,32"
    study = heads_on(folder)
    assert not study.masked
    says = r"mine has no masks: write the boxes .* boxes\.csv"
    fails(says, localise.localisation, study, of(net))
    named = [f"jpg/{name}.jpg" for name in ("5-0", "5-1", "5-3", "other-0")]
    lines = ["file,instance,x1,y1,x2,y2", *map(box.format, named)]
    (folder / "boxes.csv").write_text("\n".join(lines))
    study = heads_on(folder)
    assert study.masked
    frame = localise.localisation(study, of(net))
    assert sorted(frame["file"].unique()) == named[1:3]
    assert len(frame) == 2 * len(NAMES)
    assert set(frame["difficulty"]) == {"ok"} and frame["landmark"].nunique() == 1
    assert np.allclose(frame["area"], 16 * 24 / 32**2)
    mask = np.zeros((32, 32), bool)
    mask[8:32, 4:20] = True
    prior = frame[frame["map"] == "centre prior"]["AUC"]
    assert np.allclose(prior, localise.pixel_auc(localise.centre_prior(32, 32), mask), atol=1e-3)


def of(net: RetrievalNet) -> Any:
    """A head that has this network."""
    about = {"weights_id": "net", "variant": variant("dagf"), "frozen": False}
    return SimpleNamespace(network=lambda: net, **about)
