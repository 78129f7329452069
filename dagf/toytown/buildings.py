"""A Toytown building: its style, drawn from a generator, and the flat faces of its body in metres.

A building stands at the origin: x runs along its front, y up, z out of the front. Every face is a
planar polygon inside a rectangle that a texture fills, so that one homography a face renders it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # red, green, blue in 0..1, as seen in white light
Points = NDArray[np.float64]


def _palette(text: str) -> tuple[Colour, ...]:
    """Colours from their red, green and blue in per cent."""
    parts = [[int(part) / 100 for part in colour.split()] for colour in text.split(",")]
    return tuple((red, green, blue) for red, green, blue in parts)


WALLS = {
    "brick": _palette("62 26 18, 44 22 18, 74 46 26, 80 66 40, 34 22 24"),
    # Painted as in an old harbour town: at 96 pixels, colour is most of what tells buildings apart.
    "plaster": _palette(
        "88 86 80, 90 74 36, 86 50 38, 52 70 84, 56 74 50, 80 36 28,"
        "92 66 64, 36 52 66, 74 60 80, 44 60 54, 94 84 56, 62 44 34"
    ),
    "stone": _palette("80 70 48, 58 58 58, 78 56 46, 40 42 46, 86 84 78"),
    "bands": _palette("80 70 50, 74 46 38, 82 82 80, 52 60 56"),
    "timber": _palette("90 84 68, 86 70 40, 78 52 42"),
    "boards": _palette("62 18 14, 88 88 86, 30 44 60, 46 32 20, 34 52 34"),
    "concrete": _palette("62 61 59, 46 46 47, 76 72 64"),
}
TRIMS = _palette("94 92 88, 80 72 56, 28 27 28, 52 30 22, 30 42 40, 66 64 62")
ROOFS = _palette("64 26 16, 32 34 40, 42 28 20, 30 58 48, 80 44 22, 20 20 24, 26 40 56")
ACCENTS = _palette("12 40 24, 14 28 58, 68 12 12, 36 22 12, 88 66 16, 14 14 17, 70 72 74")
WINDOWS = ("sash", "arched", "pointed", "paired", "shutters", "french", "wide", "round", "hooded")
DOORS = ("plain", "arched", "gate", "portico", "arcade", "shop", "glazed")
ROOF_KINDS = ("flat", "gable", "front gable", "hip", "mansard", "dome")
TOWERS = ("none", "corner", "centre", "pair")
TOWER_TOPS = ("spire", "cap", "dome", "flat")
ORNAMENTS = ("none", "rose", "clock", "pediment", "columns", "mural", "banner", "frieze", "sign")
# Odds of each choice, in their order; equal ones where none stand.
_LANDMARK: dict[str, tuple[float, ...]] = {
    "material": (3, 4, 5, 2, 2, 1.5, 1.5),
    "window": (2, 3, 2, 2, 2, 2, 1.5, 1, 2),
    "roof": (2.5, 2, 2, 2, 2, 2),
    "tower": (5, 2.5, 2, 1.5),
    "quoins": (0.35,),
}
_ORDINARY: dict[str, tuple[float, ...]] = {
    "material": (5, 6, 4, 1, 1, 2, 3),
    "window": (5, 2, 0.3, 2, 3, 2, 3, 0.3, 1),
    "door": (5, 2, 1, 0.5, 0.5, 4, 2),
    "roof": (5, 5, 2, 3, 2, 0.2),
    "tower": (24, 1, 0.5, 0.3),
    "ornament": (20, 0.3, 0.5, 1, 1, 1, 1, 1, 4),
    "quoins": (0.1,),
}


@dataclass(frozen=True)
class Building:
    """The style of one building; lengths in metres. Equal values give equal pixels."""

    material: str
    wall: Colour
    trim: Colour
    roof_colour: Colour
    accent: Colour
    floors: int
    bays: int
    side_bays: int
    bay: float
    storey: float
    window: str
    window_width: float  # as a fraction of the bay
    window_height: float  # as a fraction of the storey
    door: str
    roof: str
    roof_pitch: float  # height of the roof as a fraction of the building's smaller side
    tower: str
    tower_top: str
    tower_height: float  # as a fraction of the body's height, above the body
    ornament: str
    courses: bool
    quoins: bool
    grain: int  # seed of the wall's texture

    @property
    def width(self) -> float:
        """Length of the front."""
        return self.bays * self.bay

    @property
    def depth(self) -> float:
        """Length of the sides."""
        return self.side_bays * self.bay

    @property
    def height(self) -> float:
        """Height of the walls, without roof and towers."""
        return self.floors * self.storey

    @property
    def radius(self) -> float:
        """Half the diagonal of the ground plan."""
        return math.hypot(self.width, self.depth) / 2

    @property
    def foot(self) -> Points:
        """The corners of the ground plan, (4, 3)."""
        xs, zs = (-self.width / 2, self.width / 2), (-self.depth / 2, self.depth / 2)
        return np.array([(x, 0.0, z) for x in xs for z in zs])


def _pick(
    rng: np.random.Generator, choices: Sequence[str], weights: Sequence[float] | None = None
) -> str:
    p = None if weights is None else np.asarray(weights) / np.sum(weights)
    return str(choices[int(rng.choice(len(choices), p=p))])


def _tint(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    base = np.asarray(colours[int(rng.integers(len(colours)))])
    r, g, b = np.clip(base * rng.uniform(0.85, 1.08) + rng.normal(0, 0.03, 3), 0.06, 0.95)
    return float(r), float(g), float(b)


def sample_building(rng: np.random.Generator, ordinary: bool = False) -> Building:
    """A building drawn from `rng`.

    An `ordinary` one, as clutter is, comes from the same choices with other odds: fewer towers,
    domes and ornaments, as in a real town. Every value that it can take a landmark can take, too.
    """
    odds = _ORDINARY if ordinary else _LANDMARK
    material = _pick(rng, tuple(WALLS), odds["material"])
    floors = int(rng.integers(2, 7))
    return Building(
        material=material,
        wall=_tint(rng, WALLS[material]),
        trim=_tint(rng, TRIMS),
        roof_colour=_tint(rng, ROOFS),
        accent=_tint(rng, ACCENTS),
        floors=floors,
        bays=int(rng.integers(3, 9)),
        side_bays=int(rng.integers(2, 6)),
        bay=float(rng.uniform(2.3, 3.7)),
        storey=float(rng.uniform(2.9, 4.4)),
        window=_pick(rng, WINDOWS, odds["window"]),
        window_width=float(rng.uniform(0.34, 0.62)),
        window_height=float(rng.uniform(0.42, 0.64)),
        door=_pick(rng, DOORS, odds.get("door")),
        roof=_pick(rng, ROOF_KINDS, odds["roof"]),
        roof_pitch=float(rng.uniform(0.25, 0.6)),
        tower=_pick(rng, TOWERS, odds["tower"]),
        tower_top=_pick(rng, TOWER_TOPS),
        tower_height=float(rng.uniform(0.3, 0.9)),
        ornament=_pick(rng, ORNAMENTS, odds.get("ornament")),
        courses=bool(rng.random() < 0.5),
        quoins=bool(rng.random() < odds["quoins"][0]),
        grain=int(rng.integers(2**31)),
    )


def make_twin(building: Building, rng: np.random.Generator) -> Building:
    """A near-twin: the same body, materials and roof, but another door, ornament and window."""
    return replace(
        building,
        door=_other(rng, DOORS, building.door),
        ornament=_other(rng, ORNAMENTS, building.ornament),
        window=_other(rng, WINDOWS, building.window),
        courses=not building.courses,
        grain=int(rng.integers(2**31)),
    )


def _other(rng: np.random.Generator, choices: Sequence[str], present: str) -> str:
    return _pick(rng, [choice for choice in choices if choice != present])


@dataclass(frozen=True, eq=False)
class Face:
    """A planar polygon of a building.

    `texture` names the picture that fills the rectangle `rect` (4 x 3: upper left, upper right,
    lower right, lower left as seen from outside); only `polygon` (k x 3) of it is there. Metres.
    """

    texture: str
    rect: Points
    polygon: Points
    normal: Points


@dataclass(frozen=True)
class Part:
    """A convex piece of a building: its faces, or a dome (`radius` > 0) that stands on `centre`."""

    centre: Points
    faces: tuple[Face, ...] = ()
    radius: float = 0.0


def _face(texture: str, rect: Points, polygon: Points | None = None) -> Face:
    (a, b, c), (d, e, f) = (rect[3] - rect[0]).tolist(), (rect[1] - rect[0]).tolist()
    # np.cross, at a tenth of the time.
    normal = np.array([b * f - c * e, c * d - a * f, a * e - b * d])
    normal = normal / math.sqrt(normal @ normal)
    return Face(texture, rect, rect if polygon is None else polygon, normal)


def _slope(texture: str, left: Points, right: Points, up: Points, polygon: Points) -> Face:
    """A face that leans: `up` goes from the middle of its foot, left to right, to its top."""
    return _face(texture, np.array([left + up, right + up, right, left]), polygon)


def _ring(x: float, z: float, width: float, depth: float) -> list[tuple[float, float]]:
    """The corners of a rectangle around (x, z) from the front's left, seen from above."""
    x0, x1, z0, z1 = x - width / 2, x + width / 2, z - depth / 2, z + depth / 2
    return [(x0, z1), (x1, z1), (x1, z0), (x0, z0)]


