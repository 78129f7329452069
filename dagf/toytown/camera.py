"""From where and in what light a Toytown photograph is taken."""

import math
from bisect import bisect
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dagf.toytown.buildings import Building, Points

_BLUE, _GREY = np.array([0.36, 0.55, 0.82]), np.array([0.70, 0.73, 0.77])
_LOW_SUN, _HIGH_SUN = (8, 20), (25, 62)  # degrees


@dataclass(frozen=True)
class _Weather:
    odds: float
    elevation: tuple[int, int]
    sun: ArrayLike
    ambient: ArrayLike
    top: ArrayLike
    low: ArrayLike
    clouds: float | None  # None: they vary
    haze: float
    lamps: float


# fmt: off
_WEATHERS = {
    "clear": _Weather(0.52, _HIGH_SUN, (0.58, 0.54, 0.48), (0.60, 0.62, 0.66),
                      _BLUE, (0.80, 0.86, 0.92), None, 0.0012, 0.0),
    "overcast": _Weather(0.27, _HIGH_SUN, (0.12, 0.12, 0.12), (0.80, 0.82, 0.85),
                         _GREY, 1.12 * _GREY, 0.9, 0.003, 0.0),
    "haze": _Weather(0.05, _HIGH_SUN, (0.34, 0.32, 0.29), (0.58, 0.58, 0.58),
                     1.05 * _GREY, 1.14 * _GREY, 0.5, 0.007, 0.0),
    "golden": _Weather(0.12, _LOW_SUN, (0.70, 0.54, 0.36), (0.58, 0.56, 0.58),
                       0.9 * _BLUE, (0.96, 0.80, 0.60), None, 0.003, 0.05),
    "dusk": _Weather(0.04, _LOW_SUN, (0.22, 0.16, 0.12), (0.52, 0.52, 0.58),
                     0.5 * _BLUE, (0.66, 0.48, 0.44), 0.4, 0.003, 0.42),
}
# fmt: on
_ODDS = np.cumsum([weather.odds for weather in _WEATHERS.values()][:-1]).tolist()


@dataclass(frozen=True)
class Camera:
    """A pinhole: `matrix` (3 x 3) takes world directions to pixels, `position` is in metres."""

    matrix: Points
    position: Points
    forward: Points
    right: Points
    focal: float  # pixels
    centre: tuple[float, float]  # pixels

    def project(self, points: Points) -> tuple[Points, Points]:
        """Pixel positions (n x 2) and depths (n) of points (n x 3)."""
        q = (points - self.position) @ self.matrix.T
        return q[:, :2] / np.maximum(q[:, 2:], 1e-3), q[:, 2]


def camera(
    position: Points, centre: tuple[float, float], focal: float, pitch: float, roll: float
) -> Camera:
    """A camera at `position` that faces the world's y axis; angles in radians.

    centre: its principal point.
    """
    level, (u, v) = position * (1, 0, 1), centre
    fx, _, fz = (-level / math.sqrt(level @ level)).tolist()  # forward; (-fz, fx) is to the right
    cp, sp, cr, sr = math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    tilted = (
        (focal * cr, -focal * sr * cp - u * sp, -focal * sr * sp + u * cp),
        (focal * sr, focal * cr * cp - v * sp, focal * cr * sp + v * cp),
        (0.0, -sp, cp),
    )
    matrix = np.array([(c * fx - a * fz, -b, a * fx + c * fz) for a, b, c in tilted])
    forward, right = np.array([fx, 0.0, fz]), np.array([-fz, 0.0, fx])
    return Camera(matrix, position, forward, right, focal, centre)


@dataclass(frozen=True)
class Light:
    """Weather and time of day; colours are factors of a white surface, the sky's are 0..1."""

    weather: str
    sun: Points  # unit vector towards the sun
    sun_colour: Points
    ambient: Points
    sky_top: Points
    sky_low: Points
    clouds: float  # 0 none .. 1 closed
    haze: float  # 1 / metres
    lamps: float  # how much of the windows is lit from within


def sample_light(rng: np.random.Generator) -> Light:
    """Weather, the sun's place and colour, and the sky that goes with them."""
    name = list(_WEATHERS)[bisect(_ODDS, rng.random())]
    weather = _WEATHERS[name]
    azimuth = math.radians(rng.uniform(-110, 110))
    elevation = math.radians(rng.uniform(*weather.elevation))
    flat = math.cos(elevation)
    sun = np.array([math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat])
    varying = float(rng.uniform(0.1, 0.6))
    return Light(
        name,
        sun,
        sun_colour=np.asarray(weather.sun) * rng.uniform(0.9, 1.1),
        ambient=np.asarray(weather.ambient) * rng.uniform(0.9, 1.1),
        sky_top=np.minimum(np.asarray(weather.top) * rng.uniform(0.85, 1.12), 1.0),
        sky_low=np.minimum(np.asarray(weather.low) * rng.uniform(0.92, 1.04), 1.0),
        clouds=varying if weather.clouds is None else weather.clouds,
        haze=float(weather.haze * rng.uniform(0.7, 1.4)),
        lamps=float(weather.lamps * rng.uniform(0.5, 1.2)),
    )


def before_wall(at: Points, position: Points, b: Building) -> bool:
    """Whether the landmark cannot hide a point: it lies outside a wall that faces the camera."""
    eye_x, _, eye_z = position.tolist()
    beside = abs(eye_x) > b.width / 2 and math.copysign(1, eye_x) * at[0] > b.width / 2
    before = abs(eye_z) > b.depth / 2 and math.copysign(1, eye_z) * at[2] > b.depth / 2
    return bool(beside or before)
