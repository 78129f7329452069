"""Facades and roofs: pictures of four channels, (height, width, 4) uint8.

Red, green, blue and glass: how much a pixel mirrors the sky, or is lit at night.
"""

import cv2
import numpy as np
from numpy.typing import ArrayLike

from dagf.toytown.buildings import Building, Colour, Points
from dagf.toytown.sprites import Floats, Image

BOX = np.array([(-0.5, 0), (0.5, 0), (0.5, 1), (-0.5, 1)])
_ARC = np.linspace(0, np.pi, 13)
SHAPES: dict[str, Points] = {
    "box": BOX,
    "arch": np.vstack([BOX[:2], np.column_stack([0.5 * np.cos(_ARC), 0.66 + 0.34 * np.sin(_ARC)])]),
    "point": np.array(
        [(-0.5, 0), (0.5, 0), (0.5, 0.5), (0.36, 0.76), (0, 1), (-0.36, 0.76), (-0.5, 0.5)]
    ),
    "disc": np.column_stack([0.5 * np.cos(2 * _ARC), 0.5 + 0.5 * np.sin(2 * _ARC)]),
    "triangle": np.array([(-0.5, 0), (0.5, 0), (0, 1)]),
}
WINDOW_SHAPES = {"arched": "arch", "pointed": "point", "round": "disc"}
FACES = ("front", "side", "tower", "drum", "gable", "roof", "dormers", "lid")
BLACK: Colour = (0.1, 0.1, 0.1)
DARK: Colour = (0.11, 0.10, 0.10)
GOLD: Colour = (0.80, 0.66, 0.30)


class Sheet:
    """A facade under the brush, in metres: the origin is the middle of its foot, y goes up."""

    def __init__(self, wall: Image, width: float, height: float) -> None:
        self.image = wall
        self.scale = np.array([wall.shape[1] / width, -wall.shape[0] / height])
        self.origin = np.array([wall.shape[1] / 2, wall.shape[0]]) - 0.5

    def fill(
        self,
        shape: str,
        x: ArrayLike,
        y: ArrayLike,
        width: float,
        height: float,
        colour: Colour,
        glass: float = 0.0,
        shade: float = 1.0,
    ) -> None:
        """Fill copies of `shape`, `width` x `height` metres, the middle of their feet at (x, y)."""
        at = np.empty((max(np.size(x), np.size(y)), 1, 2))
        at[:, 0, 0], at[:, 0, 1] = x, y
        fixed = SHAPES[shape] * (width, height) * self.scale
        pixels = np.rint((fixed + (at * self.scale + self.origin)) * 16).astype(np.int32)
        red, green, blue = (min(255.0, max(0.0, 255 * shade * part)) for part in colour)
        cv2.fillPoly(self.image, list(pixels), (red, green, blue, 255 * glass), cv2.LINE_AA, 4)


def wall_texture(
    b: Building, shape: tuple[int, int], metres: float, rng: np.random.Generator
) -> Image:
    """The bare wall: colour, the grain of its material, stains; `metres` high."""
    h, w = shape
    ppm = h / metres
    # Courses finer than two pixels would only be noise, so blocks are drawn somewhat too large.
    course, length, spread = {
        "brick": (0.35, 0.8, 0.10),
        "stone": (0.7, 1.3, 0.09),
        "bands": (0.9, 2.0, 0.05),
        "boards": (9.0, 0.4, 0.06),
        "concrete": (b.storey, b.bay, 0.05),
    }.get(b.material, (2.0, 2.0, 0.025))
    rows = max(2, round(h / max(2.0, course * ppm)))
    columns = max(2, round(w / max(2.0, length * ppm)))
    blocks = rng.normal(1, spread, (rows, columns)).astype(np.float32)
    if b.material == "bands":
        blocks[::2] *= np.float32(0.74)
    grain = np.asarray(cv2.resize(blocks, (w, h), interpolation=cv2.INTER_NEAREST), np.float32)
    stains = rng.normal(0, 0.045, (5, 6)).astype(np.float32)
    fine = np.float32(0.02) * rng.standard_normal((h, w), np.float32)
    grain = grain + cv2.resize(stains, (w, h), interpolation=cv2.INTER_CUBIC) + fine
    if b.material in ("stone", "concrete") and course * ppm > 3:
        grain[:: max(3, round(h / rows))] *= np.float32(0.84)
    return _coloured(grain, b.wall)


def _coloured(grain: Floats, colour: Colour) -> Image:
    """`grain` (height, width), a factor about 1, in that colour and without glass."""
    tone = np.asarray([[255 * part] for part in (*colour, 0.0)], np.float32)
    bright = np.asarray(cv2.transform(grain[..., None], tone), np.float32)
    return np.clip(bright, 0, 255).astype(np.uint8)


