"""Painting the things of a Toytown photograph on a canvas, from the back to the front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np

from dagf.toytown.buildings import Building, Face, Part, Points, parts_of
from dagf.toytown.camera import Camera, Light
from dagf.toytown.sprites import Floats, Image, Pyramid, dome_sprite, pyramid
from dagf.toytown.textures import facade

# What a pixel of `Canvas.layers` shows, in the order of painting; 0 is ground, sky and skyline.
BEHIND, LANDMARK, BEFORE = 1, 2, 3
NEAR = 0.6  # metres: nothing closer than this is painted
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Model:
    """A building ready to be painted, all faces in one array.

    `points` (faces, 8, 3): each face's rectangle, then its polygon, padded to four corners.
    `groups`: the body with its roof, then the towers.
    """

    building: Building
    groups: tuple[tuple[Part, ...], ...]
    faces: tuple[Face, ...]
    points: Points
    normals: Points
    outline: Points  # (n, 3): the corners of the body and of all faces
    height: float  # metres, with roof and towers
    pixels_per_metre: float
    _textures: dict[str, Pyramid] = field(default_factory=dict, repr=False)

    def texture(self, name: str) -> Pyramid:
        """The texture's pyramid, drawn when it is first seen."""
        if name not in self._textures:
            self._textures[name] = pyramid(facade(self.building, name, self.pixels_per_metre))
        return self._textures[name]


def build(building: Building, size: int, detail: float = 1.0) -> Model:
    """The model of `building` for images of `size` pixels, which it fills at a `detail` of 1."""
    groups = parts_of(building)
    parts = [part for group in groups for part in group]
    faces = tuple(face for part in parts for face in part.faces)
    corners = [np.vstack([face.rect, face.polygon, face.polygon[-1:]])[:8] for face in faces]
    points, normals = np.stack(corners), np.stack([face.normal for face in faces])
    walls = building.foot + np.array([0, building.height, 0])
    outline = np.vstack([building.foot, walls, points[:, 4:].reshape(-1, 3)])
    top = max([float(outline[:, 1].max()), *(float(one.centre[1]) + one.radius for one in parts)])
    scale = detail * size / max(building.height, 0.8 * building.width)
    return Model(building, groups, faces, points, normals, outline, top, scale)


class Thing(NamedTuple):
    """Something that stands about: a building, or an upright picture, (h, w, 4) at each level."""

    at: Points  # (x, 0, z)
    height: float
    model: Model | None = None
    yaw: float = 0.0
    levels: Pyramid = ()
    flip: bool = False
    tint: float = 1.0
    shadow: float = 0.0  # half its width, as a fraction of the height


