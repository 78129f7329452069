"""A collection of one's own images: extracted once, searched often.

Its folder holds `index.json` (the files, their encoder, and the shards in the order of their rows),
the shards (`dagf.retrieval.extract`), and `contents.json` (for each shard the hashes of its
images). A changed list of images makes other shards; rows of images that are known are copied.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from dagf import paths
from dagf.collections.encoders import Encoder, open_encoder
from dagf.console import progress
from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec
from dagf.devices import bfloat16_pays, device, on_device
from dagf.distributed import Group, process_group
from dagf.errors import UserError
from dagf.files import IMAGES, atomic_path, content_hash, read_json, write_json
from dagf.model.network import RetrievalNet
from dagf.retrieval.ann import Index, build_index
from dagf.retrieval.extract import (
    SHARD,
    SHARDS,
    Precision,
    ShardedDescriptors,
    extract,
    for_inference,
    hashes,
    is_whole,
    make_shards,
    shard_name,
)
from dagf.retrieval.search import BLOCK, Rows, search
from dagf.retrieval.whitening import Whitened, Whitening, pca_whitening
from dagf.study.config import read_fields

INDEX, CONTENTS = "index.json", "contents.json"
NEAR = "near-*.faiss"
SOME = 20_000  # images to learn a whitening from: many times the dimensions
DIMENSIONS = 128
# Nothing is divided by the variances: the images of one folder are too few different things for
# that. (It was worse in trials of which no record is kept; benchmarks/roads.py measures this one.)
POWER = 0.0
ENOUGH = 100  # images, whose mean says what all of them have in common
LARGE = 100_000  # images from which on half the disk counts for more than the fourth decimal

Ranking = list[tuple[str, float]]  # files with their cosines, best first
Hashes = Sequence[str]  # of the contents of images


class Extracted(NamedTuple):
    """What came of an extraction. made: images encoded now. seconds: of all of it."""

    descriptors: ShardedDescriptors
    made: int
    seconds: float


@dataclass(frozen=True)
class Collection:
    """Files, their descriptors (N, D), and the encoder that made them and takes the queries.

    whitening: what the descriptors, and the query's, are compared under; None: as they are.
    """

    files: tuple[str, ...]
    descriptors: ShardedDescriptors
    encoder: Encoder
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
            whiten = not self.encoder.run and len(self.files) >= ENOUGH
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
        self.encoder.check_suits([query])
        row = extract(self.network, image_batches([query], self.encoder.image, [box]), 1)
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
        """Return the FAISS index of the descriptors, built once and kept beside the shards."""
        if not self._near.exists():
            build_index(self.descriptors).save(self._near)
        return Index.load(self._near)

    @property
    def _near(self) -> Path:
        return self.descriptors.folder / NEAR.replace("*", content_hash(self.descriptors.names, 16))

    def check(self) -> None:
        """Raise `UserError` for descriptors that are none: broken weights give NaN or zeros."""
        for start in range(0, len(self.files), BLOCK):
            norms = np.linalg.norm(
                self.descriptors[start : start + BLOCK].astype(np.float32), axis=1
            )
            if not np.allclose(norms, 1, atol=1e-2):  # NaN is close to nothing
                raise UserError(
                    f"{self.encoder.title} gives no descriptors: name other weights, or a run"
                )

    def save(self) -> None:
        """Write `index.json`, and then remove the shards and indexes that are not in it."""
        folder, shards = self.descriptors.folder, self.descriptors.names
        about = {"files": self.files, "encoder": asdict(self.encoder), "shards": shards}
        write_json(folder / INDEX, about)
        for path in [*folder.glob(f"*{SHARDS}*"), *folder.glob(NEAR)]:  # half-written ones, too
            if path.name not in {*shards, self._near.name}:
                path.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Collection":
        """Open the collection in a folder; raise `UserError` where it is missing or broken."""
        if not folder.exists():
            raise UserError(
                f"{folder} does not exist; make it with: dagf extract FOLDER --output {folder}"
            )
        try:
            about = read_json(folder / INDEX)
            encoder = read_fields(Encoder, about["encoder"], str(folder))
            files = tuple(about["files"])
            descriptors = ShardedDescriptors(folder, about["shards"])
        except (UserError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no collection of `dagf extract`, or is broken; make it again: {error}"
            ) from error
        return cls(files, descriptors, encoder)


def own_whitening(descriptors: NDArray[np.floating]) -> Whitening:
    """Return the whitening by which a collection's own descriptors (N, D) are compared.

    It is a PCA: their mean, which all of them have in common, is taken out, and the `DIMENSIONS`
    strongest directions are kept.
    """
    dimensions = min(DIMENSIONS, len(descriptors) - 1, descriptors.shape[1])
    return pca_whitening(descriptors, dimensions, POWER)


def open_images(title: str, files: Sequence[Path], run: str = "", weights: str = "") -> Collection:
    """Open the collection of images that is kept in the data folder, after extracting what is new.

    title: tells it from others. run, weights: as of `open_encoder`.
    """
    encoder = open_encoder(run, weights)
    folder = paths.data() / "collections" / content_hash([title, encoder.content])
    build(files, encoder, folder)
    return Collection.load(folder)


def find_images(places: Sequence[Path]) -> list[Path]:
    """Return the image files among files and in folders, sorted within each folder."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place} does not exist")
        inside = [place]
        if place.is_dir():
            files = (one for one in sorted(place.rglob("*")) if one.is_file())
            inside = [file for file in files if file.suffix.lower() in IMAGES]
        if not inside:
            raise UserError(f"{place} holds no image ({', '.join(IMAGES)})")
        found += inside
    return found


