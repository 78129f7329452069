"""A collection of one's own images: extracted once, searched often.

Its folder holds `index.json` (the files, what made their descriptors, and the shards in the order
of their rows) and the shards (`dagf.retrieval.extract`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from dagf import paths
from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Box
from dagf.devices import bfloat16_pays, device, on_device
from dagf.distributed import process_group
from dagf.errors import UserError
from dagf.files import content_hash, existing_file, file_sha256, read_json, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.ann import Index, build_index
from dagf.retrieval.extract import (
    SHARDS,
    Precision,
    ShardedDescriptors,
    extract,
    extract_shards,
    for_inference,
)
from dagf.retrieval.search import BLOCK, Rows, search
from dagf.retrieval.whitening import Whitened, Whitening, pca_whitening
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.profile import load_profile
from dagf.study.provenance import code_hash
from dagf.study.runs import Head, Run, RunStore, Untrained

INDEX = "index.json"
NEAR = "near-*.faiss"
# With MobileNetV2 the best off the shelf on our photographs of those whose matches add up over
# cells, and so can be explained; R-MAC, where they do not, was better on one set of two:
# reports/photographs/*.shelf-ablation.json. It was not chosen anew for EfficientNet-Lite0.
OFF_THE_SHELF = "scale-mask-spoc"
SOME = 20_000  # images to learn a whitening from: many times the dimensions
DIMENSIONS = 128
# Nothing is divided by the variances: the images of one folder are too few different things for
# that. (It was worse in trials of which no record is kept; benchmarks/roads.py measures this one.)
POWER = 0.0
ENOUGH = 100  # images, whose mean says what all of them have in common
LARGE = 100_000  # images from which on half the disk counts for more than the fourth decimal

Ranking = list[tuple[str, float]]  # files with their cosines, best first


def open_encoder(run: str = "", weights: str = "", backbone: str = "") -> Head:
    """Return what makes descriptors: a trained run, by the first digits of its id.

    '': the variant `OFF_THE_SHELF` on a backbone, by its name or ('') that of the profile
    `photographs`, with the weights of a file or ('') its ImageNet weights.

    Raises `UserError` for an unknown run, and for weights that are missing.
    """
    store = RunStore(paths.runs())
    if run:
        return store.get(run)
    profile, file = load_profile("photographs"), Path(existing_file(weights)) if weights else None
    spec = BackboneSpec(backbone, weights="imagenet") if backbone else profile.backbone
    if file:
        spec = replace(spec, weights=f"sha256:{file_sha256(file)[:12]}")
    config = RunConfig(variant(OFF_THE_SHELF), spec, profile.evaluation.image, TrainSpec(), "", 0)
    return Untrained(config, store, file)


def title_of(encoder: Head) -> str:
    """Return what makes the descriptors of a collection, for people."""
    if isinstance(encoder, Run):
        return f"the trained run {encoder.id}"
    weights = encoder.weights.name if encoder.weights else "its ImageNet weights"
    backbone = encoder.config.backbone.name
    return f"{encoder.variant.title}, nothing trained, on {backbone} with {weights}"


def content_of(encoder: Head) -> str:
    """Return the hash of an encoder's code and weights."""
    code = code_hash("dagf.model.network", "dagf.datasets.images")
    return content_hash([code, encoder.weights_id])


def check_suits(encoder: Head, files: Sequence[Path]) -> None:
    """Raise `UserError` where a run that learned from drawings gets other images."""
    home = paths.data().resolve() / "toytown-"  # of one or another
    other = next((file for file in files if not str(file.resolve()).startswith(str(home))), None)
    if other and encoder.config.data.startswith("toytown-"):
        raise UserError(
            f"run {encoder.id} learned from drawings (Toytown) and knows nothing of photographs "
            f"such as {other}: leave --run out, or name a run of `dagf train dagf --benchmark "
            "PHOTOS`"
        )


