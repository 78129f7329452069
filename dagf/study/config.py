"""Every value of a run, as data: profiles are YAML files, a run's configuration is what its hash names.

A field that is not known is a mistake, never ignored: a misspelt value would otherwise run with the default.
"""

import dataclasses
import json
import sys
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from dagf.datasets.images import ImageSpec
from dagf.errors import UserError, choose, printable, shown
from dagf.files import canonical_json, content_hash
from dagf.model.backbone import BackboneSpec
from dagf.model.network import Variant
from dagf.study import profiles
from dagf.study.plain_yaml import read_yaml
from dagf.toytown.generate import ToytownSpec

C = TypeVar("C")
LARGEST = sys.float_info.max  # an integer may be larger
# Of what a network or a batch of images still fits in memory, far beyond what any study here asks for.
MOST_PIXELS = 4096  # a side
MOST_IMAGES = 2**16  # in a batch
MOST_IN_ALL = 10**8  # images of an epoch
MOST_DRAWN = 10**7  # of a Toytown's split
MOST_RATE = 100.0  # single precision has no number for a step at 1e300
# What pytorch-metric-learning has among its losses and miners, and what cannot learn from labels: parts, and one for
# pairs of views. (Other names are looked up, and their options, when the training begins.)
UNFIT = (
    "BaseMetricLossFunction",
    "BaseMiner",
    "EmbeddingRegularizerMixin",
    "VICRegLoss",
    "WeightRegularizerMixin",
)


def _check_most(what: str, value: float, most: float) -> None:
    if value > most:
        raise UserError(f"{what} is {shown(value)}, expected at most {most:g}")


def _check_drawn(what: str, spec: ToytownSpec) -> None:
    per_query = max(spec.test_landmarks, spec.validation_landmarks)
    _check_most(f"{what}: landmarks x views", per_query * spec.views, MOST_DRAWN)
    _check_most(
        f"{what}: train_landmarks x train_views",
        spec.train_landmarks * spec.train_views,
        MOST_DRAWN,
    )
    _check_most(
        f"{what}: distractors", max(spec.distractors, spec.validation_distractors), MOST_DRAWN
    )


@dataclass(frozen=True)
class Mining:
    """Tuples of an epoch: `queries` pairs, each with the `negatives` hardest of a pool of `pool` images."""

    queries: int = 2000
    pool: int = 22000
    negatives: int = 5


