"""What a Toytown building is: its style, drawn from a generator, and the flat faces of its body in metres.

A building stands at the origin: x runs along its front, y up, z out of the front. Every face is a planar
polygon inside a rectangle that a texture fills, so that one homography a face renders it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # red, green, blue in 0..1, as seen in white light
Points = NDArray[np.float64]

# Painted as in an old harbour town: seen at 96 pixels, colour is most of what tells one building from another.
_PAINTS: tuple[Colour, ...] = (
    *(
        (0.88, 0.86, 0.80),
        (0.90, 0.74, 0.36),
        (0.86, 0.50, 0.38),
        (0.52, 0.70, 0.84),
        (0.56, 0.74, 0.50),
    ),
    *(
        (0.80, 0.36, 0.28),
        (0.92, 0.66, 0.64),
        (0.36, 0.52, 0.66),
        (0.74, 0.60, 0.80),
        (0.44, 0.60, 0.54),
    ),
    *((0.94, 0.84, 0.56), (0.62, 0.44, 0.34)),
)
WALLS: dict[str, tuple[Colour, ...]] = {
    "brick": (
        (0.62, 0.26, 0.18),
        (0.44, 0.22, 0.18),
        (0.74, 0.46, 0.26),
        (0.80, 0.66, 0.40),
        (0.34, 0.22, 0.24),
    ),
    "plaster": _PAINTS,
    "stone": (
        (0.80, 0.70, 0.48),
        (0.58, 0.58, 0.58),
        (0.78, 0.56, 0.46),
        (0.40, 0.42, 0.46),
        (0.86, 0.84, 0.78),
    ),
    "bands": ((0.80, 0.70, 0.50), (0.74, 0.46, 0.38), (0.82, 0.82, 0.80), (0.52, 0.60, 0.56)),
    "timber": ((0.90, 0.84, 0.68), (0.86, 0.70, 0.40), (0.78, 0.52, 0.42)),
    "boards": (
        (0.62, 0.18, 0.14),
        (0.88, 0.88, 0.86),
        (0.30, 0.44, 0.60),
        (0.46, 0.32, 0.20),
        (0.34, 0.52, 0.34),
    ),
    "concrete": ((0.62, 0.61, 0.59), (0.46, 0.46, 0.47), (0.76, 0.72, 0.64)),
}
TRIMS: tuple[Colour, ...] = (
    *((0.94, 0.92, 0.88), (0.80, 0.72, 0.56), (0.28, 0.27, 0.28)),
    *((0.52, 0.30, 0.22), (0.30, 0.42, 0.40), (0.66, 0.64, 0.62)),
)
ROOFS: tuple[Colour, ...] = (
    *((0.64, 0.26, 0.16), (0.32, 0.34, 0.40), (0.42, 0.28, 0.20)),
    *((0.30, 0.58, 0.48), (0.80, 0.44, 0.22), (0.20, 0.20, 0.24), (0.26, 0.40, 0.56)),
)
ACCENTS: tuple[Colour, ...] = (
    (0.12, 0.40, 0.24),
    (0.14, 0.28, 0.58),
    (0.68, 0.12, 0.12),
    (0.36, 0.22, 0.12),
    (0.88, 0.66, 0.16),
    (0.14, 0.14, 0.17),
    (0.70, 0.72, 0.74),
)
WINDOWS = ("sash", "arched", "pointed", "paired", "shutters", "french", "wide", "round", "hooded")
DOORS = ("plain", "arched", "gate", "portico", "arcade", "shop", "glazed")
ROOF_KINDS = ("flat", "gable", "front gable", "hip", "mansard", "dome")
TOWERS = ("none", "corner", "centre", "pair")
TOWER_TOPS = ("spire", "cap", "dome", "flat")
ORNAMENTS = ("none", "rose", "clock", "pediment", "columns", "mural", "banner", "frieze", "sign")


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


def _pick(
    rng: np.random.Generator, choices: Sequence[str], weights: Sequence[float] | None = None
) -> str:
    p = None if weights is None else np.asarray(weights) / np.sum(weights)
    return str(choices[int(rng.choice(len(choices), p=p))])


def _tint(rng: np.random.Generator, colours: Sequence[Colour], spread: float = 0.03) -> Colour:
    base = np.asarray(colours[int(rng.integers(len(colours)))])
    r, g, b = np.clip(base * rng.uniform(0.85, 1.08) + rng.normal(0, spread, 3), 0.06, 0.95)
    return float(r), float(g), float(b)


def sample_building(rng: np.random.Generator, ordinary: bool = False) -> Building:
    """A building drawn from `rng`.

    An `ordinary` one, as clutter is, comes from the same choices with other odds: fewer towers, domes
    and ornaments, as in a real town. Every value that it can take a landmark can take, too.
    """
    material = _pick(
        rng, tuple(WALLS), (5, 6, 4, 1, 1, 2, 3) if ordinary else (3, 4, 5, 2, 2, 1.5, 1.5)
    )
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
        window=_pick(
            rng,
            WINDOWS,
            (5, 2, 0.3, 2, 3, 2, 3, 0.3, 1) if ordinary else (2, 3, 2, 2, 2, 2, 1.5, 1, 2),
        ),
        window_width=float(rng.uniform(0.34, 0.62)),
        window_height=float(rng.uniform(0.42, 0.64)),
        door=_pick(rng, DOORS, (5, 2, 1, 0.5, 0.5, 4, 2) if ordinary else None),
        roof=_pick(rng, ROOF_KINDS, (5, 5, 2, 3, 2, 0.2) if ordinary else (2.5, 2, 2, 2, 2, 2)),
        roof_pitch=float(rng.uniform(0.25, 0.6)),
        tower=_pick(rng, TOWERS, (24, 1, 0.5, 0.3) if ordinary else (5, 2.5, 2, 1.5)),
        tower_top=_pick(rng, TOWER_TOPS),
        tower_height=float(rng.uniform(0.3, 0.9)),
        ornament=_pick(rng, ORNAMENTS, (20, 0.3, 0.5, 1, 1, 1, 1, 1, 4) if ordinary else None),
        courses=bool(rng.random() < 0.5),
        quoins=bool(rng.random() < (0.1 if ordinary else 0.35)),
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


@dataclass(frozen=True)
class Face:
    """A planar polygon of a building.

    `texture` names the picture that fills the rectangle `rect` (4 x 3: upper left, upper right, lower
    right, lower left as seen from outside); only `polygon` (k x 3) of it is there. Metres.
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
    normal = np.array(
        [b * f - c * e, c * d - a * f, a * e - b * d]
    )  # np.cross, at a tenth of the time
    return Face(
        texture, rect, rect if polygon is None else polygon, normal / math.sqrt(normal @ normal)
    )


