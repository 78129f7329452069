"""Profiles: the scales at which the study is run, as YAML files."""

from collections.abc import Hashable
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from dagf import paths
from dagf.datasets.decode import ImageSpec
from dagf.errors import UserError
from dagf.model.backbone import BackboneSpec
from dagf.model.variants import VARIANTS
from dagf.study.config import STRICT, Count, Rate, TrainSpec, read_fields
from dagf.study.evaluation import EvaluationSpec
from dagf.toytown.generate import ToytownSpec

V = TypeVar("V", bound=Hashable)


def _distinct(values: tuple[V, ...]) -> tuple[V, ...]:
    """An arm that stands there twice would be compared with itself, a seed twice count as two."""
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice")
    return values


Names = Annotated[tuple[str, ...], AfterValidator(_distinct)]
Rates = Annotated[tuple[Rate, ...], AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
PyramidScale = Annotated[float, Field(gt=0, lt=10)]
Scales = Annotated[tuple[PyramidScale, ...], Field(min_length=1), AfterValidator(_distinct)]


@dataclass(frozen=True, config=STRICT)
class ArmPlan:
    """Arms, how each of them is trained, and the learning rates that each tries on validation.

    rates: none, and there is no choice: it is that of `training`.
    """

    training: TrainSpec
    arms: Names = ()
    rates: Rates = ()


@dataclass(frozen=True, config=STRICT)
class Scale:
    """What is measured at large scale: rendered distractors, rows up to which search is timed."""

    distractors: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=100)]


@dataclass(frozen=True, config=STRICT)
class Ladder:
    """Conditions: steps of backbones and of arms (in as many epochs as the arms have); of heads,
    the sizes of images (pixels), the numbers of landmarks that they learn from, and a generic
    backbone, at the largest size, that has not learned from drawings.
    """

    backbones: tuple[Count, ...]
    arms: tuple[Count, ...]
    sizes: tuple[Count, ...]
    landmarks: tuple[Count, ...]
    generic: BackboneSpec


@dataclass(frozen=True, config=STRICT)
class Trial:
    """A way of training an arm, tried on validation: the values of its training that it changes."""

    arm: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Profile:
    """A scale at which the study is run; the YAML files in `dagf/study/profiles` are ours.

    arms: the arms of the primary contrast. arm_training, rates: how they are trained end to end, or
    with the `last_stage` of a backbone that ends before it; None: as heads. heads: arms on the
    frozen maps of the backbones (no arms: every variant). backbone_training: of the backbone that
    all arms of a seed start from, under a neutral SPoC head (None: `backbone.weights` as they are).
    kept_backbones: that of a seed is the one in data/backbones (`dagf.study.backbones`). toytown:
    None where the profile is for photographs alone. off_the_shelf: arms to evaluate untrained, on a
    pretrained backbone. scales: of the test-time image pyramid. held_out: instances of a photograph
    folder, or of a training set without a validation split, kept for validation. training_set: a
    public set to train on (`dagf.datasets.public`). test_image: where test images have another
    size. earlier_cut: a node before that of `backbone`, of fewer channels and more cells, where 06
    compares heads again. further: whether 06 also asks what heads learn from, and of image
    pyramids, near-duplicates and re-ranking. whitening: the training set on whose whitening split a
    learned whitening is learned, '' for none. centred: whether the mean of the database's
    descriptors is taken out. scale: of 07. ladder: of 02 and 05. trials: of 02, by name: what was
    tried on validation landmarks before arms were registered. benchmarks, train_on, distractors:
    what the options of these names are where they are not given; paths are as seen from the
    profile's file.
    """

    name: str
    about: str
    backbone: BackboneSpec
    image: ImageSpec
    arms: Annotated[Names, Field(min_length=1)]
    seeds: Seeds
    arm_training: TrainSpec | None = None
    rates: Rates = ()
    last_stage: BackboneSpec | None = None
    heads: ArmPlan | None = None
    toytown: ToytownSpec | None = None
    backbone_training: TrainSpec | None = None
    kept_backbones: bool = False
    off_the_shelf: Names = ()
    scales: Scales = (1.0,)
    held_out: Annotated[int, Field(ge=1)] = 4
    training_set: str = ""
    test_image: ImageSpec | None = None
    earlier_cut: str = ""
    further: bool = True
    whitening: str = ""
    centred: bool = False
    scale: Scale | None = None
    ladder: Ladder | None = None
    trials: dict[str, Trial] = field(default_factory=dict)
    benchmarks: Names = ()
    train_on: Names = ()
    distractors: Names = ()

    def __post_init__(self) -> None:
        """Raise `ValueError` for backbones trained on drawings that do not fit what is asked."""
        if self.kept_backbones and self.backbone != BackboneSpec("small"):
            raise ValueError("kept_backbones are small ones: name no other backbone")
        if self.own_backbones and self.last_stage:
            raise ValueError("last_stage is for a pretrained backbone: leave backbone_training out")

    @property
    def frozen(self) -> bool:
        """Whether all arms are heads on frozen backbones."""
        return self.arm_training is None

    @property
    def depth(self) -> str:
        """How much of the network the primary arms train, in words."""
        if self.last_stage:
            return "with the last stage"
        return "heads on frozen maps" if self.frozen else "end to end"

    @property
    def own_backbones(self) -> bool:
        """Whether each seed has a backbone of its own, trained on drawings."""
        return self.kept_backbones or self.backbone_training is not None

    @property
    def evaluation(self) -> EvaluationSpec:
        """The size of the test images, and how they are described."""
        image = self.test_image or self.image
        return EvaluationSpec(image, self.scales, self.whitening, self.centred)

    @property
    def drawing(self) -> ToytownSpec:
        """The Toytown of this profile; a `UserError` where it is for photographs alone."""
        if self.toytown is None:
            raise UserError(
                f"profile {self.name} is for photographs: name their folder with --benchmark"
            )
        return self.toytown

    def plan(self, heads: bool = False) -> ArmPlan:
        """Return the arms that are trained as heads, or the arms of the primary contrast.

        Raises `UserError` where the profile has no heads.
        """
        if self.arm_training and not heads:
            return ArmPlan(self.arm_training, self.arms, self.rates)
        if self.heads is None:
            missing = "heads" if self.arm_training else "arm_training, or heads"
            raise UserError(f"profile {self.name} has no {missing}: nothing says how they train")
        every = self.heads.arms or tuple(name for name, one in VARIANTS.items() if not one.early)
        return replace(self.heads, arms=every if heads else self.arms)


def load_profile(name: str) -> Profile:
    """Return the profile of that name, or that in a YAML file of your own.

    Raises `UserError` for an unknown name (with the nearest one), field or type.
    """
    where = f"profile {name}"
    try:
        values = yaml.safe_load(paths.profile(name).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or no date
        raise UserError(f"{where} is not valid YAML: {str(error).splitlines()[0]}") from error
    return read_fields(Profile, values, where)


def weights_file(profile: str, given: str = "") -> Path | None:
    """Return the file of the backbone's weights: the `given` one, or the profile's, seen from it.

    None where they come with a package, or are drawn.
    """
    named = load_profile(profile).backbone.weights
    if given or named in ("none", "imagenet"):
        return Path(given) if given else None
    return paths.profile(profile).parent / named
