"""The pictures that explain a search, by hand on a few pixels; what 08 searches."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from dagf.collections import page, your_photos
from dagf.collections.encoders import of_run
from dagf.study.study import Study
from tests.fixtures import photograph

GREY = np.full((4, 6, 3), 200, np.uint8)


def test_light_is_left_where_cells_add_most() -> None:
    cells = np.float32([[0, 1], [0.25, -3]])
    small = np.full((2, 2, 3), 200, np.uint8)  # a pixel a cell: nothing is interpolated
    light = np.array([[0, 1], [0.5, 0]])  # the root of each share of the largest
    expected = (200 * (page.DARK + (1 - page.DARK) * light)).round().astype(np.uint8)
    assert np.array_equal(page.lit(small, cells)[..., 0], expected)
    assert page.lit(GREY, cells).shape == GREY.shape
    assert page.lit(GREY, None) is None
    assert np.array_equal(
        page.lit(GREY, np.zeros((2, 2), np.float32)), (GREY * page.DARK).round().astype(np.uint8)
    )


def test_heat_spans_the_range_of_its_own_picture() -> None:
    small = np.full((1, 2, 3), 100, np.uint8)
    for plane in (np.float32([[3, 5]]), np.float32([[-1, 0]])):
        for pixel, colour in zip(page.heated(small, plane)[0], (0.0, 1.0), strict=True):
            heat = np.array(colormaps["magma"](colour)[:3]) * 255
            assert np.array_equal(pixel, (0.4 * 100 + 0.6 * heat).round().astype(np.uint8))
    assert page.heated(GREY, np.ones((2, 2), np.float32)).shape == GREY.shape


def test_thumbnails_have_a_sane_size(tmp_path: Path) -> None:
    photograph(1, 1, 900).resize((900, 600)).save(tmp_path / "large.png")
    assert page.thumbnail(tmp_path / "large.png").shape == (213, 320, 3)
    assert page.thumbnail(tmp_path / "large.png", (0, 0, 400, 500)).shape == (320, 256, 3)
    assert page.thumbnail(tmp_path / "large.png", (10, 20, 40, 40)).shape == (
        20,
        30,
        3,
    )  # not enlarged
    Image.new("RGB", (7, 5)).save(tmp_path / "small.png")
    assert page.thumbnail(tmp_path / "small.png").shape == (5, 7, 3)


def test_results_as_a_table() -> None:
    table = page.ranked([("b.jpg", 0.9), ("a.jpg", 0.8)])
    assert table.to_dict("list") == {
        "rank": [1, 2],
        "cosine": [0.9, 0.8],
        "file": ["b.jpg", "a.jpg"],
    }


@pytest.mark.study
def test_without_photographs_the_study_is_searched(
    toy: Study, toy_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAGF_ROOT", str(toy_root))
    search = your_photos.in_study(toy)
    assert search.images == tuple(toy.test.database_paths)
    assert (search.query, search.box) == (
        toy.test.root / toy.test.queries[0].file,
        toy.test.queries[0].box,
    )
    assert search.encoder == of_run(toy.run("dagf").id)
    collection = search.collection()
    nearest = collection.search(search.query, 3, search.box)
    html = page.show(collection, search.query, nearest, search.box).data
    assert html.count("<img") == 1 + 3 * 4
    assert "under a heat map: bright where the network looks" in html
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        photograph(number, 0, 40).save(photos / f"{number}.png")
    own = your_photos.in_folder(str(photos), run=toy.run("gem").id)
    assert (own.query, own.box) == (photos / "0.png", (10, 10, 30, 30))
    assert own.folder != search.folder
    assert (
        your_photos.in_folder(str(photos), str(photos / "2.png"), toy.run("gem").id).query
        == photos / "2.png"
    )
