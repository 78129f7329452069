"""Photographs of Toytown: their landmarks, scales, places, occlusion and masks."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagf.toytown import scene


def test_landmarks_of_the_splits_are_disjoint() -> None:
    numbers = product([5], scene.STREAMS.values(), range(40))
    assert len({scene.landmark_building(*one) for one in numbers}) == 4 * 40


def test_a_quarter_of_the_landmarks_has_a_twin() -> None:
    twins = [scene.twin_of(number) for number in range(80)]
    assert sum(twin >= 0 for twin in twins) == 20
    assert all(scene.twin_of(twin) == number for number, twin in enumerate(twins) if twin >= 0)


def test_views_keep_their_ranges_and_have_no_centre_bias() -> None:
    which = 3, scene.STREAMS["validation"]
    shots = [scene.photograph(*which, number, 1, 48, "database") for number in range(120)]
    scales = np.array([shot.scale for shot in shots])
    assert scene.SCALES[0] <= scales.min() < 0.06
    assert 0.35 < scales.max() <= scene.SCALES[1]
    centres = np.array([((s.box[0] + s.box[2]) / 96, (s.box[1] + s.box[3]) / 96) for s in shots])
    assert np.abs(centres.mean(0) - 0.5).max() < 0.08  # no side is preferred ...
    small = centres[scales < 0.10]  # a large landmark cannot be far from the middle
    # ... and the middle quarter of the image holds little more than its share of them (a landmark
    # of a tenth of the image, wholly inside and uniformly placed, would be there in half of all
    # cases; a centred one always).
    assert ((np.abs(small - 0.5) < 0.25).all(1)).mean() < 0.5
    assert np.mean([shot.visible < 0.7 for shot in shots]) > 0.1  # occlusion happens
    assert np.mean([shot.clutter > 0.1 for shot in shots]) > 0.3
    azimuths = np.array([shot.azimuth for shot in shots])
    assert azimuths.min() < -55
    assert azimuths.max() > 55


@settings(max_examples=25)
@given(
    landmark=st.integers(0, 5000),
    view=st.integers(0, 5000),
    role=st.sampled_from(["train", "database", "query"]),
)
def test_any_photograph_is_consistent(landmark: int, view: int, role: str) -> None:
    shot = scene.photograph(9, scene.STREAMS["train"], landmark, view, 48, role)
    assert shot.image.shape == (48, 48, 3)
    assert shot.image.std() > 3
    assert shot.scale == pytest.approx(shot.mask.mean())
    assert shot.scale + shot.clutter <= 1
    x1, y1, x2, y2 = shot.box
    assert shot.mask[y1:y2, x1:x2].sum() == shot.mask.sum()
    assert 0 < shot.visible <= 1