@dataclass(frozen=True)
class TrainSpec:
    """How a network is trained: `epochs` times `steps` batches of `landmarks` x `views` images.

    loss, miner: names of `dagf.model.losses`, with their options. rate: of AdamW, warmed up over
    the first `warmup` share of the steps, then a cosine to 0 or, with a `decay`, times exp(-decay) an epoch. shrunk:
    the share of the steps, from the first, whose images are shrunk to two thirds of their side: most is learned from
    them, in half the time (progressive resizing). augmentation: a name of `dagf.study.sources.AUGMENTATIONS`.
    precision: of the network's forward and backward pass. accumulate: batches whose gradients make one step. mining:
    an epoch's batches are its tuples in equal parts, in place of landmarks and views (`dagf.study.mining`).
    """

    epochs: int = 6
    steps: int = 50
    landmarks: int = 24
    views: int = 4
    rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    shrunk: float = 0.0
    loss: str = "CosFaceLoss"
    loss_options: dict[str, float] = field(default_factory=dict)
    miner: str = ""
    miner_options: dict[str, float] = field(default_factory=dict)
    augmentation: str = "photograph"
    decay: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    accumulate: int = 1
    mining: Mining | None = None

    def __post_init__(self) -> None:
        """Raises `UserError` for a training of nothing or of too much, and for tuples that fill no batches equally."""
        counts = {
            name: getattr(self, name)
            for name in ("epochs", "steps", "landmarks", "views", "accumulate")
        }
        for name, value in (
            counts | (dataclasses.asdict(self.mining) if self.mining else {})
        ).items():
            if value < 1:
                raise UserError(f"training: {name} is {value}, expected at least 1")
        _check_most("training: landmarks x views", self.landmarks * self.views, MOST_IMAGES)
        images = self.steps * self.accumulate * self.landmarks * self.views
        _check_most("training: steps x accumulate x landmarks x views", images, MOST_IN_ALL)
        _check_most("training: epochs", self.epochs, MOST_IN_ALL)
        for name, value in (dataclasses.asdict(self.mining) if self.mining else {}).items():
            _check_most(f"training: {name}", value, MOST_IN_ALL)
        for name in ("rate", "weight_decay", "decay"):
            if getattr(self, name) < 0:
                raise UserError(f"training: {name} is {getattr(self, name):g}, expected 0 or more")
            _check_most(f"training: {name}", getattr(self, name), MOST_RATE)
        if not 0 <= self.warmup <= 1:
            raise UserError(
                f"training: warmup is {self.warmup:g}, expected a share of the steps, from 0 to 1"
            )
        if not 0 <= self.shrunk < 1:  # the last steps are at the size that is judged
            raise UserError(
                f"training: shrunk is {self.shrunk:g}, expected a share of the steps from 0 to below 1"
            )
        if self.mining and self.mining.queries % (self.steps * self.accumulate):
            raise UserError(
                f"training: {self.mining.queries} queries do not fill {self.steps} steps of {self.accumulate} batches "
                "equally: queries must be a multiple of steps times accumulate"
            )
        for kind, name, known in (
            ("loss", self.loss, "SupConLoss"),
            ("miner", self.miner, "MultiSimilarityMiner"),
        ):
            if name in UNFIT:
                raise UserError(
                    f"training: {kind} is {name}, which learns from no labels: name {known}, for instance"
                )
        if self.mining and self.miner:
            raise UserError("training: mining chooses the pairs itself: leave miner out")


@dataclass(frozen=True)
class RunConfig:
    """All that decides what a trained network is; two equal configurations are one run.

    data: the hash of the training and validation images. start: the run whose weights the backbone starts
    from ('' for `backbone.weights`). frozen: only the head is trained, on cached feature maps.
    """

    variant: Variant
    backbone: BackboneSpec
    image: ImageSpec
    train: TrainSpec
    data: str
    seed: int
    start: str = ""
    frozen: bool = False
    recipe: str = ""

    def __post_init__(self) -> None:
        """Raises `UserError` for images shrunk where cached maps are read."""
        if self.frozen and self.train.shrunk:
            raise UserError(
                "training: shrunk is for images; heads on a frozen backbone read its cached maps"
            )

    @property
    def id(self) -> str:
        """The run's name: 12 hex digits of the hash of everything above but the variant's title."""
        values = dataclasses.asdict(self)
        del values["variant"]["title"]
        return content_hash(values)


@dataclass(frozen=True)
class HeadTraining:
    """Many arms as heads on the frozen maps of the same backbones: too many to train each of them end to end.

    arms: none listed, every variant. rates: learning rates, the validation trials that every arm gets.
    """

    training: TrainSpec
    arms: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """What is measured at large scale: rendered distractors, and the rows up to which search is timed."""

    distractors: int
    rows: int

    def __post_init__(self) -> None:
        """Raises `UserError` for fewer rows than can be searched at several sizes."""
        if self.distractors < 0 or self.rows < 100:
            raise UserError("scale: expected 0 distractors or more, and 100 rows or more")