def _box(
    x: float, z: float, width: float, depth: float, low: float, high: float, front: str, side: str
) -> Part:
    x0, x1, z0, z1 = x - width / 2, x + width / 2, z - depth / 2, z + depth / 2
    ring = (
        (x0, z1, x1, z1, front),
        (x1, z1, x1, z0, side),
        (x1, z0, x0, z0, front),
        (x0, z0, x0, z1, side),
    )
    faces = [
        _face(name, np.array([(ax, high, az), (bx, high, bz), (bx, low, bz), (ax, low, az)]))
        for ax, az, bx, bz, name in ring
    ]
    lid = np.array([(x0, high, z0), (x1, high, z0), (x1, high, z1), (x0, high, z1)])
    return Part(np.array([x, (low + high) / 2, z]), (*faces, _face("lid", lid)))


def _prism_roof(
    b: Building, rise: float, low: float, along_x: bool, inset: float = 0.0, gable: str = "gable"
) -> Part:
    """A roof whose ridge runs along x (or z), pulled in by `inset` at both ends (hipped where > 0)."""
    w, d = b.width / 2 * 1.04, b.depth / 2 * 1.04
    turn = np.eye(3) if along_x else np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], float)
    if not along_x:
        w, d = d, w
    r0, r1 = np.array([-w + inset, low + rise, 0]), np.array([w - inset, low + rise, 0])
    corners = np.array([(-w, low, d), (w, low, d), (w, low, -d), (-w, low, -d)])
    a, c, e, g = corners
    faces = [
        ("roof", a, c, np.array([r1, c, a, r0])),
        ("roof", e, g, np.array([r0, g, e, r1])),
        ("roof" if inset else gable, c, e, np.array([r1, e, c])),
        ("roof" if inset else gable, g, a, np.array([r0, a, g])),
    ]
    built = []
    for texture, left, right, polygon in faces:
        middle = (left + right) / 2
        along = (right - left) / np.linalg.norm(right - left)
        up = polygon[0] - middle
        up = up - along * float(up @ along)
        rect = np.array([left + up, right + up, right, left])
        built.append(_face(texture, rect @ turn, polygon @ turn))
    return Part(np.array([0, low + rise / 3, 0]), tuple(built))


