"""The small things of a Toytown: trees, cars, people, lamps; and its skies, grounds and film grain.

All of them are drawn once a process from fixed seeds, and are then only resized.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pyramid = tuple[Image, ...]

SEED = 7  # of the sprites: they are the same in every Toytown
DETAIL = 3  # pixels a unit in which cars, people and lamps are drawn
TREES, CARS, PEOPLE, LAMPS, GROUNDS, CLOUDS = 14, 10, 16, 3, 8, 8
_GROUND = {
    "asphalt": (0.30, 0.30, 0.31),
    "paving": (0.56, 0.53, 0.49),
    "grass": (0.30, 0.36, 0.17),
    "gravel": (0.60, 0.54, 0.44),
    "cobbles": (0.42, 0.40, 0.38),
}


def fractal(
    rng: np.random.Generator, shape: tuple[int, int], octaves: int, first: int = 2
) -> Floats:
    """Smooth noise (height, width) of mean 0 and deviation about 1, from `first` cells a side."""
    out = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cells = first * 2**octave
        coarse = rng.normal(0, 0.62**octave, (cells, cells)).astype(np.float32)
        out += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return out


def _tree(rng: np.random.Generator, kind: int) -> Image:
    """One tree, 128 x 96 x 4."""
    h, w = 128, 96
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    x, y = (x - w / 2) / (w / 2), 1 - y / h
    if kind % 3 == 0:  # a conifer
        inside = (0.92 - np.abs(x) * 1.1) - y + 0.1 * np.sin(y * 40)
        inside = np.minimum(inside, (y - 0.12) * 4)
    else:
        middle, radius = (0.6, (0.92, 0.37)) if kind % 3 == 1 else (0.56, (0.62, 0.42))
        inside = 1 - (x / radius[0]) ** 2 - ((y - middle) / radius[1]) ** 2
    leaves = fractal(rng, (h, w), 5, 4)
    cover = np.clip((inside + (0.33 if kind % 3 else 0.12) * leaves) * 5, 0, 1)
    autumn = rng.random() < 0.25
    base = np.array([0.50, 0.36, 0.14] if autumn else [0.22, 0.33, 0.13]) * rng.uniform(0.75, 1.2)
    light = np.clip(0.75 + 0.5 * (y - 0.5) - 0.22 * x + 0.28 * leaves, 0.3, 1.7)
    trunk = (np.abs(x) < 0.06 + 0.03 * (y < 0.05)) & (y < 0.55)
    out = np.zeros((h, w, 4), np.float32)
    bare = (trunk & (cover < 0.5))[..., None]
    out[..., :3] = 255 * np.where(bare, (0.25, 0.2, 0.15), light[..., None] * base)
    out[..., 3] = 255 * np.maximum(cover, trunk)
    return np.clip(out, 0, 255).astype(np.uint8)


def _fill(image: Image, points: Sequence[tuple[float, float]], colour: ArrayLike) -> None:
    pixels = np.rint(np.array(points) * DETAIL * 16).astype(np.int32)
    red, green, blue = np.clip(255 * np.asarray(colour), 0, 255).tolist()
    cv2.fillPoly(image, [pixels], (red, green, blue, 255.0), cv2.LINE_AA, 4)


def _sheet(height: int, width: int) -> Image:
    return np.zeros((height * DETAIL, width * DETAIL, 4), np.uint8)


def _disc(image: Image, middle: tuple[float, float], radius: float, colour: ArrayLike) -> None:
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = np.column_stack([np.cos(turn), np.sin(turn)]) * radius + middle
    _fill(image, points.tolist(), colour)


def _car(rng: np.random.Generator) -> Image:
    """One car (or van) from the side, 28 x 64 units x 4."""
    image = _sheet(28, 64)
    greys, reds = [(0.75,) * 3, (0.1,) * 3, (0.4,) * 3], [(0.5, 0.1, 0.1)]
    paint = np.array([*greys, *reds, (0.12, 0.2, 0.42), (0.7, 0.68, 0.6)])
    body, van = paint[rng.integers(len(paint))] * rng.uniform(0.85, 1.15), rng.random() < 0.3
    roof = 2 if van else 6
    outline = [(2, 23), (2, 13), (12, 12), (20, roof), (46 + 12 * van, roof), (60, 13), (62, 23)]
    _fill(image, outline, body)
    front, back = (15, 12), (34, 12)
    _fill(image, [front, (21, roof + 2), (32, roof + 2), (32, 12)], (0.16, 0.19, 0.22))
    _fill(image, [back, (34, roof + 2), (45 + 6 * van, roof + 2), (54, 12)], (0.2, 0.23, 0.26))
    _fill(image, [(2, 20), (62, 20), (62, 24), (2, 24)], body * 0.55)
    for x in (15, 50):
        _disc(image, (x, 23), 4.6, (0.09, 0.09, 0.1))
        _disc(image, (x, 23), 2.2, (0.46, 0.46, 0.47))
    return image


def _person(rng: np.random.Generator) -> Image:
    """One pedestrian, 48 x 20 units x 4."""
    image = _sheet(48, 20)
    coat = rng.uniform(0.08, 0.75) + rng.normal(0, 0.12, 3)
    legs = rng.uniform(0.08, 0.35) + rng.normal(0, 0.03, 3)
    step = float(rng.uniform(0, 3))
    skin = np.array([0.72, 0.52, 0.42]) * rng.uniform(0.5, 1.1)
    right, left = [(13 + step, 47), (10.5 + step, 47)], [(8.5 - step, 47), (6 - step, 47)]
    _fill(image, [(7, 26), (13, 26), *right, (10, 32), *left], legs)
    _fill(image, [(5, 12), (8, 9), (12, 9), (15, 12), (14.5, 27), (5.5, 27)], coat)
    _disc(image, (10, 6), 3, skin)
    _fill(image, [(7, 5), (8, 2), (12, 2), (13, 5)], (0.2, 0.15, 0.1))
    return image


def _lamp(kind: int) -> Image:
    """One lamp post or sign, 96 x 16 units x 4."""
    image, iron = _sheet(96, 16), (0.16, 0.17, 0.17)
    _fill(image, [(7, 8), (9, 8), (9.3, 95), (6.7, 95)], iron)
    if kind == 0:
        _fill(image, [(5, 3), (11, 3), (10, 12), (6, 12)], (0.85, 0.82, 0.7))
    elif kind == 1:
        _fill(image, [(7, 8), (0, 4), (0, 7), (9, 11)], iron)
    else:
        _fill(image, [(1, 10), (15, 10), (15, 30), (1, 30)], (0.15, 0.3, 0.6))
        _fill(image, [(3, 13), (13, 13), (13, 16), (3, 16)], (0.9, 0.9, 0.9))
    return image


def pyramid(image: Image) -> Pyramid:
    """The image and its halvings down to 4 pixels: what keeps small copies from shimmering."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 8:
        h, w = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return tuple(levels)


