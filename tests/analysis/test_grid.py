"""Windows x masks on frozen maps: each combination is what the network's modules give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch.nn import functional as fn

from dagf.analysis import grid
from dagf.datasets.decode import ImageSpec
from dagf.model.pooling import GeM, SPoC
from dagf.model.scale_mask import MaxMask, ScaleAndMask, SumMask
from dagf.model.variants import variant
from dagf.retrieval.metrics import evaluate
from dagf.study.study import Study

pytestmark = pytest.mark.usefixtures("one_process")

# Small whole numbers, so that ties, dead cells and dead maps occur.
MAPS = arrays(
    np.float32,
    st.tuples(*[st.integers(1, n) for n in (3, 4, 4, 5)]),
    elements=st.integers(0, 3).map(float),
)
Maps = NDArray[np.float32]


@pytest.fixture(scope="module")
def cells(toy: Study) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dagf.study.parallel.cores", lambda: 1)
        return grid.grid(toy)


def test_random_masks_differ_from_draw_to_draw_and_image_to_image() -> None:
    torch.manual_seed(0)
    maps = torch.zeros(2, 3, 6, 6)
    maps[:, torch.arange(3), torch.arange(3), torch.arange(3)] = 1
    drawn = grid.masks_of(maps)[:, grid.NAMES.index("random") :]
    assert len(drawn.flatten(0, 1).unique(dim=0)) > grid.DRAWS


@given(MAPS, st.integers(0, 9))
def test_masked_means_are_those_of_the_poolings(maps: Maps, seed: int) -> None:
    features = torch.from_numpy(maps)
    torch.manual_seed(seed)
    masks = grid.masks_of(features)
    for name, pooling in (("SPoC", SPoC()), ("GeM", GeM())):
        found = grid.masked_means(features, masks, grid.POWERS[name])
        for place in range(len(grid.NAMES)):
            kept = masks[:, place].view(len(features), 1, *features.shape[2:]).bool()
            expected = fn.normalize(pooling(features, kept)).detach()
            assert torch.allclose(found[:, place], expected, atol=1e-6), grid.NAMES[place]


ARMS = {  # (windows, mask, pooling) -> the variant that it is
    ("1", "none", "SPoC"): "spoc",
    ("1", "max", "GeM"): "mask",
    ("max 1, 2, 3", "none", "GeM"): "windows",
    ("max 1, 2, 3", "max", "SPoC"): "scale-mask-spoc",
    ("average 1, 2, 3", "max", "GeM"): "scale-mask-average",
}


@pytest.mark.parametrize(("fields", "arm"), ARMS.items())
def test_a_combination_is_evaluated_as_its_arm_is(
    toy: Study, cells: pd.DataFrame, fields: tuple[str, str, str], arm: str
) -> None:
    (windows, mask, pooling), made_of = fields, variant(arm)
    kind, sizes = grid.WINDOW_SETS[windows]
    assert (made_of.windows, made_of.mask, made_of.pooling) == (sizes, mask, pooling.lower())
    assert made_of.window_kind == kind or sizes == (1,)
    for seed in toy.profile.seeds:
        scores = toy.test_maps(toy.bare(seed)).scores(toy.untrained(arm, seed).network().head)
        expected = evaluate(toy.test, scores, [toy.test.settings[1]])
        keys = ["windows", "mask", "pooling", "seed"]
        found = cells.set_index(keys).loc[[(*fields, seed)]].sort_values("query")
        assert list(found["query"]) == list(expected["query"])
        assert np.allclose(found["AP"], expected["AP"], atol=1e-9)
        assert list(found["positives"]) == list(expected["positives"])


def test_every_window_set_is_a_variant_of_the_network(toy: Study) -> None:
    maps = toy.test_maps(toy.bare(0)).queries
    vectors = grid.pooled(maps)
    for name, (kind, windows) in grid.WINDOW_SETS.items():
        filters = grid.filters_of(name)
        for pooling, network in (("SPoC", SPoC()), ("GeM", GeM())):
            for mask in ("none", "max", "sum"):
                place = grid.NAMES.index(mask)
                found = grid.summed([vectors[one, pooling][:, place] for one in filters])
                scheme = ScaleAndMask(network, windows, kind, mask)
                for rows, batch in maps.batches():  # crops of several sizes
                    with torch.inference_mode():
                        assert np.allclose(found[rows], scheme(batch)[0], atol=1e-6)


def test_one_row_a_combination_draw_seed_and_query(toy: Study, cells: pd.DataFrame) -> None:
    key = ["windows", "mask", "draw", "pooling", "seed", "query"]
    assert not cells.duplicated(key).any()
    combinations = len(grid.WINDOW_SETS) * len(grid.NAMES) * len(grid.POWERS)
    assert len(cells) == combinations * 2 * len(toy.test.queries)
    random = cells["mask"] == "random"
    assert set(cells["draw"][random]) == set(range(grid.DRAWS))
    assert set(cells["draw"][~random]) == {0}
    assert set(cells["mask"]) == {"none", "max", "sum", "random"}
    by_draw = cells[random].pivot_table("AP", ["windows", "pooling", "seed"], "draw")
    assert (by_draw.nunique(axis=1) > 1).any()


def test_masks_of_each_seed(toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the interval over seeds would not hold the chance of the draws."""
    maps = toy.test_maps(toy.bare(0))
    monkeypatch.setattr(Study, "test_maps", lambda *_: maps)
    monkeypatch.setattr(Study, "prepare", lambda *_: None)
    same = grid.grid(replace(toy, cache=tmp_path)).pivot(
        index=["mask", "windows", "draw", "pooling", "query"], columns="seed", values="AP"
    )
    for mask, part in same.groupby("mask"):
        assert part[0].equals(part[1]) == (mask != "random"), mask