def _sides(ring: list[tuple[float, float]], y: float) -> list[tuple[Points, Points]]:
    """The left and the right foot of each side of a ring at height `y`."""
    feet = [np.array([x, y, z]) for x, z in ring]
    return list(zip(feet, feet[1:] + feet[:1], strict=True))


def _lid(ring: list[tuple[float, float]], y: float) -> Face:
    return _face("lid", np.array([(x, y, z) for x, z in reversed(ring)]))


def _box(
    x: float, z: float, width: float, depth: float, low: float, high: float, front: str, side: str
) -> Part:
    ring = _ring(x, z, width, depth)
    faces = []
    for name, (left, right) in zip((front, side, front, side), _sides(ring, low), strict=True):
        rect = np.array([left, right, right, left])
        rect[:2, 1] = high
        faces.append(_face(name, rect))
    return Part(np.array([x, (low + high) / 2, z]), (*faces, _lid(ring, high)))


def _prism_roof(b: Building, rise: float, along_x: bool, inset: float = 0.0) -> Part:
    """A roof whose ridge runs along x (or z), pulled in by `inset` at both ends (then hipped)."""
    low, w, d = b.height, b.width / 2 * 1.04, b.depth / 2 * 1.04
    turn = np.eye(3) if along_x else np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)
    if not along_x:
        w, d = d, w
    r0, r1 = np.array([-w + inset, low + rise, 0]), np.array([w - inset, low + rise, 0])
    a, c, e, g = np.array([(-w, low, d), (w, low, d), (w, low, -d), (-w, low, -d)])
    end = "roof" if inset else "gable"
    faces = []
    for texture, left, right, top in (
        ("roof", a, c, [r1, c, a, r0]),
        ("roof", e, g, [r0, g, e, r1]),
        (end, c, e, [r1, e, c]),
        (end, g, a, [r0, a, g]),
    ):
        along = (right - left) / np.linalg.norm(right - left)
        up = top[0] - (left + right) / 2
        up = up - along * float(up @ along)
        rect = np.array([left + up, right + up, right, left])
        faces.append(_face(texture, rect @ turn, np.array(top) @ turn))
    return Part(np.array([0, low + rise / 3, 0]), tuple(faces))


