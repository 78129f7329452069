"""Pictures (H, W, 3) uint8: thumbnails, and what is laid over them: heat, light, outlines."""

import base64
import io
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from dagf.analysis.cam import Plane, enlarge
from dagf.datasets.decode import Box, ImageSpec
from dagf.datasets.images import load_image

SIDE = 320  # pixels of the longest side of a picture: sharp at phone width
DARK = 0.12  # of a picture's light where it adds nothing to a match
DROPPED = 0.28  # of its light where a mask drops the cells
YELLOW = (240, 228, 66)

Pixels = NDArray[np.uint8]


@lru_cache(maxsize=256)  # 75 MB: a photograph takes longer to read than to search
def thumbnail(file: Path, box: Box | None = None) -> Pixels:
    """Return a picture, or a crop of it, with a longest side of `SIDE` pixels at most."""
    pixels = load_image(file, ImageSpec(SIDE, resize_crop=False), box).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def address(pixels: Pixels) -> str:
    """Return a picture as a JPEG that is its own address."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def heated(pixels: Pixels, plane: Plane) -> Pixels:
    """Return a picture under a heat map (h, w) that is scaled to this picture's own range."""
    low, high = float(plane.min()), float(plane.max())
    share = (enlarge(torch.from_numpy(plane)[None, None], pixels.shape[:2]) - low) / (
        high - low or 1.0
    )
    heat = matplotlib.colormaps["magma"](share)[..., :3]
    return (0.4 * pixels + 0.6 * 255 * heat).round().astype(np.uint8)


def lit(pixels: Pixels, cells: Plane) -> Pixels:
    """Return a picture with its light left where the cells (h, w) add most to a match.

    The light goes with the root of a cell's share: under maxima few cells have nearly all of it.
    """
    share = enlarge(torch.from_numpy(cells.clip(0))[None, None], pixels.shape[:2])
    light = np.sqrt(share / (float(share.max()) or 1.0))[..., None]
    return (pixels * (DARK + (1 - DARK) * light)).round().astype(np.uint8)


def kept_cells(pixels: Pixels, kept: NDArray[np.bool_], window: int) -> Pixels:
    """Return a picture, dark where a mask drops cells (h, w): each at the centre of its window.

    At the border the nearest cell counts.
    """
    rows, columns = (
        ((np.arange(side) + 0.5) / side * (cells + window - 1) - (window - 1) / 2)
        .clip(0, cells - 1)
        .astype(int)
        for side, cells in zip(pixels.shape[:2], kept.shape, strict=True)
    )
    light = np.where(kept[np.ix_(rows, columns)], 1.0, DROPPED)[..., None]
    return (pixels * light).round().astype(np.uint8)


def outlined(pixels: Pixels, part: NDArray[np.bool_], outside: float = 1.0) -> Pixels:
    """Return a picture with the outline of a part (H, W), and so much of its light outside it."""
    inside = binary_erosion(part, iterations=max(1, min(part.shape) // 100))
    shown = (pixels * np.where(part, 1.0, outside)[..., None]).round().astype(np.uint8)
    shown[part & ~inside] = YELLOW
    return shown


def boxed(pixels: Pixels, box: Box, outside: float = 1.0) -> Pixels:
    """Return `outlined` for a box in the picture's pixels."""
    x1, y1, x2, y2 = (max(0, round(edge)) for edge in box)
    part = np.zeros(pixels.shape[:2], bool)
    part[y1:y2, x1:x2] = True
    return outlined(pixels, part, outside)
