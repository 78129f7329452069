"""Grids and tables: what is shown is what was computed, with words, to the byte."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import bs4
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from dagf.analysis.cam import look
from dagf.model.variants import variant
from dagf.show import figures, gallery, html
from dagf.show.gallery import Tile
from dagf.show.pictures import kept_cells
from dagf.study.study import Study


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    open_figures = plt.get_fignums()
    plt.close("all")
    assert open_figures == []


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_show_escapes_its_words_and_repeats_to_the_byte(project: Path, kind: str) -> None:
    def made() -> Figure:
        if kind == "png":
            return gallery.grid([[Tile(np.full((8, 8, 3), 90, np.uint8), "over")]])
        curve = {"arm": "gem", "seed": 0, "x": [1, 2], "y": [1, 0], "panel": ""}
        return figures.lines(pd.DataFrame(curve), "x", "y", "panel")

    shown = [figures.show(made(), 'a "b" <c> & d', "<i>words</i>", save=name).data for name in "12"]
    first, second = shown
    assert first == second
    assert 'alt="a &quot;b&quot; &lt;c&gt; &amp; d"' in first
    assert "<figcaption>&lt;i&gt;words&lt;/i&gt;</figcaption>" in first
    found = re.search(r'base64,([^"]+)"', first)
    assert found
    for name in "12":
        saved = project / "data" / "scratch" / "figures" / f"{name}.{kind}"
        assert saved.read_bytes() == base64.b64decode(found[1])


def test_a_table_is_escaped_and_names_the_runs_of_its_rows() -> None:
    values = {"a<b": ["<x>", "y"], "v": [1.25, np.nan], "runs": ["a1 (seed 0)", np.nan]}
    frame = pd.DataFrame(values)
    shown = bs4.BeautifulSoup(html.table(frame, "A & B", digits=2).data, "html.parser")
    assert [row.get("title") for row in shown.select("tbody tr")] == ["a1 (seed 0)", None]
    cells = [cell.get_text() for cell in shown.select("th, td, figcaption")]
    assert cells == ["a<b", "v", "<x>", "1.25", "y", "–", "A & B"]


def test_a_grid_has_gaps_titles_and_frames() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    tiles = [Tile(pixels, verdict, verdict) for verdict in ("right", "wrong", "junk")]
    figure = gallery.grid([[None, *tiles], [Tile(pixels, "alone")]])
    assert [ax.get_title() for ax in figure.axes[:5]] == ["", "right", "wrong", "junk", "alone"]
    assert [len(ax.images) for ax in figure.axes] == [0, 1, 1, 1, 1, 0, 0, 0]
    patches = [patch for ax in figure.axes for patch in ax.patches]
    frames = {(one.get_linestyle(), one.get_edgecolor()) for one in patches}
    assert len(frames) == 3 and not figure.axes[4].patches
    figures.show(figure, "alt", "caption")


@pytest.mark.parametrize("arm", ["scale-mask", "mask", "gem"])
def test_kept_examples_show_what_the_mask_keeps(toy: Study, arm: str, one_process: None) -> None:
    shown = gallery.kept_examples(toy, arm)
    windows = variant(arm).windows
    hard = [query.labels["hard"][0] for query in toy.test.queries if len(query.labels["hard"])]
    filled = [ax for ax in shown.axes if ax.images]
    assert len(filled) == min(6, len(hard)) * (1 + len(windows))
    first = toy.test.root / toy.test.database[hard[0]]
    seen = look(toy.untrained(arm).network(), first, toy.profile.image)
    assert np.array_equal(filled[0].images[0].get_array(), seen.pixels)
    shares = zip(filled[1:], windows, seen.kept, seen.kept_fraction, strict=False)
    for ax, window, kept, share in shares:
        assert ax.get_title() == f"{window}×{window} keeps {share:.0%}"
        expected = seen.pixels if kept is None else kept_cells(seen.pixels, kept, window)
        assert np.array_equal(ax.images[0].get_array(), expected)
    assert "<img" in figures.show(shown, "alt", "caption").data