def _pyramid(x: float, z: float, half: float, low: float, rise: float) -> Part:
    top = np.array([x, low + rise, z])
    faces = [
        _slope("roof", left, right, top - (left + right) / 2, np.array([top, right, left]))
        for left, right in _sides(_ring(x, z, 2 * half, 2 * half), low)
    ]
    return Part(np.array([x, low + rise / 3, z]), tuple(faces))


def _mansard(b: Building, low: float, rise: float) -> Part:
    w, d, cut = b.width / 2, b.depth / 2, min(0.3 * rise, 1.2)
    outer = [(-w, d), (w, d), (w, -d), (-w, -d)]
    inner = [(-w + cut, d - cut), (w - cut, d - cut), (w - cut, -d + cut), (-w + cut, -d + cut)]
    faces = []
    for feet, tops in zip(_sides(outer, low), _sides(inner, low + rise), strict=True):
        (left, right), polygon = feet, np.array([*tops, *reversed(feet)])
        up = polygon[:2].mean(0) - (left + right) / 2
        faces.append(_slope("dormers", left, right, up, polygon))
    return Part(np.array([0, low + rise / 2, 0]), (*faces, _lid(inner, low + rise)))


def _roof(b: Building) -> list[Part]:
    small, low = min(b.width, b.depth), b.height
    rise = b.roof_pitch * small
    if b.roof == "gable":
        return [_prism_roof(b, rise, along_x=True)]
    if b.roof == "front gable":
        return [_prism_roof(b, b.roof_pitch * min(b.width, 1.4 * b.depth), along_x=False)]
    if b.roof == "hip":
        return [_prism_roof(b, rise, along_x=b.width >= b.depth, inset=0.42 * small)]
    if b.roof == "mansard":
        return [_mansard(b, low, 0.55 * b.storey + 0.25 * rise)]
    if b.roof == "dome":
        drum = 0.62 * small
        body = _box(0, 0, drum, drum, low, low + 0.28 * small, "drum", "drum")
        return [body, Part(np.array([0, low + 0.28 * small, 0]), radius=0.5 * drum)]
    return []


def _towers(b: Building) -> list[Part]:
    if b.tower == "none":
        return []
    side = (0.16 if b.tower == "pair" else 0.2) * b.width + 1.0
    high = b.height * (1 + b.tower_height)
    front = b.depth / 2 - side / 2 + 0.5
    corner = b.width / 2 - side / 2 + 0.5
    xs = {"corner": [corner], "centre": [0.0], "pair": [-b.width / 2, b.width / 2]}[b.tower]
    parts = []
    for x in xs:
        parts.append(_box(x, front, side, side, 0, high, "tower", "tower"))
        if b.tower_top == "dome":
            parts.append(Part(np.array([x, high, front]), radius=0.5 * side))
        elif b.tower_top != "flat":
            rise = side * (2.2 if b.tower_top == "spire" else 0.7)
            parts.append(_pyramid(x, front, 0.55 * side, high, rise))
    return parts


def parts_of(b: Building) -> tuple[tuple[Part, ...], ...]:
    """The groups of parts (body with roof, then each tower with its top), from the ground up."""
    body = (_box(0, 0, b.width, b.depth, 0, b.height, "front", "side"), *_roof(b))
    towers = _towers(b)
    step = 1 if b.tower_top == "flat" else 2
    return (body, *(tuple(towers[k : k + step]) for k in range(0, len(towers), step)))
