"""The library in a few calls: load a network, embed image files. `import dagf` gives all of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dagf import paths
from dagf.datasets.batches import image_batches
from dagf.datasets.decode import ImageSpec
from dagf.datasets.images import load_image, to_input
from dagf.devices import on_device
from dagf.files import existing_file
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.extract import extract, for_inference
from dagf.retrieval.search import Descriptors
from dagf.study.runs import RunStore


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode, and the size that it takes images at."""

    network: RetrievalNet
    image: ImageSpec

    def read(self, file: str | Path) -> Tensor:
        """Return an image file as the network takes it, (1, 3, H, W)."""
        return to_input(load_image(Path(file), self.image))[None]


def load(
    name: str = PACKAGED, weights: str | Path = "imagenet", head: str = "gem", size: int = 1024
) -> Model:
    """Return a trained run by the first digits of its ID, or a pretrained backbone by its name.

    A run has its own weights, head and size. A backbone is one of torchvision's ("resnet50") or
    timm's ("timm:resnet50"), with ImageNet weights (downloaded once; those of the default come with
    the packages) or those in a file (.pth or .safetensors), under a `head` of `VARIANTS`, for
    images of up to `size` pixels a side.

    Raise `UserError` for an unknown name, and for weights that are missing or do not fit.

    >>> model = load()
    >>> seen = model.network.inspect(model.read("castle.jpg"))
    >>> seen.attention, seen.kept, seen.descriptor
    """
    if set(name) <= set("0123456789abcdef"):
        run = RunStore(paths.runs()).get(name)
        return Model(run.network(), run.config.image)
    source = weights if weights == "imagenet" else existing_file(weights)
    net = RetrievalNet(BackboneSpec(name, weights=str(source)), variant(head))
    return Model(net.eval(), ImageSpec(size))


def embed(model: Model, files: Iterable[str | Path]) -> Descriptors:
    """Return the descriptors of image files, (N, D) float32 of unit length, on the fastest device.

    The inner product of two is their similarity. Raise `UserError`, which names the file, for one
    that cannot be read.

    >>> database = embed(model, ["castle.jpg", "church.jpg"])
    >>> scores, rows = dagf.search(database, embed(model, ["query.jpg"]), k=2)
    """
    places = [Path(file) for file in files]
    fast = on_device(for_inference(model.network))  # a copy: the model stays where it is
    return extract(fast, image_batches(places, model.image), len(places))