def _timber(sheet: Sheet, b: Building, bays: int, height: float) -> None:
    beam, width = (0.24, 0.17, 0.12), bays * b.bay
    xs = (np.arange(2 * bays + 1) / (2 * bays) - 0.5) * width
    sheet.fill("box", xs, 0, 0.28, height, beam)
    sheet.fill("box", 0, np.arange(b.floors + 1) * b.storey - 0.15, width, 0.34, beam)


def _windows(sheet: Sheet, b: Building, x: Points, y: Points, rng: np.random.Generator) -> None:
    """The windows whose feet are at (x, y): surround, reveal, glass, bars, sill."""
    w, h = b.window_width * b.bay, b.window_height * b.storey
    kind = b.window
    if kind == "french":
        y, h = y - 0.18 * b.storey, min(0.82 * b.storey, h + 0.2 * b.storey)
    if kind == "wide":
        w, h = min(0.86 * b.bay, 1.5 * w), 0.8 * h
    if kind == "round":
        w = h = min(w, h) * 1.05
    shape = WINDOW_SHAPES.get(kind, "box")
    # Bars are finer than a pixel; a full pixel of the trim would look like a lattice.
    red, green, blue = (0.5 * part + 0.1 for part in b.trim)
    bar: Colour = (red, green, blue)
    xs = [x - 0.27 * w, x + 0.27 * w] if kind == "paired" else [x]
    if kind == "paired":
        w = 0.46 * w
    for column in xs:
        sheet.fill(shape, column, y - 0.08, w + 0.3, h + 0.22, b.trim, shade=0.94)
        sheet.fill(shape, column, y, w + 0.1, h + 0.06, (0.10, 0.11, 0.13))
        lights = rng.uniform(0.35, 1.0, len(column))
        for level in (0.5, 0.75, 1.0):  # three sorts of panes: curtains, blinds, open
            some = (lights <= level) & (lights > level - 0.25) if level > 0.5 else lights <= 0.5
            if some.any():
                pane: Colour = (0.62 - 0.46 * level, 0.62 - 0.44 * level, 0.60 - 0.38 * level)
                sheet.fill(shape, column[some], y[some], w - 0.06, h - 0.06, pane, glass=level)
        if kind not in ("round", "paired"):
            sheet.fill("box", column, y, 0.1, h - 0.05, bar)
        if kind in ("sash", "hooded", "shutters", "wide"):
            sheet.fill("box", column, y + 0.5 * h, w, 0.1, bar)
        if kind != "french":
            sheet.fill("box", column, y - 0.22, w + 0.4, 0.16, b.trim, shade=1.04)
    if kind == "shutters":
        for sign in (-1, 1):
            sheet.fill("box", x + sign * (0.5 * w + 0.3), y, 0.5, h, b.accent)
    if kind == "french":
        sheet.fill("box", x, y - 0.1, w + 0.8, 0.36 * h, b.accent, shade=0.5)
        sheet.fill("box", x, y - 0.12, w + 0.9, 0.14, b.trim)
    if kind == "hooded":
        sheet.fill("triangle", x, y + h + 0.22, w + 0.8, 0.55, b.trim, shade=1.05)


def _door(sheet: Sheet, b: Building, bays: int) -> None:
    """The front's ground floor: the door in the middle bay and what goes with it."""
    storey, wide = b.storey, bays * b.bay
    middle = 0.0 if bays % 2 else -0.5 * b.bay
    every = (np.arange(bays) + 0.5) * b.bay - wide / 2
    if b.door == "arcade":
        sheet.fill("box", 0, 0, wide, 0.97 * storey, b.trim, shade=0.86)
        sheet.fill("arch", every, 0, 0.76 * b.bay, 0.84 * storey, DARK)
    elif b.door == "shop":
        sheet.fill("box", 0, 0, wide, 0.98 * storey, b.accent, shade=0.8)
        sheet.fill("box", every, 0.3, 0.84 * b.bay, 0.6 * storey, (0.2, 0.22, 0.24), glass=0.95)
        sheet.fill("box", 0, 0.78 * storey, 0.9 * wide, 0.16 * storey, b.trim, shade=0.95)
        sheet.fill("box", middle, 0, 0.9, 0.66 * storey, DARK)
    elif b.door == "portico":
        span = min(wide, 2.6 * b.bay)
        sheet.fill("box", middle, 0, span, storey, b.wall, shade=0.42)
        sheet.fill("box", middle, 0, 0.5 * b.bay, 0.7 * storey, b.accent, shade=0.7)
        xs = middle + (np.arange(4) / 3 - 0.5) * 0.9 * span
        sheet.fill("box", xs, 0, 0.45, storey, b.trim)
        top = 0.96 * storey
        sheet.fill("box", middle, top, 1.1 * span, 0.35, b.trim)
        sheet.fill("triangle", middle, top + 0.35, 1.14 * span, 0.2 * span, b.trim, shade=0.92)
    else:
        high = {"gate": 1.25, "glazed": 0.86}.get(b.door, 0.78) * storey
        span = {"gate": 1.15, "glazed": 1.5, "arched": 0.6}.get(b.door, 0.46) * b.bay
        shape = "arch" if b.door in ("arched", "gate") else "box"
        sheet.fill(shape, middle, 0, span + 0.8, high + 0.4, b.trim)
        sheet.fill(shape, middle, 0, span, high, DARK)
        leaf, glass = ((0.3, 0.33, 0.36), 0.9) if b.door == "glazed" else (b.accent, 0.0)
        sheet.fill(shape, middle, 0, span - 0.25, high - 0.15, leaf, glass=glass)
        sheet.fill("box", middle, 0, 0.1, high - 0.2, DARK)
    sheet.fill("box", middle, 0, 1.2 * b.bay, 0.22, b.trim, shade=0.8)


