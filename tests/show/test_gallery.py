"""Static figures and grids: what is shown is what was computed, with words, to the byte."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import bs4
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from dagf.analysis.localise import pixel_auc
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.toytown import load_mask
from dagf.model.network import RetrievalNet
from dagf.retrieval.metrics import evaluate
from dagf.show import figures, gallery
from dagf.study.opening import open_study
from dagf.study.runs import Run
from dagf.study.study import Study


@pytest.fixture(scope="module")
def net(finished: Run) -> RetrievalNet:
    return finished.network()


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    open_figures = plt.get_fignums()
    plt.close("all")
    assert open_figures == []


@pytest.fixture
def toytown(project: Path, profile: Callable[..., str]) -> Study:
    return open_study(profile())


def line() -> Figure:
    figure, ax = plt.subplots()
    ax.plot([0, 1], [1, 0])
    return figure


def picture() -> Figure:
    figure, ax = plt.subplots()
    figures.overlay(ax, np.full((8, 8, 3), 90, np.uint8), np.eye(4), "over")
    return figure


@pytest.mark.parametrize(("made", "kind"), [(line, "svg"), (picture, "png")])
def test_show_escapes_its_words_and_repeats_to_the_byte(
    project: Path, made: Callable[[], Figure], kind: str
) -> None:
    first, second = (
        figures.show(made(), 'a "b" <c> & d', "<i>words</i>", save=name).data
        for name in ("one", "two")
    )
    assert first == second
    assert 'alt="a &quot;b&quot; &lt;c&gt; &amp; d"' in first
    assert "<figcaption>&lt;i&gt;words&lt;/i&gt;</figcaption>" in first
    saved = [
        (project / "data" / "scratch" / "figures" / f"{name}.{kind}").read_bytes()
        for name in ("one", "two")
    ]
    assert saved[0] == saved[1] == base64.b64decode(re.search(r'base64,([^"]+)"', first).group(1))  # type: ignore[union-attr]
    assert "http" not in first.replace("http://www.w3.org", "")


def test_tables() -> None:
    frame = pd.DataFrame({"a<b": ["<x>", "y"], "v": [1.25, np.nan]})
    shown = figures.table(frame, "A & B", digits=2).data
    assert "<figcaption>A &amp; B</figcaption>" in shown
    assert "a&lt;b" in shown
    assert "&lt;x&gt;" in shown
    assert "1.25" in shown
    assert "–" in shown
    record = {"title": "T", "caption": "C", "columns": ["a"], "rows": [[1.04]]}
    assert "<figcaption>T. C</figcaption>" in figures.record_table(record).data
    assert "1.0" in figures.record_table(record).data


def test_plots_of_results(finished: Run) -> None:
    results = pd.DataFrame(
        [
            ("dagf", 0, "Easy", 40.0),
            ("dagf", 1, "Easy", 44.0),
            ("gem", 0, "Easy", 38.0),
            ("gem", 0, "Hard", 9.0),
        ],
        columns=["arm", "seed", "setting", "mAP"],
    )
    shown = figures.arms_by_setting(results[results["setting"] == "Easy"], ["Easy"])
    assert [label.get_text() for label in shown.axes[0].get_yticklabels()] == ["DAGF", "GeM"]
    curves = {
        ("dagf", 0): finished.curves,
        ("dagf", 1): finished.curves,
        ("gem", 0): finished.curves,
    }
    plotted = figures.training_curves(curves)
    assert [text.get_text() for text in plotted.axes[0].get_legend().get_texts()] == ["DAGF", "GeM"]
    assert len(plotted.axes[1].lines) == 3
    for figure in (shown, plotted):
        assert "<img" in figures.show(figure, "alt", "caption").data


def test_sheets_overlays_and_frames() -> None:
    pixels = [np.zeros((5, 7, 3), np.uint8)] * 3
    sheet = figures.contact_sheet(pixels, columns=2)
    assert len(sheet.axes) == 4
    assert sum(bool(ax.images) for ax in sheet.axes) == 3
    figure, axes = plt.subplots(1, 2)
    figures.kept_cells(axes[0], np.zeros((32, 32, 3), np.uint8), np.eye(3, dtype=bool), 2, "kept")
    assert list(axes[0].images[1].get_extent()) == [
        3.5,
        27.5,
        27.5,
        3.5,
    ]  # of 4 cells of 8 pixels, half a one in
    figures.kept_cells(axes[1], np.zeros((32, 32, 3), np.uint8), None, 1, "all")
    assert len(axes[1].images) == 1
    for verdict in ("right", "wrong", "junk"):
        figures.frame(axes[1], verdict)
    assert len({(patch.get_linestyle(), patch.get_edgecolor()) for patch in axes[1].patches}) == 3
    for made in (sheet, figure):
        figures.show(made, "alt", "caption")


@pytest.mark.study
def test_browsing_toytown(toytown: Study, net: RetrievalNet) -> None:
    counted = gallery.counts(toytown).set_index("part")
    assert counted["images"].to_dict() == {
        "training": 9, "validation: queries": 2, "validation: database": 8,
        "validation: distractors": 2, "test: query": 2, "test: database": 8, "test: distractors": 3,
    }  # fmt: skip
    assert counted["landmarks"]["training"] == 3
    labels = gallery.label_counts(toytown.test).set_index("setting")
    assert (
        labels["positives"]["Easy"] + labels["positives"]["Hard"] == labels["positives"]["Medium"]
    )
    assert toytown.toytown is not None
    for made in (gallery.tour(toytown, queries=9), gallery.nuisances(toytown.toytown)):
        figures.show(made, "alt", "caption")
    shown, scores, order = gallery.ranking(toytown, toytown.untrained("dagf"), [0, 1], top=4)
    figures.show(shown, "alt", "caption")
    assert scores.shape == (2, 11)
    assert order.shape == (2, 4)
    for number, rows in enumerate(order):
        assert np.array_equal(scores[number, rows], np.sort(scores[number])[::-1][:4])
    best = [int(row) for row in np.argsort(-scores[0])[:2]]
    figures.show(gallery.explained(toytown, net, 0, scores, best), "alt", "caption")
    worst = next(
        int(row)
        for row in np.argsort(-scores[0])
        if not gallery.label_of(toytown.test.queries[0], int(row))
    )
    shown = gallery.explained(toytown, net, 0, scores, [worst])  # a ranking that a negative leads
    cams = [shown.axes[number].images[1].get_array() for number in (6, 13)]
    assert all(np.ptp(cam) > 0.5 for cam in cams)
    figures.show(shown, "alt", "caption")
    files = toytown.test.database_paths[:3]
    kept = gallery.kept_fractions(net, files, toytown)
    assert list(kept["window"]) == ["1 × 1", "2 × 2", "3 × 3"]
    assert (kept["least (%)"] <= kept["kept cells, mean (%)"]).all()
    assert kept["most (%)"].between(0, 100).all()


def test_what_is_right(data: TrainingSet) -> None:
    query = data.validation.queries[1]
    rows = query.labels["ok"]
    assert gallery.label_of(query, int(rows[0])) == "ok"
    assert gallery.label_of(query, 0) == ""
    assert gallery.found(query, np.array([0, *rows[:2]])) == 2
    scores = np.zeros((len(data.validation.queries), len(data.validation.database_paths)))
    assert len(evaluate(data.validation, scores)) == 3


def test_a_table_names_the_runs_of_its_rows() -> None:
    frame = pd.DataFrame({"method": ["DAGF", "GeM"], "runs": ["a1 (seed 0)", np.nan]})
    shown = bs4.BeautifulSoup(figures.table(frame, "C").data, "html.parser")
    assert [row.get("title") for row in shown.select("tbody tr")] == ["a1 (seed 0)", None]
    record = {"columns": ["method"], "rows": [["DAGF"], ["GeM"]], "runs": ["a1 (seed 0)", ""]}
    again = figures.record_table(record | {"title": "T", "caption": "C"}).data
    assert again == figures.table(frame, "T. C").data


def test_the_curve_over_distractors_is_of_the_first_query_set() -> None:
    names = ["query_set", "arm", "seed", "setting", "distractors", "mAP"]
    sets, counts = (("query", 5), ("query-plain", 9)), (0, 100, 1000)
    rows = [
        (name, "gem", seed, "Medium", count, 80 - seed - drop * np.log10(count + 1))
        for name, drop in sets for seed in (0, 1) for count in counts
    ]  # fmt: skip
    figure = figures.distractor_curve(pd.DataFrame(rows, columns=names), ["Medium"])
    lines = figure.axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [list(counts)] * 2
    for seed, line in enumerate(lines):
        expected = [80 - seed - 5 * np.log10(count + 1) for count in counts]
        assert list(line.get_ydata()) == pytest.approx(expected)
    (name,) = figure.axes[0].get_legend().get_texts()
    assert name.get_text() == "GeM"
    plt.close(figure)


def test_costs_are_drawn_on_logarithmic_axes() -> None:
    columns = ["rows", "exact s", "exact MB", "index s", "index MB"]
    costs = pd.DataFrame([(10, 1, 2, 3, 4), (100, 5, 6, 7, 8)], columns=columns)
    figure = figures.search_costs(costs)
    drawn = [[list(line.get_ydata()) for line in ax.lines] for ax in figure.axes]
    assert drawn == [[[1, 5], [3, 7]], [[2, 6], [4, 8]]]
    assert {ax.get_yscale() for ax in figure.axes} == {"log"}
    plt.close(figure)


@pytest.mark.study
def test_maps_stand_beside_the_outline_of_the_landmark(toytown: Study, net: RetrievalNet) -> None:
    files = toytown.test.database[2:0:-1]
    shown = gallery.against_masks(toytown, net, files)
    assert len(shown.axes) == 2 * 7
    assert toytown.toytown is not None
    for file, ax in zip(files, (shown.axes[6], shown.axes[13]), strict=True):
        score = pixel_auc(ax.images[1].get_array(), load_mask(toytown.toytown, "test", file))
        assert ax.get_title() == f"feature norm\nAUC {score:.0%}"
    figures.show(shown, "alt", "caption")