@dataclass(frozen=True)
class Profile:
    """A scale at which the study is run; the YAML files beside this module are the ones we ship.

    toytown: the embedded benchmark, None where the profile is for photographs alone. backbone_training: for
    the backbone that all arms of one seed start from, trained under a neutral SPoC head (None:
    `backbone.weights` as they are). arm_training: what each arm gets. arms: the variants to train. rates: their
    validation trials, learning rates of which each arm takes its best (none: that of `arm_training`). sweep: further
    arms on frozen maps. shelf: those to judge off the shelf, on a pre-trained backbone. scales: of the test-time image
    pyramid. held_out: instances of a photograph folder, or of a training set without a validation split, kept for
    validation. training_set: a public set to train on (`dagf.datasets.training_sets`). test_image: of the test
    images, where they are not as large as those of the training. whitening: the training set on whose whitening split a
    learned whitening of the descriptors to be judged is learned ('': none); of no city that is tested on. scale: for
    07.
    """

    name: str
    about: str
    backbone: BackboneSpec
    image: ImageSpec
    arm_training: TrainSpec
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    toytown: ToytownSpec | None = None
    backbone_training: TrainSpec | None = None
    rates: tuple[float, ...] = ()
    heads: HeadTraining | None = None
    off_the_shelf: tuple[str, ...] = ()
    frozen: bool = False
    scales: tuple[float, ...] = (1.0,)
    held_out: int = 4
    training_set: str = ""
    test_image: ImageSpec | None = None
    whitening: str = ""
    scale: Scale | None = None

    @property
    def evaluation_image(self) -> ImageSpec:
        """The size of the test images."""
        return self.test_image or self.image

    @property
    def drawing(self) -> ToytownSpec:
        """The Toytown of this profile; a `UserError` where it is for photographs alone."""
        if self.toytown is None:
            raise UserError(
                f"profile {self.name} is for photographs: name their folder with --benchmark"
            )
        return self.toytown

    def __post_init__(self) -> None:
        """Raises `UserError` where there is nothing to run, or more than a memory holds."""
        this = f"profile {' '.join(self.name.split())[:80]}"
        for name in ("arms", "seeds", "scales"):
            if not getattr(self, name):
                raise UserError(f"{this}: {name} is empty, expected at least one")
        # An arm that stands there twice would be compared with itself, a seed twice count as two.
        for name in ("arms", "seeds", "scales", "rates", "off_the_shelf"):
            twice = [value for value, count in Counter(getattr(self, name)).items() if count > 1]
            if twice:
                raise UserError(f"{this}: {name} has {shown(twice[0])} twice")
        for rate in (*self.rates, *(self.heads.rates if self.heads else ())):
            _check_most(f"{this}: a rate", rate, MOST_RATE)
        _check_most(
            f"{this}: the image's size",
            max(self.image.size, self.evaluation_image.size),
            MOST_PIXELS,
        )
        if self.toytown:
            _check_drawn(f"{this}: toytown", self.toytown)
        if not all(0 < scale < 10 for scale in self.scales):
            raise UserError(f"{this}: scales are factors of the image's size, above 0 and below 10")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise UserError(f"{this}: seeds are whole numbers from 0 to {2**32 - 1}")


def load_profile(name: str) -> Profile:
    """The profile of that name, or that of a YAML file of your own.

    Raises `UserError` for an unknown name (with the nearest one), field or type.
    """
    return from_mapping(
        Profile, read_yaml(profiles.find(name), f"profile {name}"), f"profile {name}"
    )


def from_mapping(kind: type[C], values: Any, where: str) -> C:
    """A dataclass from plain values, strictly: unknown, missing or wrongly typed fields raise `UserError`."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected fields of {kind.__name__}, got {shown(values)}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        choose(f"field in {where}", key if isinstance(key, str) else shown(key), known)
    missing = [
        name
        for name, item in known.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{where}: '{missing[0]}' is missing")
    return kind(
        **{key: _convert(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(part for part in arguments if part is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        named = {key if isinstance(key, str) else shown(key): one for key, one in value.items()}
        return {
            key: _convert(arguments[1], one, f"{where}.{printable(key)[:80]}")
            for key, one in named.items()
        }
    if (
        hint is float
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= LARGEST
    ):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    remedy = (
        " (YAML takes 1e-3 for a text: write 1.0e-3)"
        if hint is float and isinstance(value, str)
        else ""
    )
    raise UserError(
        f"{where} is {shown(value)}, expected {getattr(hint, '__name__', hint)}{remedy}"
    )


def to_json(config: RunConfig) -> dict[str, Any]:
    """The configuration as JSON holds it (tuples become lists)."""
    plain: dict[str, Any] = json.loads(canonical_json(dataclasses.asdict(config)))
    return plain