class Canvas:
    """A picture in the making, `size` x `size`, and what each pixel shows."""

    def __init__(self, size: int, view: Camera, light: Light) -> None:
        self.size, self.view, self.light = size, view, light
        lamps = light.lamps * np.array([1.3, 0.95, 0.5])
        self.mirror = 0.32 * light.sky_top * light.ambient + lamps  # what glass adds
        self.upright = light.ambient + 0.45 * light.sun_colour  # the light on a sprite
        direct = float(light.sun_colour.sum())
        self.dark = 0.6 * direct / (direct + float(light.ambient.sum()))  # of a shadow
        self.away = light.sun * (-1, 0, -1) / max(light.sun[1], 0.2)  # a metre's shadow
        self.image: Image = np.zeros((size, size, 3), np.uint8)
        self.layers: Image = np.zeros((size, size), np.uint8)

    def _blend(self, box: Box, colour: Image, cover: Image, layer: int | None) -> None:
        """Paint `colour` where `cover` (0 to 255) says; without `layer` it only shades."""
        x0, y0, x1, y1 = box
        weight, below = cover * np.float32(1 / 255), self.image[y0:y1, x0:x1]
        cv2.blendLinear(colour, below, weight, 1 - weight, below)
        if layer is not None:
            shown = self.layers[y0:y1, x0:x1]
            cv2.max(shown, cv2.threshold(cover, 127, layer, cv2.THRESH_BINARY)[1], shown)

    def _box(self, low: Sequence[float] | Points, high: Sequence[float] | Points) -> Box | None:
        x0, y0 = max(0, math.floor(low[0])), max(0, math.floor(low[1]))
        x1, y1 = min(self.size, math.ceil(high[0])), min(self.size, math.ceil(high[1]))
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

    def _polygon(self, box: Box, corners: Floats | Points, strength: int = 255) -> Image:
        """The cover of a convex polygon, `corners` (k, 2) in pixels, within a box."""
        x0, y0, x1, y1 = box
        cover = np.zeros((y1 - y0, x1 - x0), np.uint8)
        pixels = np.rint(corners * 16).astype(np.int32)
        cv2.fillConvexPoly(cover, pixels, strength, cv2.LINE_AA, 4)
        return cover

    def _tones(self, shades: Points, depth: float) -> Floats:
        """Matrices (n, 3, 5) from (red, green, blue, glass, 1) to what is seen at that depth."""
        clear = math.exp(-self.light.haze * depth)
        tones = np.zeros((shades.size // 3, 3, 5), np.float32)
        tones.reshape(-1, 15)[:, :13:6] = shades * clear  # the diagonals
        tones[:, :, 3] = self.mirror * clear
        tones[:, :, 4] = 255 * (1 - clear) * self.light.sky_low
        return tones

    def shade(self, normals: Points) -> Points:
        """The light (..., 3) that falls on surfaces with these normals (..., 3)."""
        sun = np.maximum(normals @ self.light.sun, 0)[..., None]
        sky = self.light.ambient * (0.86 + 0.14 * normals[..., 1:2])
        return np.asarray(sky + sun * self.light.sun_colour)

    def building(self, model: Model, at: Points, yaw: float, layer: int) -> None:
        """Paint a building that stands `at` (x, 0, z), turned by `yaw` radians."""
        c, s = math.cos(yaw), math.sin(yaw)
        turn = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # rows are images of x, y, z
        far = math.dist(at, self.view.position)
        if self.view.focal * model.height < 3 * far:
            return  # lower than three pixels
        eye = (self.view.position - at) @ turn.T
        front = np.flatnonzero(((eye - model.points[:, 0]) * model.normals).sum(1) > 0)
        pixels, depth = self.view.project(model.points[front].reshape(-1, 3) @ turn + at)
        pixels, nearest = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8).min(1).tolist()
        low, high = pixels[:, 4:].min(1), pixels[:, 4:].max(1)
        boxes = np.concatenate([np.floor(low), np.ceil(high)], 1).clip(0, self.size).astype(np.intp)
        local = pixels - (boxes[:, None, :2] + 0.5)
        tones = self._tones(self.shade(model.normals[front] @ turn), far)
        views = zip(front.tolist(), nearest, boxes.tolist(), local, tones, strict=True)
        seen = {
            model.faces[k]: (box, corners, tone)
            for k, near, box, corners, tone in views
            if near > NEAR and box[0] < box[2] and box[1] < box[3]
        }
        if not seen:
            return
        body, late = model.groups[0], eye[2] > model.building.depth / 2
        # Far parts first; but towers stand out of the body's front, unless that is turned away.
        groups = sorted(
            model.groups, key=lambda one: (late and one is not body, -math.dist(one[0].centre, eye))
        )
        for part in chain(*groups):
            if part.radius:
                self._dome(model, part, at + part.centre @ turn, layer)
            for face in part.faces:
                if face in seen:
                    self._face(model.texture(face.texture), *seen[face], layer)

    def _face(self, levels: Pyramid, box: Box, local: Points, tone: Floats, layer: int) -> None:
        x0, y0, x1, y1 = box
        (ax, ay), (bx, by), (cx, cy), (dx, dy), *_ = local.tolist()
        area = abs((cx - ax) * (dy - by) - (cy - ay) * (dx - bx)) / 2
        h, w, _ = levels[0].shape
        texture = _level(levels, 0.5 * math.log2(max(1.0, h * w / max(area, 1.0))))
        x, y = texture.shape[1] - 0.5, texture.shape[0] - 0.5
        source = np.array([(-0.5, -0.5), (x, -0.5), (x, y), (-0.5, y)], np.float32)
        matrix = cv2.getPerspectiveTransform(source, local[:4].astype(np.float32))
        extent = (x1 - x0, y1 - y0)
        warped = cv2.warpPerspective(texture, matrix, extent, borderMode=cv2.BORDER_REPLICATE)
        colour = np.asarray(cv2.transform(warped, tone), np.uint8)
        self._blend(box, colour, self._polygon(box, local[4:]), layer)

    def _dome(self, model: Model, part: Part, centre: Points, layer: int) -> None:
        pixels, depth = self.view.project(centre[None])
        far = float(depth[0])
        radius = self.view.focal * part.radius / max(far, 1e-3)
        if far < NEAR or radius < 0.7 or radius > 4 * self.size:
            return
        x, y = pixels[0].tolist()
        box = self._box((x - radius, y - radius), (x + radius, y + 1))
        if box is None:
            return
        x0, y0, x1, y1 = box
        # The sprite's nearest size: larger ones would be sampled too sparsely.
        sprite = dome_sprite(2 ** min(8, max(2, round(math.log2(radius)))))
        scale = radius / sprite.shape[0]
        shift = scale / 2 - radius - 0.5
        matrix = np.array([[scale, 0, x - x0 + shift], [0, scale, y - y0 + shift]])
        warped = cv2.warpAffine(sprite, matrix, (x1 - x0, y1 - y0))
        sun, view = self.light.sun, self.view
        towards = np.array([sun @ view.right, sun[1], -sun @ view.forward], np.float32)
        facing = np.clip(warped[..., :3] @ towards, 0, 1)
        around = np.arctan2(warped[..., 0], warped[..., 2] + 1e-3)
        ribs = 1 - 0.14 * (np.abs(np.sin(6 * around)) < 0.2)
        lit = self.light.ambient + facing[..., None] * self.light.sun_colour
        paint = 255 * np.asarray(model.building.roof_colour) * lit * ribs[..., None]
        clear = math.exp(-self.light.haze * far)
        paint = paint * clear + 255 * (1 - clear) * self.light.sky_low
        cover = np.clip(255 * warped[..., 3], 0, 255).astype(np.uint8)
        self._blend(box, np.clip(paint, 0, 255).astype(np.uint8), cover, layer)

    def thing(self, thing: Thing, foot: tuple[float, float], far: float, layer: int) -> None:
        """Paint a thing whose foot is seen at that pixel, at that depth."""
        if thing.model is not None:
            self.building(thing.model, thing.at, thing.yaw, layer)
            return
        levels, tall = thing.levels, self.view.focal * thing.height / max(far, NEAR)
        wide = tall * levels[0].shape[1] / levels[0].shape[0]
        if far < NEAR or tall < 2.5 or tall > 6 * self.size:
            return
        x, y = foot
        box = self._box((x - wide / 2, y - tall), (x + wide / 2, y))
        if box is None:
            return
        x0, y0, x1, y1 = box
        picture = _level(levels, math.log2(max(1.0, levels[0].shape[0] / tall)))
        half = -wide / 2 if thing.flip else wide / 2
        sx, sy = 2 * half / picture.shape[1], tall / picture.shape[0]
        row = [0, sy, y - tall - y0 - 0.5 + sy / 2]
        matrix = np.array([[sx, 0, x - half - x0 - 0.5 + sx / 2], row])
        warped = cv2.warpAffine(picture, matrix, (x1 - x0, y1 - y0))
        tone = self._tones(thing.tint * self.upright, far)[0]
        tone[:, 3] = 0  # a sprite's fourth channel is its coverage, not glass
        colour, cover = cv2.transform(warped, tone), warped[..., 3]
        self._blend(box, np.asarray(colour, np.uint8), np.asarray(cover, np.uint8), layer)

    def shadow(self, feet: Points, height: float) -> None:
        """Darken the ground where a body on `feet` (k x 3, y = 0) keeps the sun away."""
        if self.dark < 0.15:
            return
        pixels, depth = self.view.project(np.concatenate([feet, feet + self.away * height]))
        near = float(depth.min())
        low, high = pixels.min(0).tolist(), pixels.max(0).tolist()
        box = None if near < NEAR else self._box(low, high)
        if box is None:
            return
        strength = self.dark * math.exp(-2 * self.light.haze * near)
        local = (pixels - (box[0] + 0.5, box[1] + 0.5)).astype(np.float32)
        hull = np.asarray(cv2.convexHull(local), np.float32)
        cover = self._polygon(box, hull, round(255 * strength))
        self._blend(box, np.zeros((*cover.shape, 3), np.uint8), cover, None)


def _level(levels: Pyramid, level: float) -> Image:
    """The picture of a pyramid that is nearest to a scale of 2 ** -level."""
    return levels[min(len(levels) - 1, int(level + 0.4))]