def build(
    files: Sequence[Path], encoder: Encoder, folder: Path, precision: Precision | None = None
) -> Extracted:
    """Extract the descriptors of image files (`find_images`) and keep the collection in `folder`.

    Only images whose contents are new are extracted, so a job that was stopped goes on; rows of
    another encoder, or of images that are gone, are removed once the new index stands. Processes
    that torchrun started share the work. precision: None for half precision from `LARGE` images on.

    Raises `UserError` for an image that cannot be read, for an encoder that does not suit the
    images, and where `folder` holds something else.
    """
    encoder.check_suits(files)
    group, half = process_group(), bfloat16_pays()
    encode = for_inference(on_device(encoder.network()), half)
    about = [encoder.content, "bfloat16" if half else "float32"]
    precision = precision or ("float32" if len(files) < LARGE else "float16")
    with _claimed(folder) if group.rank == 0 else nullcontext():
        if len(set(group.gather(content_hash([about, [*map(str, files)]])))) > 1:
            raise UserError(
                "the processes see different images or weights: give all of them the same disk"
            )
        found = extract_changes(encode, about, files, encoder.image, folder, precision, group)
        if group.rank == 0:
            made = Collection(tuple(map(str, files)), found.descriptors, encoder)
            made.check()
            made.save()
        group.wait()
    return found


def extract_changes(
    encode: nn.Module,
    about: Any,
    files: Sequence[Path],
    spec: ImageSpec,
    folder: Path,
    precision: Precision,
    group: Group,
) -> Extracted:
    """Return what `dagf.retrieval.extract.extract_shards` does; extract only new contents.

    They are extracted first, in shards of their own, which a stopped job finds again, also where
    the list of files has changed since.
    """
    started = time.perf_counter()

    def named(images: Hashes) -> list[tuple[str, Hashes]]:
        """Return the name and the images of each shard."""
        parts = [images[first : first + SHARD] for first in range(0, len(images), SHARD)]
        return [(shard_name(about, part, spec, precision), part) for part in parts]

    images = hashes(files, group)
    names, wanted = [name for name, _ in named(images)], dict(named(images))
    listed: dict[str, Hashes] = {}
    if (folder / CONTENTS).exists():
        listed = read_json(folder / CONTENTS)
    known = {
        shard: part
        for shard, part in (listed | wanted).items()
        if shard in dict(named(part)) and is_whole(folder / shard, len(part))
    }
    rows = _rows(known)
    fresh = dict(named([image for image in dict.fromkeys(images) if image not in rows]))
    group.wait()  # until all have seen what is there
    if group.rank == 0:
        write_json(folder / CONTENTS, listed | fresh | wanted)
    file = dict(zip(images, files, strict=True))
    shards = {shard: [file[image] for image in part] for shard, part in fresh.items()}
    made = make_shards(encode, shards, spec, folder, precision, group)
    rows |= _rows(fresh)
    opened = lru_cache(maxsize=8)(partial(np.load, mmap_mode="r"))  # of many shards
    copied = [shard for shard in wanted if shard not in known and shard not in fresh]
    for shard in progress(copied[group.rank :: group.size], "arranging", unit="shard"):
        places = [rows[image] for image in wanted[shard]]
        with atomic_path(folder / shard) as temporary:
            np.save(temporary, np.stack([opened(folder / other)[row] for other, row in places]))
    group.wait()
    if group.rank == 0:
        write_json(folder / CONTENTS, wanted)
    return Extracted(ShardedDescriptors(folder, names), made, time.perf_counter() - started)


def _rows(shards: Mapping[str, Hashes]) -> dict[str, tuple[str, int]]:
    """Return where the row of each image is: its shard, and its number there."""
    return {image: (shard, row) for shard, part in shards.items() for row, image in enumerate(part)}


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold the folder of a collection for this job alone: a second one waits until it is done."""
    other = next(folder.glob("[!.]*"), None)
    if other and not (folder / CONTENTS).is_file():
        raise UserError(
            f"{folder} holds something else ({other.name}): name a new folder with --output"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; name another --output"
        ) from error
    with FileLock(folder / ".lock"):
        yield
