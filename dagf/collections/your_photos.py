"""What 08 searches: a folder of photographs, or, where none is named, the first test images of a study."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dagf import paths
from dagf.collections.encoders import Encoder, of_run, off_the_shelf
from dagf.collections.index import Collection, build, find_images
from dagf.datasets.benchmark import Box
from dagf.datasets.images import load_image
from dagf.files import content_hash
from dagf.study.study import Study

FIRST = 200  # test images of a study


@dataclass(frozen=True)
class Search:
    """Images, what describes them, and a question: a photograph and a part of it, in its pixels."""

    title: str
    images: tuple[Path, ...]
    encoder: Encoder
    query: Path
    box: Box

    @property
    def folder(self) -> Path:
        """Where the collection is kept, below the data folder."""
        return paths.data() / "collections" / content_hash([self.title, self.encoder.content])

    def collection(self, whiten: bool | None = None) -> Collection:
        """The described images, as `Collection.whitened` compares them; what is new or changed is described now."""
        build(self.images, self.encoder, self.folder)
        return Collection.load(self.folder).whitened(whiten)


def in_folder(photos: str, query: str = "", run: str = "", weights: str = "") -> Search:
    """The search of a folder of photographs: its first one is the query, the middle of it the part, unless named.

    run: the trained run to describe with; '' for the descriptor off the shelf, with `weights` or torchvision's. Raises
    `UserError` for anything that does not exist or does not fit.
    """
    images, folder = (
        find_images([Path(photos).expanduser()]),
        str(Path(photos).expanduser().resolve()),
    )
    asked = Path(query).expanduser() if query else images[0]
    return Search(
        folder, tuple(images), of_run(run) if run else off_the_shelf(weights), asked, middle(asked)
    )


def in_study(study: Study, query: str = "", run: str = "") -> Search:
    """The search of a study's first test images, by its first query and that query's box.

    They are described by DAGF as it was trained in the study, or off the shelf where nothing is trained.
    """
    if not run and study.training:
        run = study.run("dagf").id
    encoder = of_run(run) if run else off_the_shelf(str(study.weights or ""))
    first, images = study.test.queries[0], study.test.database_paths[:FIRST]
    asked = Path(query).expanduser() if query else study.test.root / first.file
    box = None if query else first.box
    return Search(
        f"{study.title} {study.test_id}", tuple(images), encoder, asked, box or middle(asked)
    )


def middle(photo: Path) -> Box:
    """The middle half of a photograph's width and height, in its pixels."""
    height, width = size(photo)
    return (width / 4, height / 4, width * 3 / 4, height * 3 / 4)


@lru_cache(maxsize=256)
def size(photo: Path) -> tuple[int, int]:
    """The height and width of an upright photograph in pixels; it is decoded for that, once."""
    height, width = load_image(photo).shape[1:]
    return height, width
