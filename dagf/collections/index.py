"""A collection of one's own images: extracted once, searched often (`dagf.collections.kept`)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor, nn

from dagf import paths
from dagf.collections.eight_bits import eight_bits_pay, in_eight_bits
from dagf.collections.export import SMALLEST, write_graph
from dagf.collections.kept import AGAIN, INDEX, Kept, MadeBy, Ranking, check_suits
from dagf.datasets.batches import image_batches
from dagf.datasets.contents import remembered
from dagf.datasets.decode import Box, ImageSpec
from dagf.devices import device, on_device
from dagf.distributed import process_group
from dagf.errors import UserError
from dagf.files import atomic_path, content_hash, existing_file, file_sha256, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval.ann import Index, build_index
from dagf.retrieval.extract import Precision, extract, extract_shards, for_inference
from dagf.retrieval.graph import AT_ONCE, Graph, network_values
from dagf.retrieval.search import BLOCK, Descriptors, Found, Rows, best, search
from dagf.retrieval.shards import SHARDS, open_shard
from dagf.study.config import RunConfig, TrainSpec
from dagf.study.profile import load_profile
from dagf.study.provenance import code_hash
from dagf.study.runs import Head, RunStore, Untrained

NEAR = "near-*.faiss"
GRAPH = "encoder-*.onnx"
# What lies beside `index.json` in the folder of a collection, half-written, too. Other people name
# files alike ("shard-0.npy"): only hashes make a file ours, to be replaced and removed.
OWN = re.compile(r"\.?(shard|near|whitening|encoder)-[0-9a-f]{12}[0-9a-f-]*\.(np[yz]|faiss|onnx).*")
OFF_THE_SHELF = "rmac"  # the best on each of five sets of photographs: benchmarks/descriptors.csv
MANY = 5000  # images from which on eight bits gain more than it takes to fit them
SEEN = 64  # images that they are fitted to
# The least mean cosine of descriptors in eight bits and in float. It promises no mAP: above it, in
# trials of which no record is kept, that moved by -0.2 to 2.5 on five sets, by -0.65 on 12 hard
# queries (EfficientNet-Lite0, GeM, 225 px), by -1 on one with ResNet-50; at 0.993 it fell by 3.
ALIKE = 0.995
LARGE = 100_000  # images from which on half the disk counts for more than the fourth decimal


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
    config = RunConfig(variant(OFF_THE_SHELF), spec, profile.image, TrainSpec(), "", 0)
    return Untrained(config, store, file)


def content_of(encoder: Head) -> str:
    """Return the hash of an encoder's code and weights."""
    code = code_hash("dagf.model.network", "dagf.datasets.images")
    return content_hash([code, encoder.weights_id])


def made_by(encoder: Head) -> MadeBy:
    """Return what a collection keeps of its encoder, with a title for people."""
    config, weights, backbone = encoder.config, "", ""
    title = f"the trained run {encoder.id}"
    if isinstance(encoder, Untrained):
        weights, backbone = str(encoder.weights or ""), config.backbone.name
        on = Path(weights).name if weights else "its ImageNet weights"
        title = f"{encoder.variant.title}, nothing trained, on {backbone} with {on}"
    known = encoder.id, weights, backbone, content_of(encoder), title
    return MadeBy(*known, asdict(config.image), config.data.startswith("toytown-"))


