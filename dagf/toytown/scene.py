"""One Toytown photograph from its numbers: which building, from where, in what light, among what.

Each image has a generator of its own, seeded by (seed, stream, landmark, view): it depends
neither on the order in which images are made nor on how many others there are.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dagf.toytown.backdrop import backdrop, develop
from dagf.toytown.buildings import Building, Points, make_twin, sample_building
from dagf.toytown.camera import Camera, before_wall, camera, sample_light
from dagf.toytown.paint import BEFORE, BEHIND, LANDMARK, Canvas, Model, Thing, build
from dagf.toytown.sprites import Image, sprites

Pool = tuple[int, int]  # the seed and the stream of the clutter's buildings

# Streams of the seed. SeedSequence pads with zeros, so that streams of unlike length must not
# share a prefix: every key has four numbers.
STREAMS = {"train": 0, "validation": 1, "test": 2, "distractors": 3}
BUILDINGS, POOLS = 10, 20  # added to a split's stream: its landmarks, its clutter
DISTRACTOR_START = {"test": 0, "validation": 2**31}  # the two ranges of the unlimited distractors
SIGHTINGS = 16  # distractors 16k .. 16k + 15 show one building, as in real collections
POOL = 96  # buildings of a split's clutter, which comes back beside other landmarks
TWIN_PERIOD = 8  # of 8 landmarks the second is the first one's twin: a quarter of all has one
SCALES = (0.03, 0.60)  # the visible landmark's share of the image
QUERY_SCALES = (0.15, 0.60)
QUERY_VISIBLE = 0.80
CONTROL_SCALES = (0.22, 0.34)
LEAST_VISIBLE = 0.12
ATTEMPTS = 48

# Mean number where the street is empty, how many more where it is full, nearest place (of the
# landmark's distance).
_THINGS = {
    "tree": (0.5, 2.0, 0.4),
    "person": (0.4, 1.6, 0.12),
    "car": (0.3, 1.3, 0.25),
    "lamp": (0.1, 0.5, 0.3),
}
_SIZES = {"tree": (4.5, 12.0), "person": (1.55, 1.9), "car": (1.5, 2.1), "lamp": (4.0, 7.0)}
_SHADOWS = {"tree": 0.3, "car": 1.0}  # half the shadow's width, of the height
_RING = np.array([(-1.0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, -1)])


@dataclass(frozen=True)
class Photograph:
    """One image and the truth about it."""

    image: Image  # (size, size, 3), red green blue
    mask: NDArray[np.bool_]  # (size, size): the landmark's visible pixels
    azimuth: float  # degrees from the landmark's front, positive to its right
    scale: float  # visible landmark / image area
    visible: float  # visible landmark / landmark within the frame
    clutter: float  # share of the image that shows other buildings, trees, cars, people, lamps
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 of the mask, x2 and y2 one past the last pixel
    weather: str
    quality: int  # of the JPEG


Drawing = Iterator[Photograph | None]


def twin_of(landmark: int) -> int:
    """The other landmark of a pair of near-twins (the split may be too short to hold it), or -1."""
    place = landmark % TWIN_PERIOD
    return landmark + 1 if place == 0 else landmark - 1 if place == 1 else -1


@lru_cache(maxsize=256)
def landmark_building(seed: int, stream: int, landmark: int) -> Building:
    """The landmark's building; a twin's is its elder's with other details."""
    twin = landmark % TWIN_PERIOD == 1 and stream != STREAMS["distractors"]
    elder = sample_building(np.random.default_rng([seed, BUILDINGS + stream, landmark - twin, 0]))
    if not twin:
        return elder
    return make_twin(elder, np.random.default_rng([seed, BUILDINGS + stream, landmark, 1]))


@lru_cache(maxsize=4)
def _model(seed: int, stream: int, landmark: int, size: int) -> Model:
    return build(landmark_building(seed, stream, landmark), size)


@lru_cache(maxsize=3 * POOL)
def _pool_model(seed: int, stream: int, number: int, size: int) -> Model:
    rng = np.random.default_rng([seed, POOLS + stream, number, 0])
    return build(sample_building(rng, ordinary=True), size, detail=0.55)


@dataclass(frozen=True)
class _Frame:
    camera: Camera
    azimuth: float
    distance: float
    box: Points  # 2 x 2: the landmark's corners in pixels, beyond the frame perhaps


