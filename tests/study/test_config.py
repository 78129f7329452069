"""Configurations: strict from plain values, profiles as files, a run's name from all of it."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagf import paths
from dagf.datasets.decode import ImageSpec
from dagf.errors import UserError
from dagf.files import content_hash
from dagf.model.backbone import BackboneSpec
from dagf.model.network import Variant
from dagf.model.variants import VARIANTS
from dagf.study.config import Mining, RunConfig, TrainSpec, read_fields
from dagf.study.profile import ArmPlan, Profile, load_profile
from tests.fixtures import PROFILE, configured, fails

FEW_QUERIES = {"steps": 2, "mining": {"queries": 4}, "accumulate": 3}
AT_LEAST = "it should be greater than or equal to"


def test_plain_values_become_the_dataclass() -> None:
    values = {"epochs": 3, "rate": 1, "loss_options": {"scale": 24}, "mining": {"queries": 50}}
    found = read_fields(TrainSpec, values, "here")
    assert found == TrainSpec(3, rate=1.0, loss_options={"scale": 24.0}, mining=Mining(50))
    # `scale: 24` in a profile is the run that `scale: 24.0` is.
    assert [type(one) for one in (found.rate, found.loss_options["scale"])] == [float, float]
    assert read_fields(TrainSpec, {"rate": "1e-3"}, "here").rate == 0.001  # YAML takes it for text


@pytest.mark.parametrize("name", paths.profile_names())
def test_the_profiles_we_ship(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert {"gem", "dagf"} <= set(profile.arms) <= set(VARIANTS)
    assert profile.heads is None or set(profile.heads.arms) <= set(VARIANTS)
    assert set(profile.off_the_shelf) <= set(VARIANTS)
    assert profile.scale is None or profile.scale.rows > profile.scale.distractors
    assert json.dumps(dataclasses.asdict(profile), allow_nan=False)
    assert {"smoke", "cpu", "gpu", "photographs", "paper"} <= set(paths.profile_names())


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "- a", "", "3", "!!python/object:os.system {}", "a: 2020-99-99"]
)
def test_a_broken_profile_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text)
    fails(r"profile .*broken\.yml", load_profile, str(path))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = plain | st.lists(plain, max_size=2) | st.dictionaries(st.text(max_size=5), plain)
places = st.sampled_from(
    [
        *((key,) for key in PROFILE),
        *(("arm_training", item.name) for item in dataclasses.fields(TrainSpec)),
        *(("toytown", "size"), ("image", "mode"), ("heads", "training"), ("scale", "rows")),
    ]
)
FEW = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(places, values)
def test_any_value_is_read_or_refused(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    path, whole = tmp_path / "mine.yaml", json.loads(json.dumps(PROFILE))
    within = whole.setdefault(place[0], {}) if place[1:] else whole
    within[place[-1]] = value
    path.write_text(yaml.safe_dump(whole))
    try:
        assert isinstance(load_profile(str(path)), Profile)
    except UserError as error:
        assert str(error).startswith(f"profile {path}")
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rat": 1}, "profile .*: rat: there is no such field"),
        ({"arm_training": {"rat": 1}}, r"profile .*: arm_training\.rat: there is no such field"),
        ({"arm_training": {"rate": "fast"}}, "rate: it should be a valid number, .* but is 'fast'"),
        ({"arm_training": {"rate": float("nan")}}, "rate: it should be a finite number"),
        ({"name": 5}, "name: it should be a valid string, but is 5"),
        ({"seeds": [1, 1.5]}, r"seeds\.1: it should be a valid integer"),
        ({"backbone": 3}, "backbone: it should"),
        ({"arms": None}, "profile .*: arms: Field required"),
        *(({name: []}, f"{name}: .* at least 1 item") for name in ("seeds", "arms", "scales")),
        ({"arms": ["gem", "dagf", "gem"]}, "arms: 'gem' stands there twice"),
        ({"seeds": [0, 1, 0]}, "seeds: 0 stands there twice"),
        ({"rates": [1e-3, 1e-3]}, r"rates: 0\.001 stands there twice"),
        ({"seeds": [-1]}, rf"seeds\.0: {AT_LEAST} 0, but is -1"),
        ({"image": {"size": 0}}, "profile .*: image size 0 is not a positive number"),
        ({"toytown": {"size": 4}}, "profile .*: Toytown: size is 4"),
        ({"scales": [1, 0]}, r"scales\.1: it should be greater than 0, but is 0"),
        ({"scale": {"distractors": 5, "rows": 10}}, rf"scale\.rows: {AT_LEAST} 100, but is 10"),
        ({"heads": {"arms": ["gem"]}}, "profile .*: heads.training: "),
        ({"arm_training": {"epochs": 0}}, f"arm_training.epochs: {AT_LEAST} 1, but is 0"),
        ({"arm_training": {"epochs": 10**12}}, "epochs: it should be less than or equal to"),
        ({"arm_training": {"rate": -1.0}}, rf"rate: {AT_LEAST} 0, but is -1\.0"),
        ({"arm_training": {"warmup": 1.5}}, r"warmup: it should be less than or equal to 1"),
        ({"arm_training": {"shrunk": 1.0}}, r"shrunk: it should be less than 1, but is 1\.0"),
        ({"arm_training": {"precision": "half"}}, "it should be 'float32' or 'bfloat16'"),
        ({"arm_training": {"mining": {"negatives": 0}}}, rf"mining\.negatives: {AT_LEAST} 1"),
        ({"arm_training": FEW_QUERIES}, "4 queries do not fill 2 steps of 3 batches"),
        ({"kept_backbones": True, "backbone": {"name": "resnet18"}}, "name no other backbone"),
        ({"last_stage": {"name": "resnet18"}}, "leave backbone_training out"),
    ],
)
def test_wrong_values(profile: Callable[..., str], changes: dict[str, Any], message: str) -> None:
    fails(message, load_profile, profile(**changes))


def test_cached_maps_cannot_be_shrunk() -> None:
    assert configured(shrunk=0.5)
    fails("heads on a frozen backbone read cached maps", configured, shrunk=0.5, frozen=True)


def test_plans_of_a_profile(profile: Callable[..., str]) -> None:
    assert load_profile(profile()).heads is None
    heads = {"training": {"epochs": 1, "steps": 2}, "rates": [1, 0.5]}
    plan = ArmPlan(TrainSpec(epochs=1, steps=2), (), (1.0, 0.5))
    both = load_profile(profile(heads=heads, rates=[2]))
    assert both.arm_training and not both.frozen
    assert both.plan() == ArmPlan(both.arm_training, both.arms, (2.0,))
    every = tuple(name for name in VARIANTS if name != "dagf-early")  # it stands in the backbone
    assert both.plan(heads=True) == replace(plan, arms=every)
    nothing = load_profile(profile(arm_training=None))
    fails("profile tiny has no arm_training, or heads", nothing.plan)
    alone = load_profile(profile(heads=heads, arm_training=None))
    assert alone.frozen
    assert alone.plan() == replace(plan, arms=alone.arms)


def test_a_run_is_named_by_everything_but_the_title() -> None:
    made = configured()
    values = json.loads(json.dumps(dataclasses.asdict(made)))
    del values["variant"]["title"]
    assert made.id == content_hash(values)
    assert replace(made, variant=replace(made.variant, title="another")).id == made.id
    assert configured(rate=0.5).id != configured(seed=1).id != made.id


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
training_specs = st.builds(
    TrainSpec,
    epochs=st.integers(1, 99),
    rate=st.floats(0, 100),
    loss_options=st.dictionaries(st.text(max_size=5), finite),
)
configs = st.builds(
    RunConfig,
    variant=st.sampled_from([*VARIANTS.values(), Variant("ünï", windows=(2,))]),
    backbone=st.builds(BackboneSpec, weights=st.text(max_size=9)),
    image=st.builds(ImageSpec, st.integers(1, 999), st.sampled_from(["longest", "squash"])),
    train=training_specs,
    data=st.text(max_size=9),
    seed=st.integers(0, 2**32),
    start=st.text(max_size=9),
    frozen=st.booleans(),
    recipe=st.text(max_size=9),
)


@given(configs)
def test_a_configuration_survives_its_file(made: RunConfig) -> None:
    read = read_fields(RunConfig, json.loads(json.dumps(dataclasses.asdict(made))), "file")
    assert read == made
    assert read.id == made.id
    assert len(made.id) == 12
