"""What a training step reads: augmented images, or cached maps for a head on a frozen backbone.

Both give batches, the descriptors of training images, and the scores (queries, rows) of the
validation benchmark.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Indices, TrainingSet
from dagf.datasets.images import ImageSpec, load_image, to_input
from dagf.errors import choose
from dagf.files import content_hash
from dagf.model.network import RetrievalNet
from dagf.retrieval.extract import benchmark_scores, extract
from dagf.retrieval.feature_maps import cache_benchmark, cache_maps
from dagf.retrieval.search import Descriptors, Scores

# Bytes of decoded training images that are kept; larger sets are decoded batch by batch.
KEEP_IN_MEMORY = 4 * 2**30


class _Colours(v2.ColorJitter):  # type: ignore[misc]
    """Colours of other light; an exact mask, the fourth channel, stays as it is."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([super().forward(image[:3]), image[3:]])


# No mirror images: writing on a package and the plan of a building tell instances apart.
AUGMENTATIONS: dict[str, Callable[[int], v2.Transform]] = {
    "none": lambda size: v2.Identity(),
    "photograph": lambda size: v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.85, 1.18), antialias=True),
            _Colours(brightness=0.3, contrast=0.3, saturation=0.2),
        ]
    ),
}


class ImageSource:
    """Images, augmented: the whole network is trained."""

    def __init__(self, data: TrainingSet, image: ImageSpec, augmentation: str) -> None:
        self.data, self.image = data, image
        self.squashed = replace(image, mode="squash")  # a batch needs one size
        augment = AUGMENTATIONS[choose("augmentation", augmentation, AUGMENTATIONS)]
        self.augment = augment(image.size)
        fits = len(data.files) * 3 * image.size**2 <= KEEP_IN_MEMORY
        self.pixels = self._decode(range(len(data.files))) if fits else None

    def _decode(self, rows: Sequence[int]) -> Tensor:
        files = [self.data.files[row] for row in rows]
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda file: load_image(file, self.squashed), files)))

    def _images(self, rows: Indices) -> Tensor:
        return self._decode(rows.tolist()) if self.pixels is None else self.pixels[rows]

    def batch(self, rows: Indices) -> Tensor:
        """Return network input (B, 3, S, S), each image augmented by torch's global generator."""
        return to_input(torch.stack([self.augment(image) for image in self._images(rows)]))

    def extract(self, net: RetrievalNet, rows: Indices) -> Descriptors:
        """Return the descriptors (len(rows), D) of training images, not augmented."""
        parts = ((part, to_input(self._images(rows[part]))) for part in _parts(len(rows)))
        return extract(net, parts, len(rows), "mining")

    def validate(self, net: RetrievalNet) -> Scores:
        return benchmark_scores(net, self.data.validation, self.image)[0]


class MapSource:
    """Feature maps of a frozen backbone, computed once and shared by every head on it.

    backbone_id: what names the weights of the backbone.
    """

    def __init__(
        self, data: TrainingSet, image: ImageSpec, net: RetrievalNet, backbone_id: str, cache: Path
    ) -> None:
        folder = cache / content_hash([backbone_id, asdict(image), data.id])
        squashed = image_batches(data.files, replace(image, mode="squash"))
        self.train = cache_maps(net.backbone, squashed, len(data.files), folder / "train")
        self.validation = cache_benchmark(net.backbone, data.validation, image, folder)

    def batch(self, rows: Indices) -> Tensor:
        """Return maps (B, C, H, W), not augmented."""
        return self.train.take(rows)

    def extract(self, net: RetrievalNet, rows: Indices) -> Descriptors:
        """Return the descriptors (len(rows), D) of training images."""
        parts = ((part, self.train.take(rows[part])) for part in _parts(len(rows)))
        return extract(net.head, parts, len(rows), "mining")

    def validate(self, net: RetrievalNet) -> Scores:
        return self.validation.scores(net.head)


Source = ImageSource | MapSource


def _parts(count: int) -> Iterator[Indices]:
    return iter(np.array_split(np.arange(count), range(64, count, 64)))
