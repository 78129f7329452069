"""A collection of one's own images, described once and searched often."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from dagf.benchmarks.protocol import Box
from dagf.common import UserError, atomic_path
from dagf.retrieval.batches import image_batches
from dagf.retrieval.images import ImageSpec
from dagf.retrieval.inference import describe
from dagf.retrieval.search import Descriptors, search
from dagf.study import paths
from dagf.study.config import from_mapping
from dagf.study.experiment import placed
from dagf.study.runs import Run, RunStore

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}


@dataclass(frozen=True)
class Collection:
    """Files, their descriptors (N, D), and the run that made them: a query must be described by the same one."""

    files: tuple[str, ...]
    descriptors: Descriptors
    run_id: str
    image: ImageSpec

    def search(self, photo: Path, top: int, box: Box | None = None) -> list[tuple[str, float]]:
        """The `top` files most similar to a photo (or to a box of it, in its pixels), best first, with the cosine."""
        net = placed(_run(self.run_id).network())
        asked = describe(net, image_batches([photo], self.image, [box]), 1)
        scores, rows = search(self.descriptors, asked, top)
        return [(self.files[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]

    def save(self, path: Path) -> None:
        """Write the collection to one .npz file, atomically."""
        about = json.dumps({"files": self.files, "run": self.run_id, "image": asdict(self.image)})
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, descriptors=self.descriptors, about=np.array(about))

    @classmethod
    def load(cls, path: Path) -> "Collection":
        """The collection in a file; a `UserError` names a file that is missing, broken or something else."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
                about = json.loads(str(kept["about"]))
                descriptors = kept["descriptors"]
            image = from_mapping(ImageSpec, about["image"], str(path))
            return cls(tuple(about["files"]), descriptors, about["run"], image)
        except FileNotFoundError as error:
            raise UserError(
                f"{path} does not exist; make it with: dagf extract --run ID FOLDER --output {path}"
            ) from error
        except (BadZipFile, ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise UserError(f"{path} is no collection of `dagf extract`, or is broken; make it again") from error


def build(images: Sequence[Path], run_id: str, output: Path) -> Collection:
    """Describe files and folders (recursively) with a trained run and keep the collection in `output`."""
    files = find_images(images)
    run = _run(run_id)
    image = run.config.image
    rows = describe(placed(run.network()), image_batches(files, image), len(files))
    made = Collection(tuple(map(str, files)), rows, run.id, image)
    made.save(output)
    return made


def find_images(places: Sequence[Path]) -> list[Path]:
    """The image files among files and in folders, sorted within each folder; a `UserError` where there are none."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place} does not exist")
        inside = (
            sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES) if place.is_dir() else [place]
        )
        if not inside:
            raise UserError(f"{place} holds no image ({', '.join(sorted(SUFFIXES))})")
        found += inside
    return found


def _run(run_id: str) -> Run:
    return RunStore(paths.runs()).get(run_id)