@lru_cache(maxsize=1)
def sprites() -> dict[str, list[Pyramid]]:
    """Kind -> its sprites, each a pyramid of (height, width, 4): colour and coverage."""
    rng = np.random.default_rng([SEED, 1])
    return {
        "tree": [pyramid(_tree(rng, k)) for k in range(TREES)],
        "car": [pyramid(_car(rng)) for _ in range(CARS)],
        "person": [pyramid(_person(rng)) for _ in range(PEOPLE)],
        "lamp": [pyramid(_lamp(k)) for k in range(LAMPS)],
    }


@lru_cache(maxsize=1)
def clouds() -> tuple[Floats, ...]:
    """Cloud maps of mean 0, each 96 x 192."""
    rng = np.random.default_rng([SEED, 2])
    return tuple(fractal(rng, (96, 192), 5, 2) for _ in range(CLOUDS))


@lru_cache(maxsize=1)
def grounds() -> tuple[tuple[Image, NDArray[np.float64]], ...]:
    """Ground pictures, 256 x 256 x 3, half a metre a pixel, around the building; their means."""
    rng = np.random.default_rng([SEED, 3])
    pictures = [_ground(rng, k) for k in range(GROUNDS)]
    return tuple((one, one[::16, ::16].reshape(-1, 3).mean(0)) for one in pictures)


def _ground(rng: np.random.Generator, kind: int) -> Image:
    name = ("paving", "grass", "gravel", "cobbles")[kind % 4]
    patches = fractal(rng, (256, 256), 5, 4) * 0.06 + rng.normal(0, 0.05, (256, 256))
    if name in ("paving", "cobbles"):
        step = 4 if name == "paving" else 2
        cells = rng.normal(0, 0.08, (256 // step, 256 // step))
        patches = patches + np.kron(cells, np.ones((step, step)))
        patches[::step] -= 0.07
        patches[:, ::step] -= 0.07
    out = np.asarray(_GROUND[name]) * (1 + patches[..., None])
    if kind % 2 or kind > 3:
        # A street along the front, with kerbs and a broken line; perhaps another across.
        road = np.asarray(_GROUND["asphalt"]) * (1 + 0.6 * patches[..., None])
        low = 128 + int(rng.integers(34, 52))
        for turned in range(1 + int(kind > 5)):
            view = out.transpose(1, 0, 2) if turned else out
            view[low : low + 18] = road[low : low + 18]
            view[low - 2 : low] = view[low + 18 : low + 20] = (0.62, 0.61, 0.59)
            for start in range(0, 256, 16):
                view[low + 8 : low + 9, start : start + 7] = (0.78, 0.77, 0.74)
    image = np.clip(255 * out, 0, 255).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 0.6), np.uint8)


@lru_cache(maxsize=1)
def grain() -> Floats:
    """Film grain of deviation 1, 384 x 384 x 3, of which each photograph takes a piece."""
    return np.random.default_rng([SEED, 4]).standard_normal((384, 384, 3), np.float32)


@lru_cache(maxsize=8)
def dome_sprite(size: int) -> Floats:
    """A hemisphere, (size, 2 size, 4): normals x, y, z in -1..1 and coverage 0..1."""
    y, x = np.mgrid[0:size, 0 : 2 * size].astype(np.float32) + 0.5
    x, y = x / size - 1, 1 - y / size
    r2 = x * x + y * y
    z = np.sqrt(np.clip(1 - r2, 0, 1))
    cover = np.clip((1 - np.sqrt(r2)) * size + 0.5, 0, 1)
    return np.stack([x, y, z, cover], axis=-1).astype(np.float32)
