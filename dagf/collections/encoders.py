"""What makes the descriptors of a collection: a trained run, or a backbone off the shelf.

An encoder is kept in the collection, and makes the same network again for every query.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dagf import paths
from dagf.datasets.images import ImageSpec
from dagf.errors import UserError
from dagf.files import content_hash, existing_file
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.study.profile import load_profile
from dagf.study.provenance import code_hash
from dagf.study.runs import RunStore

# The best off the shelf on our photographs of those whose matches add up over cells, and so can be
# explained; R-MAC, where they do not, was better on one set of two:
# reports/photographs/*.shelf-ablation.json.
OFF_THE_SHELF = "scale-mask-spoc"
DRAWN = "toytown-"  # how the id of training images begins that were drawn


@dataclass(frozen=True)
class Encoder:
    """A network that can be made again, and the size of the images that it takes.

    run: the id of a trained run; '' for the variant `OFF_THE_SHELF` on the backbone of the profile
    `photographs`. weights: the file of that backbone's weights, '' for torchvision's. content: the
    hash of the network.
    """

    run: str
    weights: str
    image: ImageSpec
    content: str

    @property
    def title(self) -> str:
        """What it is, for people."""
        if self.run:
            return f"the trained run {self.run}"
        backbone = load_profile("photographs").backbone.name
        weights = Path(self.weights).name if self.weights else "torchvision's ImageNet weights"
        return f"{variant(OFF_THE_SHELF).title}, nothing trained, on {backbone} with {weights}"

    def network(self) -> RetrievalNet:
        """Return the network, on the CPU and in evaluation mode.

        Raises `UserError` where its weights are gone, or are other ones than the encoder's.
        """
        net = _network(self.run, self.weights)
        if _content(self.run, net) != self.content:
            raise UserError(
                f"{self.title}: its weights, or dagf's code, changed since the images were "
                "extracted; put the earlier ones back, or run `dagf extract` again"
            )
        return net

    def check_suits(self, files: Sequence[Path]) -> None:
        """Raise `UserError` where a run that learned from drawings gets other images than those."""
        learned_from = RunStore(paths.runs()).get(self.run).config.data if self.run else ""
        drawings = (paths.data() / learned_from).resolve()
        other = next((file for file in files if not file.resolve().is_relative_to(drawings)), None)
        if other and learned_from.startswith(DRAWN):
            raise UserError(
                f"run {self.run} learned from drawings (Toytown) and knows nothing of photographs "
                f"such as {other}: leave --run out, or name a run of `dagf train dagf --benchmark "
                "PHOTOS`"
            )


def open_encoder(run: str = "", weights: str = "") -> Encoder:
    """Return the encoder of a trained run, by the first digits of its id; '' for the one off the
    shelf, on the weights of a file or ('') torchvision's.

    Raises `UserError` for an unknown run, and for weights that are missing or do not fit.
    """
    if run:
        found = RunStore(paths.runs()).get(run)
        return Encoder(found.id, "", found.config.image, _content(found.id, found.network()))
    weights = existing_file(weights) if weights else ""
    image = load_profile("photographs").image
    return Encoder("", weights, image, _content("", _network("", weights)))


def _network(run_id: str, weights: str) -> RetrievalNet:
    if run_id:
        return RunStore(paths.runs()).get(run_id).network()
    backbone = load_profile("photographs").backbone
    backbone = replace(backbone, weights=weights or "imagenet")
    return RetrievalNet(backbone, variant(OFF_THE_SHELF)).eval()


def _content(run_id: str, net: RetrievalNet) -> str:
    """Return the hash of the code, of the run's id or the variant, and of every tensor."""
    tensors = {
        name: hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in net.state_dict().items()
    }
    code = code_hash("dagf.model.network", "dagf.datasets.images")
    return content_hash([code, run_id or asdict(variant(OFF_THE_SHELF)), tensors])