@dataclass(frozen=True)
class Collection:
    """Files, their descriptors (N, D), and the encoder that made them and takes the queries.

    whitening: what the descriptors, and the query's, are compared under; None: as they are.
    """

    files: tuple[str, ...]
    descriptors: ShardedDescriptors
    encoder: Head
    whitening: Whitening | None = None

    @cached_property
    def network(self) -> RetrievalNet:
        """The encoder's network, where it runs fastest."""
        return on_device(self.encoder.network())

    def whitened(self, whiten: bool | None = None) -> "Collection":
        """Return the same collection, compared under `own_whitening` or not; None: as suits it.

        It suits descriptors off the shelf, of `ENOUGH` images: a trained head has its own metric.
        """
        if whiten is None:
            whiten = not self.encoder.id and len(self.files) >= ENOUGH
        if not whiten:
            return replace(self, whitening=None) if self.whitening else self
        some = np.unique(np.linspace(0, len(self.files) - 1, SOME).astype(int))
        return replace(self, whitening=own_whitening(self.descriptors[some]))

    def search(
        self, query: Path, top: int, box: Box | None = None, approximate: bool = False
    ) -> Ranking:
        """Return the `top` files most similar to a photograph, or to a box of it in its pixels.

        The search is exact, and shared by the processes that torchrun started; `approximate` uses a
        FAISS index, in which some may be missing. Raises `UserError` for a photograph that cannot
        be read or that the encoder does not suit.
        """
        if approximate and self.whitening:
            raise UserError(
                "the FAISS index holds the descriptors as they are: leave out --approximate, or "
                "--whiten"
            )
        check_suits(self.encoder, [query])
        row = extract(self.network, image_batches([query], self.encoder.config.image, [box]), 1)
        if approximate:
            scores, rows = self.index().search(row, top, self.descriptors)
        else:
            known: Rows = self.descriptors
            if self.whitening:
                known, row = Whitened(known, self.whitening), self.whitening(row)
            scores, rows = search(known, row, top, process_group(), device=device())
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.files[row], score) for row, score in found if row >= 0]

    def index(self) -> Index:
        """Return the FAISS index of the descriptors, kept beside them where one may write."""
        if not self._near.exists():
            built = build_index(self.descriptors)
            try:
                built.save(self._near)
            except UserError:
                return built
        return Index.load(self._near)

    @property
    def _near(self) -> Path:
        return self.descriptors.folder / NEAR.replace("*", content_hash(self.descriptors.names, 16))

    def save(self) -> None:
        """Write `index.json`, and then remove the shards and indexes that are not in it.

        Raises `UserError` for descriptors that are none: broken weights give NaN or zeros.
        """
        for start in range(0, len(self.files), BLOCK):
            rows = self.descriptors[start : start + BLOCK].astype(np.float32)
            if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2):  # nor is NaN
                raise UserError(
                    f"{title_of(self.encoder)} gives no descriptors: name other weights, or a run"
                )
        folder, shards, encoder = self.descriptors.folder, self.descriptors.names, self.encoder
        weights = encoder.weights if isinstance(encoder, Untrained) else None
        name = "" if encoder.id else encoder.config.backbone.name
        made_by = {"run": encoder.id, "weights": str(weights or ""), "backbone": name}
        made_by |= {"content": content_of(encoder)}
        write_json(folder / INDEX, {"files": self.files, "shards": shards, **made_by})
        for path in [*folder.glob(f"*{SHARDS}*"), *folder.glob(NEAR)]:  # half-written ones, too
            if path.name not in {*shards, self._near.name}:
                path.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Collection":
        """Open the collection in a folder.

        Raises `UserError` where it is missing or broken, or its encoder is gone or another one.
        """
        if not folder.exists():
            raise UserError(
                f"{folder} does not exist; make it with: dagf extract FOLDER --output {folder}"
            )
        try:
            about = read_json(folder / INDEX)
            files, run, weights, backbone, content, shards = (
                about[key] for key in ("files", "run", "weights", "backbone", "content", "shards")
            )
            descriptors = ShardedDescriptors(folder, shards)
        except (UserError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no collection of `dagf extract`, or is broken; make it again: {error}"
            ) from error
        encoder = open_encoder(run, weights, backbone)
        if content_of(encoder) != content:
            raise UserError(
                f"{title_of(encoder)}: its weights, or dagf's code, changed since the images were "
                "extracted; put the earlier ones back, or run `dagf extract` again"
            )
        return cls(tuple(files), descriptors, encoder)


def own_whitening(descriptors: NDArray[np.floating]) -> Whitening:
    """Return the whitening by which a collection's own descriptors (N, D) are compared.

    It is a PCA: their mean, which all of them have in common, is taken out, and the `DIMENSIONS`
    strongest directions are kept.
    """
    dimensions = min(DIMENSIONS, len(descriptors) - 1, descriptors.shape[1])
    return pca_whitening(descriptors, dimensions, POWER)


def open_images(
    title: str, files: Sequence[Path], run: str = "", weights: str = "", backbone: str = ""
) -> Collection:
    """Open the collection of images that is kept in the data folder, after extracting what is new.

    title: tells it from others. run, weights, backbone: as of `open_encoder`.
    """
    encoder = open_encoder(run, weights, backbone)
    folder = paths.data() / "collections" / content_hash([title, content_of(encoder)])
    build(files, encoder, folder)
    return Collection.load(folder)


def build(
    files: Sequence[Path],
    encoder: Head,
    folder: Path,
    precision: Precision | None = None,
    damaged: dict[Path, str] | None = None,
) -> tuple[Collection, int]:
    """Keep the collection of image files in `folder`; return it, and how many were extracted.

    Only images whose contents are new are extracted, so a job that was stopped goes on; rows of
    another encoder, or of images that are gone, are removed once the new index stands. Processes
    that torchrun started share the work. precision: None for half precision from `LARGE` images on.
    damaged: takes the files that cannot be read, and why; the others are the collection.

    Raises `UserError` for such files without `damaged`, and where there is no other; for an encoder
    that does not suit the images, and where `folder` holds something else.
    """
    files = [file.absolute() for file in files]  # the search may be made from elsewhere
    check_suits(encoder, files)
    ours = any(folder.glob(SHARDS)) or (folder / INDEX).is_file()
    if folder.is_file() or (any(folder.glob("[!.]*")) and not ours):
        raise UserError(f"{folder} holds something else: name a new folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    group, half = process_group(), bfloat16_pays()
    encode = for_inference(on_device(encoder.network()), half)
    about = [content_of(encoder), "bfloat16" if half else "float32"]
    precision = precision or ("float32" if len(files) < LARGE else "float16")
    # A second job waits until this one is done.
    with FileLock(folder / ".lock") if group.rank == 0 else nullcontext():
        if len(set(group.gather(content_hash([about, [*map(str, files)]])))) > 1:
            raise UserError(
                "the processes see different images or weights: give all of them the same disk"
            )
        image = encoder.config.image
        rows, made = extract_shards(encode, about, files, image, folder, precision, group, damaged)
        kept = [file for file in files if file not in (damaged or {})]
        if damaged and not kept:
            raise UserError("\n".join(damaged.values()))
        collection = Collection(tuple(map(str, kept)), rows, encoder)
        if group.rank == 0:
            collection.save()
        group.wait()
    return collection, made