def _pyramid(x: float, z: float, half: float, low: float, rise: float) -> Part:
    top = np.array([x, low + rise, z])
    ring = [(x - half, z + half), (x + half, z + half), (x + half, z - half), (x - half, z - half)]
    faces = []
    for (ax, az), (bx, bz) in zip(ring, ring[1:] + ring[:1], strict=True):
        left, right = np.array([ax, low, az]), np.array([bx, low, bz])
        up = top - (left + right) / 2
        faces.append(
            _face(
                "roof", np.array([left + up, right + up, right, left]), np.array([top, right, left])
            )
        )
    return Part(np.array([x, low + rise / 3, z]), tuple(faces))


def _mansard(b: Building, low: float, rise: float) -> Part:
    w, d, cut = b.width / 2, b.depth / 2, min(0.3 * rise, 1.2)
    outer = [(-w, d), (w, d), (w, -d), (-w, -d)]
    inner = [(-w + cut, d - cut), (w - cut, d - cut), (w - cut, -d + cut), (-w + cut, -d + cut)]
    faces = []
    for k in range(4):
        (ax, az), (bx, bz), (ix, iz), (jx, jz) = (
            outer[k],
            outer[(k + 1) % 4],
            inner[k],
            inner[(k + 1) % 4],
        )
        left, right = np.array([ax, low, az]), np.array([bx, low, bz])
        polygon = np.array([(ix, low + rise, iz), (jx, low + rise, jz), right, left])
        up = polygon[:2].mean(0) - (left + right) / 2
        faces.append(_face("dormers", np.array([left + up, right + up, right, left]), polygon))
    lid = np.array([(inner[k][0], low + rise, inner[k][1]) for k in (3, 2, 1, 0)])
    return Part(np.array([0, low + rise / 2, 0]), (*faces, _face("lid", lid)))


def _roof(b: Building) -> list[Part]:
    small, low = min(b.width, b.depth), b.height
    rise = b.roof_pitch * small
    if b.roof == "gable":
        return [_prism_roof(b, rise, low, along_x=True)]
    if b.roof == "front gable":
        return [_prism_roof(b, b.roof_pitch * min(b.width, 1.4 * b.depth), low, along_x=False)]
    if b.roof == "hip":
        along_x = b.width >= b.depth
        return [_prism_roof(b, rise, low, along_x, inset=0.42 * small)]
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
    xs = {
        "corner": [b.width / 2 - side / 2 + 0.5],
        "centre": [0.0],
        "pair": [-b.width / 2, b.width / 2],
    }[b.tower]
    parts = []
    for x in xs:
        parts.append(_box(x, front, side, side, 0, high, "tower", "tower"))
        if b.tower_top == "dome":
            parts.append(Part(np.array([x, high, front]), radius=0.5 * side))
        elif b.tower_top != "flat":
            parts.append(
                _pyramid(
                    x, front, 0.55 * side, high, side * (2.2 if b.tower_top == "spire" else 0.7)
                )
            )
    return parts


def parts_of(b: Building) -> tuple[tuple[Part, ...], ...]:
    """The building's groups of parts (body with roof, then each tower with its top), each from the ground up."""
    body = (_box(0, 0, b.width, b.depth, 0, b.height, "front", "side"), *_roof(b))
    towers = _towers(b)
    step = 1 if b.tower_top == "flat" else 2
    return (body, *(tuple(towers[k : k + step]) for k in range(0, len(towers), step)))
