"""The pictures that explain a search, by hand on a few pixels."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from dagf.show import pictures
from tests.fixtures import photograph

GREY = np.full((4, 6, 3), 200, np.uint8)


def test_light_is_left_where_cells_add_most() -> None:
    cells = np.float32([[0, 1], [0.25, -3]])
    small = np.full((2, 2, 3), 200, np.uint8)  # a pixel a cell: nothing is interpolated
    light = np.array([[0, 1], [0.5, 0]])  # the root of each share of the largest
    expected = (200 * (pictures.DARK + (1 - pictures.DARK) * light)).round().astype(np.uint8)
    assert np.array_equal(pictures.lit(small, cells)[..., 0], expected)
    assert pictures.lit(GREY, cells).shape == GREY.shape
    dark = (GREY * pictures.DARK).round().astype(np.uint8)
    assert np.array_equal(pictures.lit(GREY, np.zeros((2, 2), np.float32)), dark)


def test_heat_spans_the_range_of_its_own_picture() -> None:
    small = np.full((1, 2, 3), 100, np.uint8)
    for plane in (np.float32([[3, 5]]), np.float32([[-1, 0]])):
        for pixel, colour in zip(pictures.heated(small, plane)[0], (0.0, 1.0), strict=True):
            heat = np.array(colormaps["magma"](colour)[:3]) * 255
            assert np.array_equal(pixel, (0.4 * 100 + 0.6 * heat).round().astype(np.uint8))
    assert pictures.heated(GREY, np.ones((2, 2), np.float32)).shape == GREY.shape


def test_thumbnails_have_a_sane_size(tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    photograph(1, 1, 900).resize((900, 600)).save(large)
    assert pictures.thumbnail(large).shape == (213, 320, 3)
    assert pictures.thumbnail(large, (0, 0, 400, 500)).shape == (320, 256, 3)
    assert pictures.thumbnail(large, (10, 20, 40, 40)).shape == (20, 30, 3)  # not enlarged
    Image.new("RGB", (7, 5)).save(small)
    assert pictures.thumbnail(small).shape == (5, 7, 3)


def test_dropped_cells_are_dark_at_the_centre_of_their_windows() -> None:
    """Four cells of 8 pixels a side have 3 x 3 windows of two: each is centred between cells."""
    pixels = np.full((32, 32, 3), 100, np.uint8)
    shown = pictures.kept_cells(pixels, np.eye(3, dtype=bool), 2)[..., 0]
    light = np.where(np.eye(3), 100, round(100 * pictures.DROPPED))
    assert np.array_equal(shown[4:28, 4:28], light.repeat(8, 0).repeat(8, 1))
    assert np.array_equal(shown[0, 4:28], shown[4, 4:28])  # as the nearest one
    assert pictures.kept_cells(pixels, np.ones((4, 4), bool), 1).min() == 100


def test_a_part_is_outlined_and_the_rest_dimmed() -> None:
    pixels = np.full((20, 40, 3), 100, np.uint8)
    shown = pictures.boxed(pixels, (9.8, 2.2, 30, 18), outside=0.35)
    expected = np.full((20, 40, 3), 35)
    expected[2:18, 10:30] = pictures.YELLOW
    expected[3:17, 11:29] = 100
    assert np.array_equal(shown, expected)
    assert np.array_equal(pictures.boxed(pixels, (-5, -5, 99, 99))[1:-1, 1:-1], pixels[1:-1, 1:-1])
    nothing = np.zeros((20, 40), bool)
    assert np.array_equal(pictures.outlined(pixels, nothing), pixels)