def _ornament(sheet: Sheet, b: Building, bays: int, rng: np.random.Generator) -> None:
    wide, high, storey = bays * b.bay, b.height, b.storey
    top = high - storey
    if b.ornament in ("rose", "clock"):
        size = min(0.3 * wide, 1.25 * storey, 0.45 * high)
        y = max(storey, high - size - 0.5)
        sheet.fill("disc", 0, y, size + 0.7, size + 0.7, b.trim)
        if b.ornament == "clock":
            sheet.fill("disc", 0, y, size, size, (0.92, 0.90, 0.84))
            sheet.fill("box", 0, y + size / 2, 0.22, 0.42 * size, BLACK)
            sheet.fill("box", 0.15 * size, y + size / 2 - 0.1, 0.34 * size, 0.22, BLACK)
        else:
            glazed: Colour = (0.16, 0.18, 0.30)
            sheet.fill("disc", 0, y + 0.05 * size, 0.9 * size, 0.9 * size, glazed, glass=0.6)
            turn = np.arange(8) * np.pi / 4
            x, up = 0.3 * size * np.stack([np.cos(turn), np.sin(turn)])
            sheet.fill("disc", x, up + y + 0.4 * size, 0.15 * size, 0.2 * size, b.accent)
            sheet.fill("disc", 0, y + 0.4 * size, 0.2 * size, 0.2 * size, GOLD)
    elif b.ornament == "pediment":
        span = 0.62 * wide
        sheet.fill("box", 0, top + 0.1, span, 0.3, b.trim)
        sheet.fill("triangle", 0, top + 0.4, span, storey - 0.5, b.trim, shade=1.05)
        sheet.fill("triangle", 0, top + 0.7, 0.74 * span, 0.74 * storey - 0.6, b.wall, shade=0.72)
    elif b.ornament == "columns":
        xs = np.arange(bays + 1) * b.bay - wide / 2
        tall = high - 1.2 * storey
        sheet.fill("box", xs, 0.9 * storey, 0.55, tall, b.trim, shade=0.7)
        sheet.fill("box", xs - 0.06, 0.9 * storey, 0.36, tall, b.trim)
        sheet.fill("box", 0, high - 0.36 * storey, wide, 0.36 * storey, b.trim, shade=0.96)
    elif b.ornament == "mural":
        low, span = 1.05 * storey, min(0.5 * wide, 2.2 * b.bay)
        sheet.fill("box", 0, low, span, max(storey, 0.8 * (high - low)), b.accent, shade=1.4)
        for _ in range(5):
            red, green, blue = 0.35 * rng.uniform(0.1, 0.9, 3) + 0.65 * rng.uniform(0.2, 0.8)
            colour: Colour = (float(red), float(green), float(blue))
            x, y = rng.uniform(-0.3, 0.3) * span, low + rng.uniform(0, 0.45) * (high - low)
            sheet.fill("disc", x, y, rng.uniform(0.2, 0.5) * span, 0.35 * (high - low), colour)
    elif b.ornament == "banner":
        xs, y = np.array([-0.28, 0.28]) * wide, high - 2.1 * storey
        sheet.fill("box", xs, y, 0.5 * b.bay, 1.9 * storey, b.accent, shade=1.3)
        sheet.fill("disc", xs, high - 1.3 * storey, 0.3 * b.bay, 0.3 * b.bay, GOLD)
    elif b.ornament == "frieze":
        sheet.fill("box", 0, top - 0.3, wide, 0.62, b.accent, shade=1.15)
        xs = (np.arange(3 * bays) + 0.5) * b.bay / 3 - wide / 2
        sheet.fill("disc", xs, top - 0.25, 0.5, 0.5, GOLD)
    elif b.ornament == "sign":
        sheet.fill("box", 0, top - 0.35, 0.6 * wide, 0.9, b.accent, shade=0.7)
        xs = np.linspace(-0.25, 0.25, 7) * wide
        sheet.fill("box", xs, top - 0.15, 0.05 * wide, 0.5, (0.93, 0.91, 0.82))