def test_one_backbone_is_evaluated_once(toy: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stands for every seed: nothing depends on it, and contrasts have intervals."""
    profile = replace(toy.profile, backbone_training=None)
    monkeypatch.setattr(Study, "prepare", lambda *_: None)
    found = grid.grid(replace(toy, profile=profile)).groupby("seed")
    one, other = (part.drop(columns="seed").reset_index(drop=True) for _, part in found)
    assert one.equals(other)


def test_it_is_kept_by_what_it_depends_on(
    toy: Study, cells: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    parts = {seed: part.drop(columns="seed") for seed, part in cells.groupby("seed")}
    monkeypatch.setattr(grid, "_evaluate", lambda _, seed: made.append(seed) or parts[seed])
    pd.testing.assert_frame_equal(grid.grid(toy), cells)
    assert made == []  # it was there
    bare = {seed: toy.bare(seed) for seed in (0, 1)}
    monkeypatch.setattr(Study, "bare", lambda _, seed: bare[seed])
    study = replace(toy, cache=tmp_path)
    larger = replace(study, profile=replace(toy.profile, image=ImageSpec(40)))
    for one in (study, study.smaller(2), larger):
        made.clear()
        grid.grid(one)
        grid.grid(one)
        assert made == [0, 1]


def test_kept_fractions_by_hand(toy: Study) -> None:
    found = grid.kept_fractions(toy, 1).set_index("window")
    assert list(found.index) == ["1", "max 2", "max 3", "average 2", "average 3"]
    for name, row in found.iterrows():
        kind, size = ("max", 1) if name == "1" else (str(name).split()[0], int(str(name)[-1]))
        pool = fn.max_pool2d if kind == "max" else fn.avg_pool2d
        batches = toy.test_maps(toy.bare(1)).database.batches()
        scaled = [pool(image[None], size, 1) for _, batch in batches for image in batch]
        for column, mask in (("MAX-Mask", MaxMask()), ("SUM-mask", SumMask())):
            shares = [float(mask(one).float().mean()) for one in scaled]
            assert row[column] == pytest.approx(100 * np.mean(shares), abs=1e-3)


def test_an_image_of_which_a_mask_keeps_dead_cells_only_resembles_nothing() -> None:
    part = np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    assert grid.summed([part, part]) == pytest.approx(np.array([[0, 0], [0.6, 0.8]]))
