"""From where and in what light a Toytown photograph is taken."""

import math
from dataclasses import dataclass

import numpy as np

from dagf.toytown.buildings import Building, Points

WEATHERS = ("clear", "overcast", "haze", "golden", "dusk")
_WEATHER_ODDS = (0.52, 0.27, 0.05, 0.12, 0.04)
_BLUE, _GREY = np.array([0.36, 0.55, 0.82]), np.array([0.70, 0.73, 0.77])


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
    """A camera at `position` that faces the world's y axis; `centre` is its principal point; angles in radians."""
    level = position * (1, 0, 1)
    forward = -level / math.sqrt(level @ level)
    right = np.array([-forward[2], 0.0, forward[0]])
    look = np.stack([right, (0.0, -1.0, 0.0), forward])
    cp, sp, cr, sr = math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cp, sp], [0, -sp, cp]]
    )
    k = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1.0]])
    return Camera(k @ tilt @ look, position, forward, right, focal, centre)


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
    weather = WEATHERS[int(rng.choice(len(WEATHERS), p=_WEATHER_ODDS))]
    azimuth = math.radians(rng.uniform(-110, 110))
    elevation = math.radians(
        rng.uniform(8, 20) if weather in ("golden", "dusk") else rng.uniform(25, 62)
    )
    flat = math.cos(elevation)
    sun = np.array([math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat])
    cover = float(rng.uniform(0.1, 0.6))  # for the weathers whose clouds vary
    sun_colour, ambient, top, low, cover, haze, lamps = {
        "clear": (
            (0.58, 0.54, 0.48),
            (0.60, 0.62, 0.66),
            _BLUE,
            (0.80, 0.86, 0.92),
            cover,
            0.0012,
            0.0,
        ),
        "overcast": ((0.12, 0.12, 0.12), (0.80, 0.82, 0.85), _GREY, 1.12 * _GREY, 0.9, 0.003, 0.0),
        "haze": (
            (0.34, 0.32, 0.29),
            (0.58, 0.58, 0.58),
            1.05 * _GREY,
            1.14 * _GREY,
            0.5,
            0.007,
            0.0,
        ),
        "golden": (
            (0.70, 0.54, 0.36),
            (0.58, 0.56, 0.58),
            0.9 * _BLUE,
            (0.96, 0.80, 0.60),
            cover,
            0.003,
            0.05,
        ),
        "dusk": (
            (0.22, 0.16, 0.12),
            (0.52, 0.52, 0.58),
            0.5 * _BLUE,
            (0.66, 0.48, 0.44),
            0.4,
            0.003,
            0.42,
        ),
    }[weather]
    strength = rng.uniform(0.9, 1.1)
    return Light(
        weather,
        sun,
        np.asarray(sun_colour) * strength,
        np.asarray(ambient) * rng.uniform(0.9, 1.1),
        np.clip(np.asarray(top) * rng.uniform(0.85, 1.12), 0, 1),
        np.clip(np.asarray(low) * rng.uniform(0.92, 1.04), 0, 1),
        float(cover),
        float(haze * rng.uniform(0.7, 1.4)),
        float(lamps * rng.uniform(0.5, 1.2)),
    )


def before_wall(at: Points, position: Points, b: Building) -> bool:
    """Whether a point cannot be hidden by the landmark: it lies outside a wall that faces the camera."""
    eye_x, _, eye_z = position.tolist()
    beside = abs(eye_x) > b.width / 2 and math.copysign(1, eye_x) * at[0] > b.width / 2
    return bool(
        beside or (abs(eye_z) > b.depth / 2 and math.copysign(1, eye_z) * at[2] > b.depth / 2)
    )