@dataclass(frozen=True)
class Collection(Kept):
    """A collection with its network: searched by several processes, or by a FAISS index."""

    @cached_property
    def encoder(self) -> Head:
        """What made the descriptors. Raises `UserError` where it is gone or another one."""
        of = self.made_by
        encoder = open_encoder(of.run, of.weights, of.backbone)
        if content_of(encoder) != of.content:
            raise UserError(
                f"{of.title}: its weights, or dagf's code, changed since the images were "
                f"extracted; put the earlier ones back, or {AGAIN}"
            )
        return encoder

    @cached_property
    def network(self) -> RetrievalNet:
        return on_device(self.encoder.network())

    def describe(self, query: Path, box: Box | None = None) -> Descriptors:
        if self.made_by.graph:
            return super().describe(query, box)
        return extract(self.network, image_batches([query], self.made_by.spec, [box]), 1)

    def nearest(self, known: Rows, row: Descriptors, top: int) -> Found:
        """Return the rows most similar to one; processes that torchrun started share the work."""
        group = process_group()
        ends = np.linspace(0, len(known), group.size + 1).astype(int).tolist()
        parts = group.gather(search(known, row, top, *ends[group.rank : group.rank + 2]))
        scores, rows = (np.hstack(part) for part in zip(*parts, strict=True))
        return best(scores, rows, top)

    def approximate(self, query: Path, top: int, box: Box | None = None) -> Ranking:
        """Return what `search` does, by a FAISS index, in which some may be missing."""
        check_suits(self.made_by, [query])
        return self.named(self.index().search(self.describe(query, box), top, self.descriptors))

    def index(self) -> Index:
        """Return the FAISS index of the descriptors, kept beside them where one may write."""
        near = self._beside(NEAR)
        if not near.exists():
            built = build_index(self.descriptors)
            try:
                built.save(near)
            except UserError:
                return built
        return Index.load(near)

    def save(self) -> None:
        """Write `index.json`, and then remove the shards and indexes that are not in it.

        Raises `UserError` for descriptors that are none: broken weights give NaN or zeros.
        """
        for start in range(0, len(self.files), BLOCK):
            rows = self.descriptors[start : start + BLOCK].astype(np.float32)
            if not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-2):  # nor is NaN
                raise UserError(
                    f"{self.made_by.title} gives no descriptors: name other weights, or a run"
                )
        folder, shards = self.descriptors.folder, self.descriptors.names
        if not self.whitening_file.exists():
            with suppress(UserError):  # too few of them, or all alike
                learned = self.learned_whitening()
                with atomic_path(self.whitening_file) as temporary:
                    np.savez(temporary, mean=learned.mean, projection=learned.projection)
        about = {"files": self.files, "shards": shards, "made_by": asdict(self.made_by)}
        write_json(folder / INDEX, about)
        beside = {self._beside(NEAR).name, self.whitening_file.name, self.made_by.graph}
        for path in own_files(folder):
            if path.name not in {*shards, *beside}:
                path.unlink()


def own_files(folder: Path) -> list[Path]:
    """Return what is a collection's in a folder, but for its `index.json` and its lock."""
    return [path for path in folder.glob("*") if OWN.fullmatch(path.name)]


def open_images(
    title: str, files: Sequence[Path], run: str = "", weights: str = "", backbone: str = ""
) -> Collection:
    """Open the collection of images that is kept in the data folder, after extracting what is new.

    title: tells it from others. run, weights, backbone: as of `open_encoder`.
    """
    encoder = open_encoder(run, weights, backbone)
    folder = paths.data() / "collections" / content_hash([title, content_of(encoder)])
    return build(files, encoder, folder)[0]


