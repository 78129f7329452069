"""Figures: a panel, line, field or bar for each value, where it belongs."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from dagf.analysis.contrasts import Contrast
from dagf.analysis.room import GAIN, ROOM
from dagf.retrieval.statistics import Interval
from dagf.show import figures


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def labels(texts: object) -> list[str]:
    return [text.get_text() for text in texts]


def gain(setting: str, mean: float) -> Contrast:
    joint, alone = Interval(mean, mean - 3, mean + 4), Interval(mean, mean - 1, mean + 2)
    return Contrast("DAGF", "GeM", setting, "query", 5, 70, 70, joint, alone, alone, 0.1)


def test_gains_have_a_panel_a_nuisance_and_a_bar_a_bin() -> None:
    bins = ("below 5 %", "above 20 %", "worst minus mildest")
    places = [(i, n, j, b) for i, n in enumerate(("clutter", "scale")) for j, b in enumerate(bins)]
    shown = figures.gains([gain(f"{n}: {b}", 10 * i + j) for i, n, j, b in places])
    assert [ax.get_title() for ax in shown.axes] == ["clutter", "scale"]
    for number, ax in enumerate(shown.axes):
        assert labels(ax.get_xticklabels()) == ["below 5 %", "above 20 %", "worst\n− mildest"]
        drawn = [(line.get_xdata(), line.get_ydata()) for line in ax.lines]
        ends = [(list(x), list(y)) for x, y in drawn if len(x) == 2][:3]
        means = range(10 * number, 10 * number + 3)
        assert ends == [([j, j], [mean - 3, mean + 4]) for j, mean in enumerate(means)]
        assert [(x[0], y[0]) for x, y in drawn if len(x) == 1] == [*enumerate(means)]


def test_rooms_have_a_bar_for_the_room_and_a_dot_for_the_gain() -> None:
    cells = {ROOM: ["+9.00 [+6.00, +13.00]", "+10.00 [+7.00, +14.00]"]}
    cells |= {GAIN: ["-1.00 [-4.00, +3.00]", "+0.00 [-3.00, +4.00]"]}
    table = pd.DataFrame({"module": ["a", "b"], **cells})
    figure = figures.rooms({"drawings": table, "shop": table[1:]})
    ax, other = figure.axes
    assert [one.get_title() for one in figure.axes] == ["drawings", "shop"]
    assert labels(ax.get_yticklabels()) == ["a", "b"]
    assert [bar.get_width() for bar in ax.patches] == [9, 10]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [(dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots] == [(-1, 0), (0, 1)]
    (thick,) = (line for line in other.lines if line.get_linewidth() == 4)
    assert (list(thick.get_xdata()), list(thick.get_ydata())) == ([-3, 4], [1, 1])
    assert len(labels(figure.legends[0].get_texts())) == 2


def test_lines_have_a_panel_a_value_and_a_line_a_seed() -> None:
    rows = [
        (arm, seed, setting, count, score - seed - np.log10(count))
        for arm, score in (("gem", 80), ("exact", 60))
        for seed in (0, 1)
        for setting in ("Easy", "Hard")
        for count in (100, 10, 1)
    ]
    table = pd.DataFrame(rows, columns=["arm", "seed", "setting", "count", "mAP"])
    shown = figures.lines(table, "count", "mAP", "setting", xscale="log")
    assert [ax.get_title() for ax in shown.axes] == ["Easy", "Hard"]
    for ax in shown.axes:
        assert [list(line.get_xdata()) for line in ax.lines] == [[1, 10, 100]] * 4
        expected = [[start, start - 1, start - 2] for start in (80, 79, 60, 59)]
        assert sorted((list(line.get_ydata()) for line in ax.lines), reverse=True) == expected
        assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "count")
    assert labels(shown.axes[0].get_legend().get_texts()) == ["GeM", "exact"]


def test_arms_have_a_dot_a_seed_and_curves_a_line_a_run() -> None:
    curve = pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0], "validation_mAP": [10.0, 20.0]})
    shown = figures.training_curves({("dagf", 0): curve, ("gem", 0): curve})
    for ax, values in zip(shown.axes, ([3, 2], [10, 20]), strict=True):
        assert [list(line.get_ydata()) for line in ax.lines] == [values] * 2
    rows = [("dagf", 0, "Easy", 40.0), ("dagf", 1, "Easy", 44.0), ("gem", 0, "Easy", 38.0)]
    rows += [("gem", 0, "Hard", 9), ("dagf", 0, "Hard", 8)]
    table = pd.DataFrame(rows, columns=["arm", "seed", "setting", "mAP"])
    ax, hard = figures.arms_by_setting(table).axes
    assert labels(ax.get_yticklabels()) == ["DAGF", "GeM"]
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[40, 44], [38]] and hard.get_title() == "Hard"


def test_a_persons_matplotlibrc_changes_no_figure() -> None:
    """Neither what is drawn nor how it is saved; nor what a notebook draws itself."""
    table = pd.DataFrame({"arm": "gem", "seed": 0, "x": [1, 2], "y": [3, 5], "panel": "one"})
    rows = pd.DataFrame({"arm": "gem", "seed": [0, 1], "setting": "Easy", "mAP": [3.0, 5.0]})

    def drawn() -> list[str]:
        made = figures.lines(table, "x", "y", "panel"), figures.arms_by_setting(rows)
        made = (*made, figures.gains([gain("one: two", 1)]))
        return [figures.show(one, "alt", "caption").data for one in made]

    plain = drawn()
    odd = {"text.usetex": True, "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 300}
    with plt.rc_context({**odd, "axes.facecolor": "red", "figure.figsize": (1, 1)}):
        assert drawn() == plain
        assert plt.rcParams["font.size"] == 30
        importlib.reload(figures)  # as when a kernel starts with such settings
        ours = {**matplotlib.rcParamsDefault, **figures.STYLE}
        assert all(plt.rcParams[key] == ours[key] for key in odd)


def test_a_table_of_differences_begins_with_how_they_fell(project: Path) -> None:
    frame = pd.DataFrame({"what": ["a", "b"], "minus": "c", "verdict": ["above", "-"]})
    said = '<p class="lead">Of 2 differences: 1 above zero, 0 below, 1 not shown.</p>'
    assert figures.kept("x", frame, "T", "c").data.startswith(said)
    assert "lead" not in figures.kept("x", frame.drop(columns="minus"), "T", "c").data
