"""The pictures that explain a search, by hand on a few pixels."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from dagf.show.pictures import DARK, heated, lit, thumbnail
from tests.fixtures import photograph

GREY = np.full((4, 6, 3), 200, np.uint8)


def test_light_is_left_where_cells_add_most() -> None:
    cells = np.float32([[0, 1], [0.25, -3]])
    small = np.full((2, 2, 3), 200, np.uint8)  # a pixel a cell: nothing is interpolated
    light = np.array([[0, 1], [0.5, 0]])  # the root of each share of the largest
    expected = (200 * (DARK + (1 - DARK) * light)).round().astype(np.uint8)
    assert np.array_equal(lit(small, cells)[..., 0], expected)
    assert lit(GREY, cells).shape == GREY.shape
    dark = (GREY * DARK).round().astype(np.uint8)
    assert np.array_equal(lit(GREY, np.zeros((2, 2), np.float32)), dark)


def test_heat_spans_the_range_of_its_own_picture() -> None:
    small = np.full((1, 2, 3), 100, np.uint8)
    for plane in (np.float32([[3, 5]]), np.float32([[-1, 0]])):
        for pixel, colour in zip(heated(small, plane)[0], (0.0, 1.0), strict=True):
            heat = np.array(colormaps["magma"](colour)[:3]) * 255
            assert np.array_equal(pixel, (0.4 * 100 + 0.6 * heat).round().astype(np.uint8))
    assert heated(GREY, np.ones((2, 2), np.float32)).shape == GREY.shape


def test_thumbnails_have_a_sane_size(tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    photograph(1, 1, 900).resize((900, 600)).save(large)
    assert thumbnail(large).shape == (213, 320, 3)
    assert thumbnail(large, (0, 0, 400, 500)).shape == (320, 256, 3)
    assert thumbnail(large, (10, 20, 40, 40)).shape == (20, 30, 3)  # not enlarged
    Image.new("RGB", (7, 5)).save(small)
    assert thumbnail(small).shape == (5, 7, 3)
