"""Sky, skyline and ground of a Toytown photograph; and the camera's own flaws."""

from bisect import bisect
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np

from dagf.toytown.buildings import Points
from dagf.toytown.paint import Canvas
from dagf.toytown.sprites import Floats, Image, clouds, grain, grounds


def backdrop(canvas: Canvas, rng: np.random.Generator) -> Iterator[None]:
    """Fill the canvas with a sky with clouds, two rows of a skyline, and the ground, in stages."""
    view = canvas.view
    aside = np.array([(-0.2,), (0.2,)]) * view.right
    (ax, ay), (bx, by) = view.project(view.position + 1e5 * (view.forward + aside))[0].tolist()
    slope = (by - ay) / (bx - ax)
    x, y = _grid(canvas.size)
    # Pixels below the horizon.
    below = y - np.float32(ay) - np.float32(slope) * (x - np.float32(ax))
    yield
    canvas.image = _sky(canvas, below, rng)
    yield
    _skyline(canvas, ay - slope * ax, slope, rng)
    yield
    _ground(canvas, below, rng)
    yield


def _sky(canvas: Canvas, below: Floats, rng: np.random.Generator) -> Image:
    size, light = canvas.size, canvas.light
    # A sky is smooth: a ninth of the pixels do.
    rise = np.clip(below[1::3, 1::3] * np.float32(-1 / (0.9 * size)), 0, 1)
    field = clouds()[int(rng.integers(len(clouds())))]
    cx, cy = int(rng.integers(96)), int(rng.integers(40))
    window = field[cy : cy + 56, cx : cx + 96]
    field = np.asarray(cv2.resize(window, rise.shape[::-1]), np.float32)
    veil = np.float32(0.55) * field + np.float32(1.6 * light.clouds - 0.6)
    veil = np.clip(veil, 0, 1) * np.float32(0.85)
    veil *= np.clip(rise * 4, 0.3, 1)
    lit = np.minimum(light.ambient + 0.55 * light.sun_colour, 1.0)
    colours = 255 * np.array([light.sky_low, light.sky_top, lit])
    low, top, bright = colours.astype(np.float32)[:, :, None, None]  # planes are quicker
    sky = low + (top - low) * np.power(rise, np.float32(0.7))
    white = bright * (np.float32(0.93) + np.float32(0.05) * field)
    sky += (white - sky) * veil
    small = cv2.merge(sky.clip(0, 255).astype(np.uint8))
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _skyline(canvas: Canvas, start: float, slope: float, rng: np.random.Generator) -> None:
    """Far hills, and nearer woods or roofs, along the horizon v = start + slope u."""
    size, light = canvas.size, canvas.light
    lit = light.ambient + 0.4 * light.sun_colour
    layers = ((10, 0.045, 0.014, 0.66), (24, 0.025, 0.010, 0.36))
    tones = np.array([(0.30, 0.36, 0.38), (0.34, 0.35, 0.33)]) * lit
    for layer, (count, rise, spread, pale) in enumerate(layers):  # pale with distance
        knots = rise + spread * rng.normal(0, 1, count)
        us = np.arange(count) * (size / (count - 1))
        if layer and rng.random() < 0.6:  # roofs: steps instead of slopes
            knots, us = np.repeat(knots, 2)[:-1], np.repeat(us, 2)[1:]
        line = np.empty((len(us) + 2, 2))
        line[:-2, 0], line[:-2, 1] = us, start + slope * us - size * np.maximum(knots, 0)
        line[-2:] = (size, start + slope * size + 2), (0, start + 2)
        pixels = np.rint((line - 0.5) * 16).astype(np.int32)
        colour = 255 * (tones[layer] + (light.sky_low - tones[layer]) * pale)
        colour = np.clip(colour, 0, 255).tolist()
        cv2.fillPoly(canvas.image, [pixels], colour, cv2.LINE_AA, 4)


