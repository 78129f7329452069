"""A collection of one's own images, described once and searched often.

A folder holds `index.json` (the files, the encoder that described them, the precision, and the names of the shards in
the order of their rows), the shards (`dagf.retrieval.extract`), and what is in them (`changes.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch, fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from dagf.collections.changes import CONTENTS, HASH, OWN_SHARDS, begun, extract_changes
from dagf.collections.encoders import Encoder
from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import Box
from dagf.datasets.images import ImageSpec, load_image
from dagf.devices import bfloat16_pays, device, on_device
from dagf.distributed import process_group
from dagf.errors import UserError
from dagf.files import IMAGES, content_hash, existing_file, read_json, write_json
from dagf.model.network import RetrievalNet
from dagf.retrieval.ann import Index, build_index
from dagf.retrieval.extract import (
    SHARDS,
    Extracted,
    Precision,
    ShardedDescriptors,
    extract,
    for_inference,
)
from dagf.retrieval.search import BLOCK, search
from dagf.retrieval.whitening import Whitened, Whitening, pca_whitening
from dagf.study.config import read_fields
from dagf.study.evaluation import LEAST, SEEN

INDEX = "index.json"
NEAR = "near-*.faiss"
OURS = (
    INDEX,
    CONTENTS,
    OWN_SHARDS,
    NEAR.replace("*", HASH),
)  # what the folder of a collection holds
FIELDS = {"encoder", "files", "precision", "shards"}  # of its index
SOME = 20_000  # images to learn a whitening from: many times the dimensions
DIMENSIONS = 128
# Nothing is divided by the variances: the images of one folder are too few different things for that. (It was worse in
# trials of which no record is kept; benchmarks/roads.py measures the one that is used.)
POWER = 0.0
ENOUGH = 100  # images, whose mean says what all of them have in common
LARGE = 100_000  # images; from here on half the disk and half the reading count for more than the fourth decimal


@dataclass(frozen=True)
class Collection:
    """Files, their descriptors (N, D), and the encoder that made them: a query must be described by the same one.

    whitening: what the descriptors, and the query's, are compared under; None: as they are.
    """

    files: tuple[str, ...]
    descriptors: ShardedDescriptors
    encoder: Encoder
    whitening: Whitening | None = None

    @cached_property
    def network(self) -> RetrievalNet:
        """What describes a query, where it runs fastest; loaded when it is first asked for."""
        return on_device(self.encoder.network())

    def whitened(self, whiten: bool | None = None) -> "Collection":
        """The same, compared under `own_whitening`, or as it is; None: as suits it.

        It suits descriptors off the shelf, of `ENOUGH` images: a trained head has its own metric. Raises `UserError`
        for fewer than two images, or for descriptors that are all alike.
        """
        if whiten is None:
            whiten = not self.encoder.run and len(self.files) >= ENOUGH
        if not whiten:
            return self
        some = np.unique(np.linspace(0, len(self.files) - 1, SOME).astype(int))
        return replace(self, whitening=own_whitening(self.descriptors[some]))

    def search(
        self, photo: Path, top: int, box: Box | None = None, approximate: bool = False
    ) -> list[tuple[str, float]]:
        """The `top` files most similar to a photo (or to a box of it, in its pixels), best first, with the cosine.

        Exact, and shared by the processes that torchrun started; `approximate` asks a FAISS index, in which some of
        them may be missing. Raises `UserError` for a photo that cannot be read or that the encoder knows nothing of,
        where its descriptor would be none (NaN), and where a whitening is to be approximate: the index is of the
        descriptors as they are.
        """
        if approximate and self.whitening:
            raise UserError(
                "the FAISS index holds the descriptors as they are: leave out --approximate, or --whiten"
            )
        if photo.exists():
            existing_file(str(photo))  # a pipe would be waited for, a device be read for ever
        self.encoder.check_suits([photo])
        asked = extract(self.network, image_batches([photo], self.encoder.image, [box]), 1)
        if not _of_unit_length(asked).all():
            raise UserError(
                f"{self.encoder.source} describes {photo} by NaN, or by nothing but zeros: describe the images of "
                f"{self.descriptors.folder} again, with other weights or a run"
            )
        if approximate:
            scores, rows = self.index().search(asked, top, self.descriptors)
        elif self.whitening:
            known = Whitened(self.descriptors, self.whitening)
            scores, rows = search(
                known, self.whitening(asked), top, process_group(), device=device()
            )
        else:
            scores, rows = search(self.descriptors, asked, top, process_group(), device=device())
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        return [(self.files[row], score) for row, score in found if row >= 0]

    def index(self) -> Index:
        """The FAISS index of the descriptors, built when it is first asked for and kept beside the shards.

        Raises `UserError` for a file that is broken, or is the index of other rows.
        """
        if not self._near.exists():
            build_index(self.descriptors).save(self._near)
        found = Index.load(self._near)
        if (len(found), found.faiss.d) != self.descriptors.shape:
            raise UserError(
                f"{self._near} is the index of another collection: delete it, it is made again"
            )
        return found

    @property
    def _near(self) -> Path:
        return self.descriptors.folder / NEAR.replace("*", content_hash(self.descriptors.names, 16))

    def save(self) -> None:
        """Write the list of files, atomically, and then remove the shards that are not in it."""
        folder, shards = self.descriptors.folder, self.descriptors.names
        about = {"files": self.files, "encoder": asdict(self.encoder), "shards": shards}
        write_json(folder / INDEX, about | {"precision": self.descriptors.dtype.name})
        kept = {*shards, self._near.name}
        for path in [*folder.glob(f"*{SHARDS}*"), *folder.glob(NEAR)]:  # half-written ones, too
            if path.name not in kept:
                path.unlink()

    @classmethod
    def load(cls, folder: Path) -> "Collection":
        """The collection in a folder; a `UserError` names one that is missing, broken or something else."""
        if not folder.exists():
            raise UserError(
                f"{folder} does not exist; make it with: dagf extract FOLDER --output {folder}"
            )
        try:
            about = read_json(folder / INDEX)
            encoder = read_fields(Encoder, about["encoder"], str(folder))
            if not all(
                Path(name).name == name and fnmatch(name, SHARDS) for name in about["shards"]
            ):
                raise ValueError("a shard that is none of its own")
            descriptors = ShardedDescriptors(folder, about["shards"])
            files = tuple(map(str, about["files"]))
            if (len(files), about["precision"]) != (len(descriptors), descriptors.dtype.name):
                raise ValueError("the index is of other shards")
        except Exception as error:  # NumPy's reader of a hostile head raises nearly anything
            reason = f": {error}" if isinstance(error, UserError) else ""
            raise UserError(
                f"{folder} is no collection of `dagf extract`, or is broken; make it again{reason}"
            ) from error
        return cls(files, descriptors, encoder)


def own_whitening(descriptors: NDArray[np.floating]) -> Whitening:
    """The whitening by which a collection's own descriptors (N, D) are compared: PCA without labels.

    Their mean, which all of them have in common, is taken out, and the `DIMENSIONS` strongest directions are kept.
    """
    return pca_whitening(
        descriptors, min(DIMENSIONS, len(descriptors) - 1, descriptors.shape[1]), POWER
    )


def build(
    files: Sequence[Path], encoder: Encoder, output: Path, precision: Precision | None = None
) -> Extracted:
    """Describe image files (`find_images`) and keep the collection in the folder `output`.

    Only images whose contents are new are described, so a job that was stopped goes on; what is of another encoder, or
    of images that are gone, is removed once the new index stands. Processes that torchrun started share the work. The
    backbone works in bfloat16 where that is faster. precision: of the kept descriptors (None: half from `LARGE` on).

    Raises `UserError` for an image that cannot be read, for an encoder that knows nothing of the images or describes
    all of them alike, or by NaN, and where `output` holds something else.
    """
    group, half = process_group(), bfloat16_pays()
    encoder.check_suits(files)
    encode = for_inference(on_device(encoder.network()), half)
    about = [encoder.content, "bfloat16" if half else "float32"]
    precision = precision or ("float32" if len(files) < LARGE else "float16")
    with _claimed(output) if group.rank == 0 else nullcontext():
        if len(set(group.gather(content_hash([about, [*map(str, files)]])))) > 1:
            raise UserError(
                "the processes see different images or weights: give all of them the same disk"
            )
        found = extract_changes(encode, about, files, encoder.image, output, precision, group)
        if group.rank == 0:
            _check_made(found.descriptors, encoder, files)
            Collection(tuple(map(str, files)), found.descriptors, encoder).save()
        group.wait()
    return found


def _check_made(descriptors: ShardedDescriptors, encoder: Encoder, files: Sequence[Path]) -> None:
    """Raise `UserError`, naming weights or run, for descriptors (N, D) of `files` that cannot be searched.

    They hold NaN or have no length, or all are one although the images differ: the network has collapsed.
    """
    remedy = "name other weights, or a run, and extract again"
    low, high = (
        np.full(descriptors.shape[1], np.inf, np.float32),
        np.full(descriptors.shape[1], -np.inf, np.float32),
    )
    for start in range(0, len(files), BLOCK):
        rows = np.asarray(descriptors[start : start + BLOCK], np.float32)
        bad = ~_of_unit_length(rows)
        if bad.any():
            file, how = (
                files[start + int(bad.argmax())],
                remedy if bad.all() else f"leave it out, or {remedy}",
            )
            raise UserError(
                f"{encoder.source} describes {file} by NaN, or by nothing but zeros: {how}"
            )
        low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
    if (high - low).max() < LEAST and _differ(files[:SEEN], encoder.image):
        raise UserError(
            f"{encoder.source} describes all {len(files)} images alike, it has collapsed: {remedy}"
        )


def _of_unit_length(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows (N,) of `rows` (N, D) can be searched; NaN fails the comparison."""
    return np.abs(np.linalg.norm(rows, axis=1) - 1) <= 1e-2