def build(
    files: Sequence[Path],
    encoder: Head,
    folder: Path,
    precision: Precision | None = None,
    damaged: dict[Path, str] | None = None,
    fast: bool = False,
) -> tuple[Collection, int]:
    """Keep the collection of image files in `folder`; return it, and how many were extracted.

    Only images whose contents are new are extracted, so a job that was stopped goes on; rows of
    another encoder, or of images that are gone, are removed once the new index stands. Processes
    that torchrun started share the work. precision: None for that of the collection; of a new one
    half precision from `LARGE` images on.
    damaged: takes the files that cannot be read, and why; the others are the collection. fast: on
    a CPU keep a graph (`keep_graph`), and extract by it. On a GPU the backbone is in bfloat16.

    Raises `UserError` for such files without `damaged`, and where there is no other; for an encoder
    that does not suit the images, and where `folder` holds something else.
    """
    files, of = [file.absolute() for file in files], made_by(encoder)  # searched from elsewhere
    check_suits(of, files)
    if folder.is_file() or (any(folder.glob("[!.]*")) and not own_files(folder)):
        raise UserError(f"{folder} holds something else: name a new folder with --output")
    folder.mkdir(parents=True, exist_ok=True)
    group, half = process_group(), device() == "cuda"
    precision = precision or kept_precision(folder)
    precision = precision or ("float32" if len(files) < LARGE else "float16")
    # A second job waits until this one is done.
    with FileLock(folder / ".lock") if group.rank == 0 else nullcontext():
        if len(set(group.gather(content_hash([of.content, *map(str, files)])))) > 1:
            raise UserError(
                "the processes see different images or weights: give all of them the same disk"
            )
        if fast and not half:
            graph = folder / GRAPH.replace("*", of.content)
            if group.rank == 0:
                keep_graph(encoder, files, graph)
            group.wait()
            if graph.exists():
                told = Graph(graph).session.get_modelmeta().custom_metadata_map
                of = replace(of, graph=graph.name, cosine=float(told["cosine"]))
        if of.graph:
            encode: nn.Module = GraphNet(Graph(folder / of.graph))
            about = [of.content, file_sha256(folder / of.graph)]
        else:
            encode = for_inference(on_device(encoder.network()), half)
            about = [of.content, "bfloat16" if half else "float32"]
        known = remembered(paths.data())
        rows, made = extract_shards(
            encode, about, files, of.spec, folder, known, precision, group, damaged
        )
        kept = [file for file in files if file not in (damaged or {})]
        if damaged and not kept:
            raise UserError("\n".join(damaged.values()))
        collection = Collection(tuple(map(str, kept)), rows, of)
        if group.rank == 0:
            collection.save()
        group.wait()
    return collection, made


def kept_precision(folder: Path) -> Precision | None:
    """Return the precision of the descriptors in a folder: a collection that grows keeps it."""
    for path in sorted(folder.glob(SHARDS)):
        with suppress(UserError):  # a broken one is made anew
            return "float16" if open_shard(path)["row"].dtype == np.float16 else "float32"
    return None


class GraphNet(nn.Module):
    """A graph that takes the place of a network."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> unit descriptors (B, D)."""
        return torch.from_numpy(self.graph(images.contiguous().numpy()))


def keep_graph(encoder: Head, files: Sequence[Path], file: Path) -> None:
    """Write the graph by which images are extracted and searched, unless it is there.

    Its convolutions work in eight bits where the CPU is made for that, there are `MANY` images, and
    the descriptors of some of them stay within `ALIKE` of the float ones. Nothing is written for an
    encoder that no graph can hold, nor for windows over images that keep their shape, some of which
    may be smaller: then the network itself works.
    """
    spec, only = encoder.config.image, encoder.config.image.mode == "squash"
    windows = max(encoder.variant.windows) > 1 and not only
    if file.exists() or spec.truth != "none" or windows:
        return
    known = content_hash([content_of(encoder), asdict(spec)])
    whole = paths.cache() / "graphs" / f"{known}.onnx"  # for other folders: it takes seconds
    try:
        if not whole.exists():
            write_graph(encoder, encoder.network(), whole, spec.size if only else SMALLEST, only)
    except UserError:
        return
    with TemporaryDirectory() as place:
        chosen, cosine = whole, 1.0
        if len(files) >= MANY and eight_bits_pay():
            small = Path(place) / "small.onnx"
            in_eight_bits(whole, some_images(files, spec), small)
            fast, true = Graph(small), Graph(whole)
            seen = [*some_images(files, spec, 0.5)]  # others than those that it was fitted to
            cosines = [np.sum(fast(batch) * true(batch), 1) for batch in seen]
            alike = float(np.concatenate(cosines).mean())
            if alike >= ALIKE:
                chosen, cosine = small, alike
        model = onnx.load(chosen)
        onnx.helper.set_model_props(model, {"cosine": f"{cosine:.4f}"})
        with atomic_path(file) as temporary:
            onnx.save(model, temporary)


def some_images(
    files: Sequence[Path], spec: ImageSpec, shift: float = 0.0
) -> Iterator[NDArray[np.float32]]:
    """Yield batches of `SEEN` of the images, evenly chosen; shift: by a part of a step."""
    chosen = (np.arange(SEEN) + shift) * len(files) / SEEN
    some = [files[int(number)] for number in chosen]
    for _, images in image_batches(some, spec, batch=AT_ONCE, damaged={}):
        yield network_values(images.numpy())