def _ground(canvas: Canvas, below: Floats, rng: np.random.Generator) -> None:
    size, light, view = canvas.size, canvas.light, canvas.view
    picture, mean = grounds()[int(rng.integers(len(grounds())))]
    shift, turn = rng.uniform(-6, 6, 2), rng.integers(2)
    ends = below[:, [0, -1]]  # the horizon is straight: its highest and lowest pixel are there
    first = size - int(np.count_nonzero(ends.max(1) > -1))
    if first == size:
        return
    below, edge = below[first:], ends[first:].min(1)
    plane = view.matrix.copy()
    plane[:, 1], plane[:, 2] = view.matrix[:, 2], -view.matrix @ view.position
    plane[:2] -= ((0.5,), (0.5 + first,)) * plane[2]
    to_world = np.array([[0.5, 0, -64 + shift[0]], [0, 0.5, -64 + shift[1]], [0, 0, 1]])
    if turn:
        to_world = to_world[[1, 0, 2]]
    extent = (size, size - first)
    warped = cv2.warpPerspective(picture, plane @ to_world, extent, borderMode=cv2.BORDER_WRAP)
    shade = 0.92 * (light.ambient + max(light.sun[1], 0.0) * light.sun_colour)
    lit = cv2.transform(warped, (np.eye(3) * shade).astype(np.float32))
    # Pixels far away hold many metres of ground: their mean, not a random one of them.
    reach = np.float32(view.focal * view.position[1])
    far = max(1, int(np.count_nonzero(edge**2 < 2 * reach)))  # rows; nearer ones are not blurred
    blur = (reach / 2 / np.maximum(below[:far], 0.5) ** 2 - np.float32(0.3)).clip(0, 1)
    plain = _flat(mean * shade, (size, far))
    cv2.blendLinear(lit[:far], plain, 1 - blur, blur, lit[:far])
    clear = np.exp(np.float32(-0.5 * light.haze) * reach / np.maximum(below, 0.3))
    ground = cv2.blendLinear(lit, _flat(255 * light.sky_low, extent), clear, 1 - clear)
    soft = max(1, int(np.count_nonzero(edge < 0.5)))  # rows that the horizon passes
    cover = (below[:soft] + np.float32(0.5)).clip(0, 1)
    cv2.blendLinear(ground[:soft], canvas.image[first:][:soft], cover, 1 - cover, ground[:soft])
    canvas.image[first:] = ground


def _flat(colour: Points, extent: tuple[int, int]) -> Image:
    width, height = extent
    row = np.tile(np.clip(colour, 0, 255).astype(np.uint8), width)
    return np.broadcast_to(row, (height, 3 * width)).copy().reshape(height, width, 3)


def develop(image: Image, rng: np.random.Generator) -> Image:
    """What a camera makes of the scene: exposure, colour cast, vignetting, blur and grain."""
    size = len(image)
    sigma = (0.3, 0.42, 0.6, 0.9)[bisect((0.45, 0.8, 0.95), rng.random())] * size / 96
    gain = rng.uniform(0.92, 1.12) * (1 + rng.normal(0, 0.015, 3)).clip(0.95, 1.05)
    contrast, lift = rng.uniform(0.92, 1.1), rng.normal(0, 3)
    tone = np.zeros((3, 4), np.float32)
    tone.ravel()[::5], tone[:, 3] = gain * contrast, 118 * (1 - contrast) + lift
    corners = np.float32(rng.uniform(0, 0.3)) * _vignette(size)
    noise = grain()
    y, x = (int(rng.integers(max(1, len(noise) - size))) for _ in range(2))
    noise = noise[y : y + size, x : x + size] * np.float32(rng.uniform(1, 4))
    if len(noise) < size:
        noise = np.asarray(cv2.resize(noise, (size, size)), np.float32)
    picture = cv2.GaussianBlur(image, (0, 0), sigma)
    picture = cv2.transform(picture, tone)
    picture = cv2.blendLinear(picture, np.zeros_like(image), 1 - corners, corners)
    return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(0.5)
    return x, y


@lru_cache(maxsize=4)
def _vignette(size: int) -> Floats:
    x, y = _grid(size)
    away = ((x / size - 0.5) ** 2 + (y / size - 0.5) ** 2) * 2
    return np.asarray(away**1.5, np.float32)