def facade(b: Building, name: str, pixels_per_metre: float) -> Image:
    """One face's picture, with at least 8 pixels a side; `name` as in `Face.texture`."""
    rng = np.random.default_rng([b.grain, FACES.index(name)])
    if name in ("roof", "dormers", "lid"):
        return _roof_texture(b, name, pixels_per_metre, rng)
    bays = {"front": b.bays, "side": b.side_bays, "tower": 1}.get(name, 3)
    high = {"tower": b.height * (1 + b.tower_height), "drum": 3.0, "gable": 4.0}.get(name, b.height)
    wide = {"tower": 0.2 * b.width + 1}.get(name, bays * b.bay)
    ppm = min(pixels_per_metre, 512 / max(wide, high))
    size = max(8, round(high * ppm)), max(8, round(wide * ppm))
    sheet = Sheet(wall_texture(b, size, high, rng), wide, high)
    if b.material == "timber" and name in ("front", "side"):
        _timber(sheet, b, bays, high)
    if b.courses and name in ("front", "side", "tower"):
        sheet.fill("box", 0, np.arange(1, b.floors) * b.storey - 0.1, wide, 0.3, b.trim)
    if name in ("front", "side"):
        first = 1 if b.door in ("arcade", "shop") and name == "front" else 0
        grid = np.meshgrid(np.arange(bays), np.arange(first, b.floors))
        x, y = (part.ravel().astype(float) for part in grid)
        _windows(sheet, b, (x + 0.5) * b.bay - wide / 2, (y + 0.26) * b.storey, rng)
    elif name == "tower":
        ys = np.arange(1.0, high / b.storey - 0.6) * b.storey
        _windows(sheet, b, np.zeros_like(ys), ys, rng)
    elif name == "drum":
        xs = np.linspace(-0.36, 0.36, 5) * wide
        sheet.fill("arch", xs, 0.5, 0.1 * wide, 1.9, (0.14, 0.15, 0.18), glass=0.8)
    else:
        sheet.fill("disc", 0, 0.7, 0.16 * wide, 1.1, (0.14, 0.15, 0.18), glass=0.7)
    if name == "front":
        _ornament(sheet, b, bays, rng)
        _door(sheet, b, bays)
    if b.quoins and name in ("front", "side", "tower"):
        ys = np.arange(0, high - 0.5, 1.4)
        for sign in (-1, 1):
            sheet.fill("box", sign * (wide / 2 - 0.4), ys, 0.9, 0.8, b.trim)
    if name != "gable":  # the cornice, and the shadow below it
        sheet.fill("box", 0, high - 0.75, wide, 0.3, b.wall, shade=0.6)
        sheet.fill("box", 0, high - 0.45, wide, 0.45, b.trim, shade=1.05)
    return _occlusion(sheet.image, high, grounded=name in ("front", "side", "tower"))


def _occlusion(image: Image, metres: float, grounded: bool) -> Image:
    """The wall, darker towards the ground, where less sky is seen, and a little at the eaves."""
    up = np.linspace(metres, 0, image.shape[0], dtype=np.float32)
    light = 0.94 + 0.06 * (1 - np.exp((up - metres) / 2))
    if grounded:
        light = light * (1 - 0.34 * np.exp(-up / 1.3))
    factor = np.ones((len(up), 1, 4), np.float32)
    factor[:, 0, :3] = light[:, None]
    return np.asarray(image * factor, np.uint8)


def _roof_texture(b: Building, name: str, ppm: float, rng: np.random.Generator) -> Image:
    h, w = (max(8, round(side * ppm)) for side in (8.0, 12.0))
    rows = max(3, min(h // 2, 14))
    tiles = rng.normal(1, 0.07, (rows, max(4, w // 3))).astype(np.float32)
    grain = np.asarray(cv2.resize(tiles, (w, h), interpolation=cv2.INTER_NEAREST), np.float32)
    grain[:: max(2, h // rows)] *= np.float32(0.86)
    image = _coloured(grain, (0.42, 0.41, 0.40) if name == "lid" else b.roof_colour)
    if name == "dormers":
        sheet = Sheet(image, float(b.bays), 1.0)
        xs = np.arange(b.bays) + 0.5 - b.bays / 2
        sheet.fill("box", xs, 0.12, 0.52, 0.62, b.trim)
        sheet.fill("box", xs, 0.16, 0.34, 0.46, (0.15, 0.16, 0.19), glass=0.8)
    return image
