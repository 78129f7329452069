"""Configurations: strict from plain values, profiles as files, a run's name from everything that decides it."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses, miners

from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec
from dagf.model.losses import make_loss, make_miner
from dagf.model.network import Variant
from dagf.model.variants import VARIANTS
from dagf.study import profiles
from dagf.study.config import (
    MOST_RATE,
    UNFIT,
    HeadTraining,
    Mining,
    Profile,
    RunConfig,
    TrainSpec,
    from_mapping,
    load_profile,
    to_json,
)
from tests.fixtures import configured


@dataclass(frozen=True)
class Inner:
    width: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.1
    on: bool = False
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1,)
    options: dict[str, float] = field(default_factory=dict)
    inner: Inner = Inner()
    maybe: Inner | None = None
    word: str | None = None


def outer(**values: Any) -> Outer:
    return from_mapping(Outer, {"name": "x", **values}, "here")


def test_plain_values_become_the_dataclass() -> None:
    found = outer(
        rate=2,
        on=True,
        mode="b",
        sizes=[3, 4],
        options={"margin": 1},
        inner={"width": 5},
        maybe={},
        word=None,
    )
    assert found == Outer("x", 2.0, True, "b", (3, 4), {"margin": 1.0}, Inner(5), Inner(), None)
    assert isinstance(found.rate, float)
    assert isinstance(found.options["margin"], float)
    assert outer(maybe=None).maybe is None
    assert outer(word="w").word == "w"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "unknown field in here 'rat': did you mean 'rate'"),
        ({1: 1}, "unknown field in here '1'"),
        ({"inner": {"widht": 1}}, "unknown field in here: inner 'widht': did you mean 'width'"),
        ({"maybe": {"widht": 1}}, "did you mean 'width'"),
        ({"rate": "fast"}, "here: rate is 'fast', expected float"),
        ({"rate": True}, "here: rate is True, expected float"),
        ({"rate": float("nan")}, "here: rate is nan"),
        ({"rate": float("inf")}, "here: rate is inf"),
        ({"rate": None}, "here: rate is None"),
        ({"on": 1}, "here: on is 1, expected bool"),
        ({"name": 5}, "here: name is 5, expected str"),
        ({"mode": "c"}, "here: mode is 'c'"),
        ({"mode": ["a"]}, "here: mode is"),
        ({"sizes": 3}, "here: sizes is 3"),
        ({"sizes": "34"}, "here: sizes is '34'"),
        ({"sizes": [1.5]}, "here: sizes is 1.5, expected int"),
        ({"options": {"margin": "big"}}, "here: options.margin is 'big', expected float"),
        ({"options": [1]}, "here: options is"),
        ({"inner": 3}, "here: inner: expected fields of Inner, got 3"),
        ({"word": 3}, "here: word is 3"),
    ],
)
def test_anything_else_is_refused_in_one_line(values: dict[Any, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_mapping(Outer, {"name": "x", **values}, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match="here: 'name' is missing"):
        from_mapping(Outer, {}, "here")
    with pytest.raises(UserError, match="here: expected fields of Outer, got None"):
        from_mapping(Outer, None, "here")


@pytest.mark.parametrize("name", profiles.names())
def test_the_profiles_we_ship(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert set(profile.arms) <= set(VARIANTS)
    assert {"gem", "dagf"} <= set(profile.arms)
    assert len(set(profile.seeds)) == len(profile.seeds) > 0
    assert json.dumps(dataclasses.asdict(profile), allow_nan=False)
    assert len(set(profile.rates)) == len(profile.rates)
    if profile.heads:
        assert set(profile.heads.arms) <= set(VARIANTS)
        assert len(set(profile.heads.rates)) == len(profile.heads.rates)


def test_there_is_a_profile_for_every_reader() -> None:
    assert {"smoke", "cpu", "gpu", "photographs", "paper", "paper-gldv2"} <= set(profiles.names())


def test_an_unknown_profile_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown profile 'smok': did you mean 'smoke'"):
        load_profile("smok")


def test_a_profile_of_ones_own(profile: Callable[..., str], tmp_path: Path) -> None:
    mine = load_profile(profile(seeds=[7], scales=[1, 0.5]))
    assert isinstance(mine, Profile)
    assert mine.seeds == (7,)
    assert mine.scales == (1.0, 0.5)
    assert mine.toytown.size == 48
    assert mine.backbone_training is not None
    assert mine.backbone_training.steps == 1
    assert load_profile(profile(backbone_training=None)).backbone_training is None
    with pytest.raises(UserError, match=r"profile .*nowhere\.yaml does not exist"):
        load_profile(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: b: c",
        "\ta",
        "- a",
        "",
        "3",
        "!!python/object:os.system {}",
        "\x00",
        "a: 2020-99-99",
    ],
)
def test_a_broken_profile_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"profile .*broken\.yml") as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["epochs", "steps", "landmarks", "views"])
def test_a_training_of_nothing_is_refused(profile: Callable[..., str], name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is 0"):
        load_profile(profile(arm_training={name: 0}))


def test_a_profile_without_seeds_or_arms_is_refused(profile: Callable[..., str]) -> None:
    for field_name in ("seeds", "arms", "scales"):
        with pytest.raises(UserError, match=field_name):
            load_profile(profile(**{field_name: []}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"size": 60000}}, "the image's size is 60000, expected at most 4096"),
        ({"test_image": {"size": 60000}}, "the image's size is 60000"),
        (
            {"arm_training": {"views": 5 * 10**9}},
            "landmarks x views is 120000000000, expected at most 65536",
        ),
        ({"arm_training": {"steps": 10**9}}, "steps x accumulate x landmarks x views is"),
        ({"arm_training": {"epochs": 10**12}}, "epochs is 1000000000000, expected at most 1e\\+08"),
        ({"arm_training": {"mining": {"pool": 10**12}}}, "pool is 1000000000000"),
        ({"arm_training": {"rate": 10**300}}, "rate is 1e\\+300, expected at most 100"),
        ({"rates": [10**300]}, "a rate is 1e\\+300, expected at most 100"),
        ({"heads": {"training": {}, "rates": [10**300]}}, "a rate is 1e\\+300"),
        (
            {"toytown": {"views": 5 * 10**9}},
            "toytown: landmarks x views is 350000000000, expected at most 1e\\+07",
        ),
        ({"toytown": {"train_landmarks": 10**9}}, "toytown: train_landmarks x train_views is"),
        ({"toytown": {"distractors": 10**9}}, "toytown: distractors is 1000000000"),
    ],
)
def test_what_no_memory_holds_is_refused(
    profile: Callable[..., str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_profile(profile(**changes))


@pytest.mark.parametrize("change", [{"loss": "VICRegLoss"}, {"miner": "BaseMiner"}])
def test_what_learns_from_no_labels_is_refused(
    profile: Callable[..., str], change: dict[str, str]
) -> None:
    with pytest.raises(
        UserError, match=r"which learns from no labels: name (SupConLoss|MultiSimilarityMiner), for"
    ):
        load_profile(profile(arm_training=change))


@pytest.mark.filterwarnings("ignore")  # of the library: what it uses will go
def test_those_are_all_that_cannot_learn() -> None:
    """Of what can be made without options, as they are named in the library."""
    descriptors = torch.nn.functional.normalize(
        torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    )
    labels = torch.arange(4).repeat_interleave(3)
    unfit = set()
    for name, one in [*vars(losses).items(), *vars(miners).items()]:
        make = make_miner if hasattr(miners, name) else partial(make_loss, classes=4, dimensions=8)
        try:
            made = make(name) if inspect.isclass(one) else None
        except UserError:
            continue  # it needs options, and says so
        try:
            _ = made and made(descriptors, labels)
        except (NotImplementedError, TypeError, ValueError):
            unfit.add(name)
    assert unfit == set(UNFIT)


def test_mappings_are_not_merged(tmp_path: Path) -> None:
    """Nine merges of nine merges of ...: of a few hundred bytes gigabytes."""
    lines = [
        "l0: &l0 {k: 1}",
        *(f"l{n}: &l{n} {{<<: [{', '.join([f'*l{n - 1}'] * 9)}]}}" for n in range(1, 10)),
    ]
    (tmp_path / "merged.yaml").write_text("\n".join(lines))
    with pytest.raises(
        UserError,
        match=r"merged\.yaml is not valid YAML: it merges mappings \(<<\): write the values",
    ):
        load_profile(str(tmp_path / "merged.yaml"))


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if dataclasses.is_dataclass(value):
        names = [item.name for item in dataclasses.fields(value)]
        return [leaf for name in names for leaf in leaves(getattr(value, name), (*path, name))]
    return [(path, value)]


def other(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value + 0.5
        case str():
            return "squash" if value == "longest" else value + "x"
        case tuple():
            return (*value, 9)
        case dict():
            return {**value, "more": 1.0}
    return Mining()  # the one field that may be None


def changed(made: Any, path: tuple[str, ...], value: Any) -> Any:
    if len(path) == 1:
        return replace(made, **{path[0]: value})
    return replace(made, **{path[0]: changed(getattr(made, path[0]), path[1:], value)})


@pytest.mark.parametrize(("path", "value"), leaves(configured()), ids=lambda value: str(value)[:40])
def test_every_field_is_in_the_name_but_the_title(path: tuple[str, ...], value: Any) -> None:
    before = configured()
    renamed = changed(before, path, other(value)).id != before.id
    assert renamed == (path != ("variant", "title"))


finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
training_specs = st.builds(
    TrainSpec,
    epochs=st.integers(1, 99),
    rate=st.floats(0, MOST_RATE),
    loss_options=st.dictionaries(st.text(max_size=5), finite),
)
configs = st.builds(
    RunConfig,
    variant=st.sampled_from([*VARIANTS.values(), Variant("ünï", windows=(2,))]),
    backbone=st.builds(BackboneSpec, weights=st.text(max_size=9)),
    image=st.builds(ImageSpec, st.integers(1, 999), st.sampled_from(["longest", "squash"])),
    train=training_specs,
    data=st.text(max_size=9),
    seed=st.integers(0),
    frozen=st.booleans(),
)


@given(configs)
def test_a_configuration_survives_its_file(made: RunConfig) -> None:
    read = from_mapping(RunConfig, json.loads(json.dumps(to_json(made))), "file")
    assert read == made
    assert read.id == made.id
    assert len(made.id) == 12


def test_whole_numbers_and_floats_are_one_value() -> None:
    """`scale: 24` in a profile is the run that `scale: 24.0` is."""
    one, two = (
        from_mapping(TrainSpec, {"rate": 1, "loss_options": {"scale": value}}, "x")
        for value in (24, 24.0)
    )
    assert replace(configured(), train=one).id == replace(configured(), train=two).id


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": -1.0}, "rate is -1, expected 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected 0 or more"),
        ({"warmup": 1.5}, "warmup is 1.5, expected a share of the steps"),
    ],
)
def test_a_training_that_makes_no_sense(values: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainSpec(**values)


def test_scales_and_sizes_that_make_no_sense(profile: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="scales are factors of the image's size, above 0"):
        load_profile(profile(scales=[1, 0]))
    with pytest.raises(UserError, match="expected 0 distractors or more, and 100 rows or more"):
        load_profile(profile(scale={"distractors": 5, "rows": 10}))


def test_a_sweep_in_a_profile(profile: Callable[..., str]) -> None:
    assert load_profile(profile()).heads is None
    training = {"epochs": 1, "steps": 2}
    found = load_profile(profile(heads={"training": training, "rates": [1, 0.5]}, rates=[2])).heads
    assert found == HeadTraining(TrainSpec(epochs=1, steps=2), (), (1.0, 0.5))
    with pytest.raises(UserError, match="sweep: 'training' is missing"):
        load_profile(profile(heads={"arms": ["gem"]}))
    with pytest.raises(UserError, match="steps is 0"):
        load_profile(profile(heads={"training": {"steps": 0}}))


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_the_last_steps_are_at_full_size(share: float) -> None:
    with pytest.raises(UserError, match="shrunk"):
        TrainSpec(shrunk=share)


def test_cached_maps_cannot_be_shrunk() -> None:
    spec = TrainSpec(shrunk=0.5)
    RunConfig(VARIANTS["dagf"], BackboneSpec(), ImageSpec(32), spec, "data", 0)
    with pytest.raises(UserError, match="cached maps"):
        RunConfig(VARIANTS["dagf"], BackboneSpec(), ImageSpec(32), spec, "data", 0, frozen=True)
