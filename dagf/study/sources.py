"""What a training step reads: augmented images, or cached maps for a head on a frozen backbone."""

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
from dagf.errors import choose
from dagf.files import content_hash
from dagf.model.network import RetrievalNet
from dagf.retrieval.extract import benchmark_scores, extract
from dagf.retrieval.feature_maps import cache_benchmark, cache_maps
from dagf.retrieval.search import Descriptors

# Bytes of decoded training images that are kept; larger sets are decoded batch by batch.
KEEP_IN_MEMORY = 4 * 2**30
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
        """Return the input of the training images `rows`."""

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        """Return the descriptors (len(rows), D) of training images, not augmented."""

    def trained(self, net: RetrievalNet) -> nn.Module:
        """Return the part of the network that is trained: input -> descriptors."""

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        """Return the scores (queries, rows) of the validation benchmark."""


class ImageSource:
    """Images, augmented: the whole network is trained."""

    def __init__(self, data: TrainingSet, image: ImageSpec, augmentation: str) -> None:
        self.data, self.image = data, image
        self.squashed = ImageSpec(image.size, "squash")  # a batch needs one size
        augment = AUGMENTATIONS[choose("augmentation", augmentation, AUGMENTATIONS)]
        self.augment = augment(image.size)
        fits = len(data.files) * 3 * image.size**2 <= KEEP_IN_MEMORY
        self.pixels = self._decode(range(len(data.files))) if fits else None

    def _decode(self, rows: Sequence[int]) -> Tensor:
        files = [self.data.files[row] for row in rows]
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda file: load_image(file, self.squashed), files)))

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Return network input (B, 3, S, S), each image augmented by torch's global generator."""
        kept = self.pixels
        images = self._decode(rows.tolist()) if kept is None else kept[torch.from_numpy(rows)]
        return to_input(torch.stack([self.augment(image) for image in images]))

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        pixels = self.pixels
        if pixels is None:
            batches = image_batches([self.data.files[row] for row in rows], self.squashed)
            return extract(net, batches, len(rows), "mining")
        parts = (
            (part, to_input(pixels[torch.from_numpy(rows[part])])) for part in _parts(len(rows))
        )
        return extract(net, parts, len(rows), "mining")

    def trained(self, net: RetrievalNet) -> nn.Module:
        return net

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        return benchmark_scores(net, self.data.validation, self.image)[0]


class MapSource:
    """Feature maps of a frozen backbone, computed once and shared by every head on it.

    backbone_id: what names the weights of the backbone.
    """

    def __init__(
        self, data: TrainingSet, image: ImageSpec, net: RetrievalNet, backbone_id: str, cache: Path
    ) -> None:
        folder = cache / content_hash([backbone_id, asdict(image), data.id])
        squashed = image_batches(data.files, ImageSpec(image.size, "squash"))
        self.train = cache_maps(net.backbone, squashed, len(data.files), folder / "train")
        self.validation = cache_benchmark(net.backbone, data.validation, image, folder)

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Return maps (B, C, H, W), not augmented."""
        return self.train.take(rows)

    def extract(self, net: RetrievalNet, rows: NDArray[np.int64]) -> Descriptors:
        parts = ((part, self.train.take(rows[part])) for part in _parts(len(rows)))
        return extract(net.head, parts, len(rows), "mining")

    def trained(self, net: RetrievalNet) -> nn.Module:
        return net.head

    def validate(self, net: RetrievalNet) -> NDArray[np.float32]:
        return self.validation.scores(net.head)


def _parts(count: int, size: int = 64) -> Iterator[NDArray[np.int64]]:
    return (np.arange(start, min(start + size, count)) for start in range(0, count, size))
