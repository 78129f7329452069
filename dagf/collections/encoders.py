"""What describes the images of a collection: a trained run, or a pre-trained backbone with nothing trained.

An encoder is kept in the collection, and makes the same network again for every query.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from dagf import paths
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.files import content_hash
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.study.profile import MOST_PIXELS, Profile, load_profile
from dagf.study.runs import RunStore

# The best off the shelf on our photographs of those whose matches add up over cells, and so can be explained; R-MAC,
# where they do not, was better on one set of two: reports/photographs/*.shelf-ablation.json.
OFF_THE_SHELF = "scale-mask-spoc"
DRAWN = "toytown-"  # how the hash of training data begins that was drawn


@dataclass(frozen=True)
class Encoder:
    """A network that can be made again, and the size of the images that it takes.

    run: the id of a trained run; '' for the descriptor `SHELF` on the backbone of the profile photographs. weights: the
    file of that backbone's weights, '' for torchvision's. content: the hash of what the network is made of.
    """

    run: str
    weights: str
    image: ImageSpec
    content: str

    def __post_init__(self) -> None:
        """Raises `UserError` for images that no network of ours takes, and that would fill the memory."""
        if self.image.size > MOST_PIXELS:
            raise UserError(
                f"images of {self.image.size} pixels a side are too large: {MOST_PIXELS} at most"
            )

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.run:
            return f"the trained run {self.run}"
        weights = Path(self.weights).name if self.weights else "torchvision's ImageNet weights"
        return f"{variant(OFF_THE_SHELF).title}, nothing trained, on {_off_the_shelf().backbone.name} with {weights}"

    @property
    def source(self) -> str:
        """Where its weights are from: the run, their file, or torchvision."""
        return (
            f"the run {self.run}" if self.run else self.weights or "torchvision's ImageNet weights"
        )

    def network(self) -> RetrievalNet:
        """The network, on the CPU and in evaluation mode.

        Raises `UserError` where its weights are gone, or are not those that the encoder was made with.
        """
        net = _run_network(self.run) if self.run else _off_the_shelf_network(self.weights)
        if _content(self.run, net) != self.content:
            raise UserError(
                f"{self.source} changed since the images were described: put the earlier weights back, or describe the "
                "images again with `dagf extract`"
            )
        return net

    def check_suits(self, files: Sequence[Path]) -> None:
        """Raise `UserError` where a run that learned from drawings is to describe anything but those drawings."""
        learned_from = RunStore(paths.runs()).get(self.run).config.data if self.run else ""
        if not learned_from.startswith(DRAWN):
            return
        drawings = (paths.data() / learned_from).resolve()
        other = next((file for file in files if not file.resolve().is_relative_to(drawings)), None)
        if other is not None:
            raise UserError(
                f"run {self.run} learned from drawings (Toytown) and knows nothing of photographs such as {other}: "
                "leave --run out, or name a run of `dagf train dagf --benchmark PHOTOS`"
            )


def of_run(run_id: str) -> Encoder:
    """The encoder of a trained run, of whose id the first digits are enough; a `UserError` where there is none."""
    run = RunStore(paths.runs()).get(run_id)
    return Encoder(run.id, "", run.config.image, _content(run.id, run.network()))


def off_the_shelf(weights: str = "") -> Encoder:
    """The encoder with which nothing is trained, its backbone's weights in a file or torchvision's.

    Raises `UserError` for weights that are missing or do not fit, or cannot be downloaded.
    """
    weights = str(Path(weights).resolve()) if weights else ""
    return Encoder(
        "", weights, _off_the_shelf().image, _content("", _off_the_shelf_network(weights))
    )


def _off_the_shelf() -> Profile:
    return load_profile("photographs")


def _off_the_shelf_network(weights: str) -> RetrievalNet:
    return RetrievalNet(
        replace(_off_the_shelf().backbone, weights=weights or "imagenet"), variant(OFF_THE_SHELF)
    ).eval()


def _run_network(run_id: str) -> RetrievalNet:
    return RunStore(paths.runs()).get(run_id).network()


def _content(run_id: str, net: nn.Module) -> str:
    """The hash of the modules, by the run's id or the variant's fields, and of every tensor in them."""
    made_of = run_id or [asdict(variant(OFF_THE_SHELF)), asdict(_off_the_shelf().backbone)]
    tensors = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in net.state_dict().items()
    }
    return content_hash([made_of, tensors])
