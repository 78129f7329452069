"""What a training step reads: augmented images for a whole network, cached maps for a head on a frozen backbone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import v2

from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec, load_image, to_input
from dagf.datasets.training_sets import TrainingSet
from dagf.errors import UserError, choose
from dagf.files import content_hash
from dagf.model.network import MapEncoder, RetrievalNet
from dagf.retrieval.extract import benchmark_scores, extract
from dagf.retrieval.feature_maps import cache_benchmark, cache_maps
from dagf.retrieval.search import Descriptors
from dagf.study.config import RunConfig

KEEP_IN_MEMORY = (
    4 * 2**30
)  # bytes of decoded training images kept; larger sets are decoded batch by batch

# No mirror images: writing on a package and the plan of a building tell instances apart.
AUGMENTATIONS: dict[str, Callable[[int], v2.Transform]] = {
    "none": lambda size: v2.Identity(),
    "photograph": lambda size: v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.85, 1.18), antialias=True),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.2),
        ]
    ),
}


class Source(Protocol):
    """Where a training loop gets its batches, what it trains, and how it validates."""

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """The input of the training images `rows`."""

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        """The descriptors (len(rows), D) of training images, as they are."""

    def trained(self, net: RetrievalNet) -> nn.Module:
        """The part of the network that is trained: input -> descriptors."""

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        """The scores (queries, rows) of the validation benchmark."""


class ImageSource:
    """Images, augmented: the whole network is trained."""

    def __init__(self, data: TrainingSet, image: ImageSpec, augmentation: str) -> None:
        self.data, self.image = data, image
        self.squashed = ImageSpec(image.size, "squash")  # a batch needs one size
        self.augment = AUGMENTATIONS[choose("augmentation", augmentation, AUGMENTATIONS)](
            image.size
        )
        fits = len(data.files) * 3 * image.size**2 <= KEEP_IN_MEMORY
        self.pixels = self._decode(range(len(data.files))) if fits else None

    def _decode(self, rows: Sequence[int]) -> Tensor:
        with ThreadPoolExecutor() as pool:
            return torch.stack(
                list(pool.map(lambda row: load_image(self.data.files[row], self.squashed), rows))
            )

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Images (B, 3, S, S) as network input, each with its own augmentation from torch's global generator."""
        images = (
            self._decode(rows.tolist())
            if self.pixels is None
            else self.pixels[torch.from_numpy(rows)]
        )
        return to_input(torch.stack([self.augment(image) for image in images]))

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        """Descriptors of squashed images, not augmented."""
        if self.pixels is None:
            batches = image_batches([self.data.files[row] for row in rows], self.squashed)
            return extract(net, batches, len(rows), "mining")
        pixels = self.pixels
        parts = (
            (part, to_input(pixels[torch.from_numpy(rows[part])])) for part in _parts(len(rows))
        )
        return extract(net, parts, len(rows), "mining")

    def trained(self, net: RetrievalNet) -> nn.Module:
        """The network."""
        return net

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        """The scores of the validation benchmark."""
        return benchmark_scores(net, self.data.validation, self.image)[0]


class MapSource:
    """Feature maps of a frozen backbone, computed once and shared by every head that is tried on them."""

    def __init__(
        self, data: TrainingSet, image: ImageSpec, net: RetrievalNet, backbone_id: str, cache: Path
    ) -> None:
        folder = cache / content_hash([backbone_id, asdict(image), data.id])
        squashed = image_batches(data.files, ImageSpec(image.size, "squash"))
        self.train = cache_maps(net.backbone, squashed, len(data.files), folder / "train")
        self.validation = cache_benchmark(net.backbone, data.validation, image, folder)

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Maps (B, C, H, W), not augmented."""
        return self.train.take(rows)

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        """Descriptors of maps."""
        parts = ((part, self.train.take(rows[part])) for part in _parts(len(rows)))
        return extract(MapEncoder(net.head), parts, len(rows), "mining")

    def trained(self, net: RetrievalNet) -> nn.Module:
        """The head."""
        return MapEncoder(net.head)

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        """The scores of the validation benchmark."""
        return self.validation.scores(MapEncoder(net.head))


def _parts(count: int, size: int = 64) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))


def frozen_backbone(config: RunConfig) -> str:
    """What names the weights of a frozen backbone: its run, else its weights' hash, else the seed it is drawn from."""
    if config.start or config.backbone.pretrained:
        return config.start or content_hash(asdict(config.backbone))
    return content_hash([asdict(config.backbone), config.seed])


def make_source(config: RunConfig, data: TrainingSet, net: RetrievalNet, cache: Path) -> Source:
    """The source that a configuration asks for.

    Raises `UserError` where the images are not those that the configuration names.
    """
    if config.data != data.id:
        raise UserError(f"run {config.id} is for data {config.data}, but these are {data.id}")
    if config.frozen:
        return MapSource(data, config.image, net, frozen_backbone(config), cache)
    return ImageSource(data, config.image, config.train.augmentation)