def _sample_frame(rng: Generator, model: Model, size: int, role: str, nuisances: bool) -> _Frame:
    """Where the camera stands and looks: the landmark gets a wanted area, anywhere in the image."""
    turn = 35.0 if role == "query" else 60.0
    azimuth = float(rng.uniform(-turn, turn))
    if role == "query":
        share = float(np.exp(rng.uniform(np.log(0.21), np.log(0.50))))
    elif nuisances:
        share = float(np.exp(rng.uniform(np.log(0.06), np.log(0.66))))
    else:
        share = float(rng.uniform(0.26, 0.32))
    radius = model.building.radius
    standing = rng.random() < 0.6
    eye = float(rng.uniform(1.6, 2.2) if standing else rng.uniform(2.5, 0.6 * model.height + 2.5))
    pitch, roll = math.radians(rng.normal(2, 2.5)), math.radians(rng.normal(0, 1.6))
    focal = float(rng.uniform(0.85, 1.7)) * size
    distance, flat = 3.0 * radius, math.radians(azimuth)
    at = np.array([math.sin(flat), 0.0, math.cos(flat)])
    for _ in range(2):
        view = camera(at * distance + (0, eye, 0), (0.0, 0.0), focal, pitch, roll)
        hull = cv2.convexHull(view.project(model.outline)[0].astype(np.float32))
        area = 0.93 * float(cv2.contourArea(hull))
        step = math.sqrt(area / (share * size * size))
        reach = max(1.5 * radius, distance * step)
        focal *= reach / (distance * step)  # too near to get it so large: take a longer lens
        distance = reach
    view = camera(at * distance + (0, eye, 0), (0.0, 0.0), focal, pitch, roll)
    pixels = view.project(model.outline)[0]
    low, high = pixels.min(0), pixels.max(0)
    cut = np.zeros(2) if role == "query" or not nuisances else np.array([0.25, 0.18])
    first, last = (0.5 - cut) * (high - low), size - (0.5 - cut) * (high - low)
    span = np.abs(last - first) * (1.0 if nuisances else 0.3)
    shift = size / 2 + span * rng.uniform(-0.5, 0.5, 2) - (low + high) / 2
    aimed = camera(view.position, (float(shift[0]), float(shift[1])), focal, pitch, roll)
    return _Frame(aimed, azimuth, distance, np.array([low + shift, high + shift]))


def _place(frame: _Frame, column: float, depth: float) -> Points:
    """The ground point that is seen near image column `column` at `depth` metres."""
    view = frame.camera
    aside = (column - view.centre[0]) * depth / view.focal
    (x, _, z), (fx, _, fz) = view.position.tolist(), view.forward.tolist()
    return np.array([x + fx * depth - fz * aside, 0.0, z + fz * depth + fx * aside])


def _sample_things(
    rng: Generator, frame: _Frame, model: Model, size: int, role: str, pool: Pool
) -> list[Thing]:
    """Clutter around the landmark and things that stand before it."""
    radius, view = model.building.radius, frame.camera
    level = float(rng.uniform(0, 0.5 if role == "query" else 1.0))
    things: list[Thing] = []
    for _ in range(min(8, int(rng.poisson(0.5 + 2.2 * level)))):
        other = _pool_model(*pool, int(rng.integers(POOL)), size)
        reach = other.building.radius
        at = _place(frame, rng.uniform(-0.1, 1.1) * size, frame.distance * rng.uniform(0.7, 1.8))
        if math.hypot(at[0], at[2]) < radius + reach:  # in the landmark: move it behind
            at = at + view.forward * (radius + 1.1 * reach)
        yaw = float(rng.integers(4)) * math.pi / 2 + float(rng.normal(0, 0.12))
        things.append(Thing(at, other.height, other, yaw))
    for kind, (empty, more, near) in _THINGS.items():
        for _ in range(int(rng.poisson(empty + more * level))):
            column = rng.uniform(-0.05, 1.05) * size
            at = _place(frame, column, max(3.0, frame.distance * rng.uniform(near, 1.7)))
            things.append(_sprite_thing(rng, kind, at, radius, view))
    if role != "query" and rng.random() < 0.5:
        things += _occluders(rng, frame, radius, size, pool)
    return things


def _sprite_thing(rng: Generator, kind: str, at: Points, radius: float, view: Camera) -> Thing:
    gap = math.hypot(at[0], at[2])
    if gap < radius:  # out of the landmark's ground plan, towards the camera
        at = at - view.forward * (radius - gap + 1.0)
    height = float(rng.uniform(*_SIZES[kind]))
    levels = sprites()[kind][int(rng.integers(len(sprites()[kind])))]
    flip, tint = bool(rng.integers(2)), float(rng.uniform(0.75, 1.2))
    return Thing(at, height, None, 0.0, levels, flip, tint, _SHADOWS.get(kind, 0.0))


