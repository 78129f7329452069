"""Every value that decides a trained network, and how such values are read from a file."""

import re
from dataclasses import asdict, field, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dagf.datasets.benchmark import first_mistake
from dagf.datasets.decode import ImageSpec
from dagf.errors import UserError
from dagf.files import content_hash
from dagf.model.backbone import BackboneSpec
from dagf.model.network import Variant

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(ge=1, le=10**8)]
Rate = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True, config=STRICT)
class Mining:
    """Tuples of an epoch: `queries` pairs, each with its hardest negatives of a pool of images."""

    queries: Count = 2000
    pool: Count = 22000
    negatives: Count = 5


@dataclass(frozen=True, config=STRICT)
class TrainSpec:
    """How a network is trained: `epochs` times `steps` batches of `landmarks` x `views` images.

    loss: a name of `dagf.model.losses`, with its options. rate: of AdamW, warmed up over the first
    `warmup` share of the steps, then a cosine to 0 or, with a `decay`, times exp(-decay) an epoch.
    head_rate: the rate of the head's parameters, as a multiple of it. shrunk: the share of the
    steps, from the first, whose images are shrunk to two thirds of their side: most is learned from
    them, in half the time (progressive resizing). augmentation: a name of
    `dagf.study.sampling.AUGMENTATIONS`. precision: of the backbone's forward and backward pass, on
    a machine that has it. accumulate: batches whose gradients make one step. mining: an epoch's
    batches are its tuples in equal parts, in place of landmarks and views (`dagf.study.sampling`).
    """

    epochs: Count = 6
    steps: Count = 50
    landmarks: Count = 24
    views: Count = 4
    rate: Rate = 1e-3
    head_rate: Rate = 1.0
    weight_decay: Rate = 0.05
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    shrunk: Annotated[float, Field(ge=0, lt=1)] = 0.0  # the last steps are at full size
    loss: str = "CosFaceLoss"
    loss_options: dict[str, float] = field(default_factory=dict)
    augmentation: str = "photograph"
    decay: Rate = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: Count = 1
    mining: Mining | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for tuples that do not fill the batches."""
        if self.mining and self.mining.queries % self.batches:
            raise ValueError(
                f"{self.mining.queries} queries do not fill {self.steps} steps of {self.accumulate}"
                " batches equally: queries must be a multiple of steps times accumulate"
            )

    @property
    def batches(self) -> int:
        """The number of batches of an epoch."""
        return self.steps * self.accumulate


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """All that decides what a trained network is; two equal configurations are one run.

    data: the hash of the training and validation images. start: the `weights_id` of the run whose
    backbone this one starts from, '' for `backbone.weights`. frozen: only the head is trained, on
    cached feature maps. recipe: the hash of the code that trains.
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
        """Raise `UserError` for images shrunk where cached maps are read."""
        if self.frozen and self.train.shrunk:
            raise UserError("shrunk is for images: heads on a frozen backbone read cached maps")

    @property
    def id(self) -> str:
        """The run's name: the hash of everything above but the variant's title."""
        values = asdict(self)
        del values["variant"]["title"]
        return content_hash(values)

    @property
    def start_id(self) -> str:
        """What names the weights that the network starts from: a run's, a file's or a seed's."""
        return self.start or self._drawn(self.backbone)

    @property
    def maps_id(self) -> str:
        """The same of the backbone without its last stage, which reads the maps before it."""
        return self.start or self._drawn(replace(self.backbone, stage=()))

    def _drawn(self, backbone: BackboneSpec) -> str:
        return content_hash(backbone if backbone.pretrained else [backbone, self.seed])


def read_fields(kind: type[T], values: Any, where: str) -> T:
    """Return a dataclass made of plain values, as YAML and JSON hold them.

    Raises `UserError`, with `where` and the field, for one that is unknown, missing or wrong.
    """
    try:
        adapter = TypeAdapter(list[kind], config=STRICT)  # type: ignore[valid-type]
        return adapter.validate_python([values])[0]
    except (ValidationError, UserError) as error:  # the latter: of a dataclass that checks itself
        said = re.sub(r"^0(\.|: )", "", first_mistake(error))  # its place in our list
        raise UserError(f"{where}: {said}".replace("\n", " ")) from error
