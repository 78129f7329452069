"""Toytown's buildings: flat faces that look outwards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagf.toytown.buildings import make_twin, parts_of, sample_building


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), ordinary=st.booleans(), twin=st.booleans())
def test_every_building_is_a_sound_body(seed: int, ordinary: bool, twin: bool) -> None:
    rng = np.random.default_rng(seed)
    building = sample_building(rng, ordinary)
    if twin:
        building = make_twin(building, rng)
    for group in parts_of(building):
        for part in group:
            assert part.faces or part.radius > 0
            for face in part.faces:
                assert np.linalg.norm(face.normal) == pytest.approx(1)
                assert np.abs((face.polygon - face.rect[0]) @ face.normal).max() < 1e-6  # planar
                assert (face.rect.mean(0) - part.centre) @ face.normal > -1e-9  # it faces outwards
