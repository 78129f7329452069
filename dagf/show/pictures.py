"""Pictures for HTML, (H, W, 3) uint8: thumbnails, heat maps over them, and what of them matches."""

import base64
import io
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dagf.analysis.cam import Plane, enlarge
from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec, load_image

SIDE = 320  # pixels of the longest side of a picture: sharp at phone width
DARK = 0.12  # of a picture's light where it adds nothing to a match

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
    share = (_enlarged(plane, pixels) - low) / (high - low or 1.0)
    heat = matplotlib.colormaps["magma"](share)[..., :3]
    return (0.4 * pixels + 0.6 * 255 * heat).round().astype(np.uint8)


def lit(pixels: Pixels, cells: Plane) -> Pixels:
    """Return a picture with its light left where the cells (h, w) add most to a match.

    The light goes with the root of a cell's share: under maxima few cells have nearly all of it.
    """
    share = _enlarged(cells.clip(0), pixels)
    light = np.sqrt(share / (float(share.max()) or 1.0))[..., None]
    return (pixels * (DARK + (1 - DARK) * light)).round().astype(np.uint8)


def _enlarged(plane: Plane, pixels: Pixels) -> Plane:
    return enlarge(torch.from_numpy(plane)[None, None], (pixels.shape[0], pixels.shape[1]))