def _differ(files: Sequence[Path], spec: ImageSpec) -> bool:
    """Whether the pixels of any two images differ as a network gets them; they are read until they do."""
    first = load_image(files[0], spec)
    return any(not torch.equal(first, load_image(file, spec)) for file in files[1:])


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """The folder of a collection, for this job alone: a second one waits until the first is done."""
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, and a collection is a folder: name another --output, or remove it"
        )
    other = _other(folder)
    if other:
        raise UserError(f"{folder} holds something else ({other}): name a new folder with --output")
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; name another --output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _other(folder: Path) -> str:
    """The name of what a folder holds that is not of a collection, '' where there is no such thing.

    Names alone do not tell: somebody else's `index.json` would be written over, and the shards beside it deleted. What
    is no index of ours is somebody else's; where there is none yet, the list of a begun extraction says whose they are.
    """
    inside = sorted(path.name for path in folder.glob("[!.]*"))
    others = [name for name in inside if not any(fnmatchcase(name, one) for one in OURS)]
    if INDEX in inside and not _is_index(folder / INDEX):
        others.append(INDEX)
    elif inside and INDEX not in inside and not begun(folder):
        others.append(inside[0])
    return others[0] if others else ""


def _is_index(path: Path) -> bool:
    try:
        about = read_json(path)
    except UserError:
        return False
    return isinstance(about, dict) and about.keys() >= FIELDS


def find_images(places: Sequence[Path]) -> list[Path]:
    """The image files among files and in folders, sorted within each folder; a `UserError` where there are none."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place} does not exist")
        if not place.is_dir():
            existing_file(str(place))  # a pipe or a device would be read for ever
            found.append(place)
            continue
        inside = sorted(
            file for file in place.rglob("*") if file.suffix.lower() in IMAGES and file.is_file()
        )
        if not inside:
            raise UserError(f"{place} holds no image ({', '.join(IMAGES)})")
        found += inside
    return found
