"""Figures of the ablations: a panel, field or bar for each value, where it belongs."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from dagf.analysis import ablations
from dagf.analysis.cam import look
from dagf.analysis.contrasts import Contrast
from dagf.analysis.grid import NAMES, WINDOW_SETS, grid
from dagf.model.variants import variant
from dagf.retrieval.statistics import Interval
from dagf.show import figures, gallery
from dagf.study.study import Study

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def fields(ax: Axes) -> np.ndarray:
    (mesh,) = [made for made in ax.collections if isinstance(made, QuadMesh)]
    return np.asarray(mesh.get_array()).reshape(mesh.get_coordinates().shape[0] - 1, -1)


def labels(texts: object) -> list[str]:
    return [text.get_text() for text in texts]  # type: ignore[attr-defined]


def test_a_heat_map_has_a_panel_a_pooling_and_a_field_a_combination() -> None:
    names, masks, poolings = ("1", "max 1, 2"), ("none", "max", "random"), ("SPoC", "GeM")
    values = {key: 7.0 * number for number, key in enumerate(product(poolings, names, masks))}
    table = pd.DataFrame(
        [(*key, value) for key, value in values.items()],
        columns=["pooling", "windows", "mask", "mAP"],
    )
    shown = figures.heat_maps(table, "windows", "mask", "mAP", "pooling")
    *panels, scale = shown.axes
    assert [ax.get_title() for ax in panels] == list(poolings)
    assert scale.get_ylabel() == "mAP (%)"
    assert (panels[0].get_ylabel(), labels(panels[0].get_yticklabels())) == ("windows", list(names))
    for ax, pooling in zip(panels, poolings, strict=True):
        assert (ax.get_xlabel(), labels(ax.get_xticklabels())) == ("mask", list(masks))
        expected = [[values[pooling, name, mask] for mask in masks] for name in names]
        assert np.array_equal(fields(ax), expected)
        written = {text.get_position(): text.get_text() for text in ax.texts}
        assert written == {
            (x + 0.5, y + 0.5): f"{values[pooling, name, mask]:.1f}"
            for (y, name), (x, mask) in product(enumerate(names), enumerate(masks))
        }
        (mesh,) = ax.collections
        assert mesh.get_clim() == (0, 77)  # one scale of colours for all panels
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row on top
    dark = [text.get_color() for ax in panels for text in ax.texts]
    assert dark == ["w"] * 6 + ["k"] * 6  # white on dark fields


def test_the_heat_map_of_a_real_grid(toy: Study) -> None:
    means = ablations.grid_means(grid(toy))
    shown = figures.heat_maps(means, "windows", "mask", "mAP", "pooling")
    assert len(shown.axes) == 3
    for ax in shown.axes[:2]:
        assert fields(ax).shape == (len(WINDOW_SETS), len(set(NAMES)))
        assert not np.isnan(fields(ax)).any()
    assert "<img" in figures.show(shown, "alt", "caption").data


def gain(setting: str, mean: float) -> Contrast:
    joint, alone = Interval(mean, mean - 3, mean + 4), Interval(mean, mean - 1, mean + 2)
    return Contrast("DAGF", "GeM", setting, "query", 5, 70, 70, joint, alone, alone, 0.1, 0.1)


def test_gains_have_a_panel_a_nuisance_and_a_bar_a_bin() -> None:
    bins = ("below 5 %", "above 20 %", "worst minus mildest")
    contrasts = [
        gain(f"{n}: {b}", 10 * i + j)
        for i, n in enumerate(("clutter", "scale"))
        for j, b in enumerate(bins)
    ]
    shown = figures.gains(contrasts)
    assert [ax.get_title() for ax in shown.axes] == ["clutter", "scale"]
    for number, ax in enumerate(shown.axes):
        assert labels(ax.get_xticklabels()) == ["below 5 %", "above 20 %", "worst\n− mildest"]
        bars = [
            line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 3
        ]
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(bars) == len(points) == len(bins)
        for place, (point, bar) in enumerate(zip(points, bars, strict=True)):
            mean = 10 * number + place
            assert (point.get_xdata()[0], point.get_ydata()[0]) == (place, mean)
            assert (list(bar.get_xdata()), list(bar.get_ydata())) == (
                [place, place],
                [mean - 3, mean + 4],
            )
        assert any(list(line.get_ydata()) == [0, 0] for line in ax.lines)  # where nothing is gained
    assert "<img" in figures.show(shown, "alt", "caption").data


@pytest.mark.parametrize(("arm", "pictures"), [("scale-mask", 3), ("mask", 9), ("gem", 1)])
def test_kept_examples_show_what_the_mask_keeps(toy: Study, arm: str, pictures: int) -> None:
    shown = gallery.kept_examples(toy, arm, pictures)
    windows = variant(arm).windows
    lines = [
        shown.axes[start : start + 1 + len(windows)]
        for start in range(0, len(shown.axes), 1 + len(windows))
    ]
    filled = [line for line in lines if line[0].images]
    hard = [query.labels["hard"][0] for query in toy.test.queries if len(query.labels["hard"])]
    assert len(filled) == min(pictures, len(hard))
    seen = look(
        toy.untrained(arm).network(), toy.test.root / toy.test.database[hard[0]], toy.profile.image
    )
    assert np.array_equal(filled[0][0].images[0].get_array(), seen.pixels)
    for ax, window, kept, share in zip(
        filled[0][1:], windows, seen.kept, seen.kept_fraction, strict=True
    ):
        assert ax.get_title() == f"{window}×{window}: {share:.0%}"
        assert len(ax.images) == (1 if kept is None else 2)
        if kept is not None:
            assert np.array_equal(
                ax.images[1].get_array()[..., 3] == 0, kept
            )  # what is kept is not darkened
    assert "<img" in figures.show(shown, "alt", "caption").data