def _occluders(rng: Generator, frame: _Frame, radius: float, size: int, pool: Pool) -> list[Thing]:
    """Things between camera and landmark: trees, cars, people, the edge of another building."""
    (x0, y0), (x1, y1) = frame.box
    free, focal = frame.distance - radius, frame.camera.focal
    things = []
    if rng.random() < 0.22:
        other = _pool_model(*pool, int(rng.integers(POOL)), size)
        reach = other.building.radius
        depth = max(reach + 4.0, free * rng.uniform(0.45, 0.9))
        side = 1 if rng.random() < 0.5 else -1
        edge = (x0 if side < 0 else x1) - side * rng.uniform(0.05, 0.5) * (x1 - x0)
        if depth < free:
            at = _place(frame, edge + side * 0.8 * reach * focal / depth, depth)
            things.append(Thing(at, other.height, other, float(rng.uniform(0, 6.3))))
    for _ in range(1 + int(rng.poisson(1.0))):
        kind = ("tree", "tree", "tree", "person", "car", "lamp")[int(rng.integers(6))]
        height = float(rng.uniform(*_SIZES[kind]))
        tall = rng.uniform(0.45, 1.15) * (y1 - y0)
        depth = float(np.clip(focal * height / tall, 2.5, max(2.6, 0.95 * free)))
        at = _place(frame, rng.uniform(x0, x1), depth)
        thing = _sprite_thing(rng, kind, at, radius, frame.camera)
        things.append(thing._replace(height=height))
    return things


def photograph(
    seed: int,
    stream: int,
    landmark: int,
    view: int,
    size: int,
    role: str = "database",
    nuisances: bool = True,
) -> Photograph:
    """Render one image; `role` is train, query, database or distractor."""
    return in_step([drawing((seed, stream, landmark, view), size, role, nuisances)])[0]


def in_step(drawings: Iterable[Drawing]) -> list[Photograph]:
    """Render images stage by stage, so that a stage's code stays in the processor's caches."""
    todo = list(drawings)
    done = [next(one) for one in todo]
    while not all(done):
        done = [shot or next(one) for shot, one in zip(done, todo, strict=True)]
    return [shot for shot in done if shot]


def drawing(key: tuple[int, int, int, int], size: int, role: str, nuisances: bool) -> Drawing:
    """Yield the image of (seed, stream, landmark, view) at last, and None between the stages.

    Views whose landmark comes out too small, too large or hidden are drawn again.
    """
    rng = np.random.default_rng(key)
    seed, stream, landmark, _ = key
    low, high = QUERY_SCALES if role == "query" else SCALES if nuisances else CONTROL_SCALES
    least = QUERY_VISIBLE if role == "query" else LEAST_VISIBLE
    split, number = stream, landmark
    if stream == STREAMS["distractors"]:
        split = STREAMS["validation" if landmark >= DISTRACTOR_START["validation"] else "test"]
        number = landmark // SIGHTINGS
    model = _model(seed, stream, number, size)
    for attempt in range(ATTEMPTS):
        # Late attempts leave the occluders out, with which a narrow building may never succeed.
        plain = "query" if attempt >= 9 else role
        for shot in _attempt(rng, model, (seed, split), size, plain, nuisances):
            if shot is None or (low <= shot.scale <= high and shot.visible >= least):
                yield shot
    raise RuntimeError(f"no view for Toytown's image {key}")


def _attempt(
    rng: Generator, model: Model, pool: Pool, size: int, role: str, nuisances: bool
) -> Drawing:
    light = sample_light(rng)
    yield None
    frame = _sample_frame(rng, model, size, role, nuisances)
    yield None
    things = _sample_things(rng, frame, model, size, role, pool) if nuisances else []
    yield None
    canvas = Canvas(size, frame.camera, light)
    yield from backdrop(canvas, rng)
    position, b = frame.camera.position, model.building
    canvas.shadow(b.foot, b.height)
    for thing in things:
        far = math.dist(thing.at, position)
        if thing.shadow and frame.camera.focal * thing.height > 7 * far:
            canvas.shadow(thing.shadow * thing.height * _RING + thing.at, 0.8 * thing.height)
    places = np.array([thing.at for thing in things]).reshape(-1, 3)
    feet, depths = (values.tolist() for values in frame.camera.project(places))
    ahead = [float((thing.at - position) @ frame.camera.forward) for thing in things]
    order = sorted(range(len(things)), key=lambda k: -ahead[k])  # many are at the same depth
    before = [before_wall(thing.at, position, b) for thing in things]
    whole = 0  # pixels of the landmark as if nothing stood before it
    for layer in (BEHIND, BEFORE):
        yield None
        for k in order:
            if before[k] == (layer == BEFORE):
                canvas.thing(things[k], feet[k], depths[k], layer)
        if layer == BEHIND:
            yield None
            canvas.building(model, np.zeros(3), 0.0, LANDMARK)
            whole = cv2.countNonZero(cv2.inRange(canvas.layers, LANDMARK, LANDMARK))
    mask = canvas.layers == LANDMARK
    left, top, wide, high = cv2.boundingRect(mask.view(np.uint8))
    if not wide:
        return
    seen = cv2.countNonZero(mask.view(np.uint8))
    yield None
    yield Photograph(
        image=develop(canvas.image, rng),
        mask=mask,
        azimuth=round(frame.azimuth, 2),
        scale=seen / size**2,
        visible=seen / whole,
        clutter=(cv2.countNonZero(canvas.layers) - seen) / size**2,
        box=(left, top, left + wide, top + high),
        weather=light.weather,
        quality=int(rng.integers(65, 95)),
    )
