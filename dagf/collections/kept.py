"""What the folder of a collection keeps, and how it is searched: without PyTorch and pandas.

`index.json` has the files, what made their descriptors, and the shards in the order of their rows
(`dagf.retrieval.shards`); beside it lie the encoder as an ONNX graph, where one made them, and the
whitening of the descriptors.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from dagf import paths
from dagf.datasets import decode
from dagf.datasets.decode import Box, ImageSpec
from dagf.errors import UserError
from dagf.files import content_hash, read_json
from dagf.retrieval.graph import Graph
from dagf.retrieval.search import Descriptors, Found, Rows, search
from dagf.retrieval.shards import ShardedDescriptors
from dagf.retrieval.whitening import Whitened, Whitening, principal_components
from dagf.study.provenance import code_only

INDEX = "index.json"
WHITENING = "whitening-*.npz"
SOME = 20_000  # images to learn a whitening from: many times the dimensions
DIMENSIONS = 128  # more gain nothing over five sets: benchmarks/descriptors.csv
# Nothing is divided by the variances: the images of one folder are too few different things for
# that. (It was worse in trials of which no record is kept.)
POWER = 0.0
ENOUGH = 100  # images, whose mean says what all of them have in common

AGAIN = "run `dagf extract` again"

Ranking = list[tuple[str, float]]  # files with their cosines, best first


@dataclass(frozen=True)
class MadeBy:
    """What made descriptors: a trained run, or a backbone and a file of weights ('': its own).

    content: the hash of its code and weights. title: for people. drawn: whether it learned from
    drawings. graph: the file's name, '' for the network itself. cosine: the mean between the
    graph's descriptors and the network's, on some of the images. pixels: the code of `decode`,
    alone: what it imports makes no pixels.
    """

    run: str
    weights: str
    backbone: str
    content: str
    title: str
    image: dict[str, Any]
    drawn: bool
    graph: str = ""
    cosine: float = 1.0
    pixels: str = content_hash(code_only(Path(decode.__file__).read_text("utf-8")))

    @property
    def spec(self) -> ImageSpec:
        return ImageSpec(**self.image)


@dataclass(frozen=True)
class Kept:
    """Files, their descriptors (N, D), and what made them.

    whitening: what the descriptors, and the query's, are compared under; None: as they are.
    """

    files: tuple[str, ...]
    descriptors: ShardedDescriptors
    made_by: MadeBy
    whitening: Whitening | None = None

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.descriptors.folder / self.made_by.graph)

    def whitened(self, whiten: bool | None = None) -> Self:
        """Return the same collection, compared under its own whitening or not; None: as suits it.

        It suits descriptors off the shelf, of `ENOUGH` images: a trained head has its own metric.
        """
        if whiten is None:
            with suppress(UserError):  # copies of one image have nothing to whiten
                return self.whitened(not self.made_by.run and len(self.files) >= ENOUGH)
        if not whiten:
            return replace(self, whitening=None) if self.whitening else self
        try:
            # NumPy itself leaves a broken file open.
            with self.whitening_file.open("rb") as opened, np.load(opened) as kept:
                return replace(self, whitening=Whitening(kept["mean"], kept["projection"]))
        except (OSError, ValueError, EOFError, KeyError, BadZipFile):
            return replace(self, whitening=self.learned_whitening())

    @property
    def whitening_file(self) -> Path:
        return self._beside(WHITENING)

    def learned_whitening(self) -> Whitening:
        """Return a PCA of `SOME` of the descriptors, in their `DIMENSIONS` strongest directions.

        Their mean, which all of them have in common, is taken out. Raise `UserError` for one image.
        """
        if len(self.files) < 2:
            raise UserError("one image has nothing in common with others: leave out --whiten")
        some = np.unique(np.linspace(0, len(self.files) - 1, SOME).astype(int))
        rows = self.descriptors[some]
        dimensions = min(DIMENSIONS, len(rows) - 1, rows.shape[1])
        return principal_components(rows).whitening(dimensions, POWER)

    def _beside(self, pattern: str) -> Path:
        """Return where something of these very shards is kept."""
        names = content_hash(self.descriptors.names, 16)
        return self.descriptors.folder / pattern.replace("*", names)

    def search(self, query: Path, top: int, box: Box | None = None) -> Ranking:
        """Return the `top` files most similar to a photograph, or to a box of it in its pixels.

        The search is exact. Raises `UserError` for a photograph that cannot be read or that the
        encoder does not suit.
        """
        check_suits(self.made_by, [query])
        known: Rows = self.descriptors
        row = self.describe(query, box)
        if self.whitening:
            known, row = Whitened(known, self.whitening), self.whitening(row)
        return self.named(self.nearest(known, row, top))

    def describe(self, query: Path, box: Box | None = None) -> Descriptors:
        """Return the descriptor (1, D) of a photograph, or of a box of it in its pixels."""
        return self.graph.describe(query, self.made_by.spec, box)

    def nearest(self, known: Rows, row: Descriptors, top: int) -> Found:
        return search(known, row, top)

    def named(self, found: Found) -> Ranking:
        """Return the files of rows that were found for one query."""
        pairs = zip(found[1][0].tolist(), found[0][0].tolist(), strict=True)
        return [(self.files[row], score) for row, score in pairs if row >= 0]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the collection in a folder. Raises `UserError` where it is missing or broken."""
        if not folder.exists():
            raise UserError(
                f"{folder} does not exist; make it with: dagf extract FOLDER --output {folder}"
            )
        try:
            about = read_json(folder / INDEX)
            if "content" in about and "made_by" not in about:
                raise UserError(f"{folder} is of an earlier dagf: run `dagf extract` again")
            made_by = MadeBy(**about["made_by"])
            files, descriptors = tuple(about["files"]), ShardedDescriptors(folder, about["shards"])
        except (UserError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is no collection of `dagf extract`, or is broken; make it again: {error}"
            ) from error
        if made_by.pixels != MadeBy.pixels:
            raise UserError(f"dagf decodes images otherwise than when {folder} was made: {AGAIN}")
        return cls(files, descriptors, made_by)


def check_suits(made_by: MadeBy, files: Sequence[Path]) -> None:
    """Raise `UserError` where a run that learned from drawings gets other images."""
    home = paths.data().resolve() / "toytown-"  # of one or another
    other = next((file for file in files if not str(file.resolve()).startswith(str(home))), None)
    if other and made_by.drawn:
        raise UserError(
            f"run {made_by.run} learned from drawings (Toytown) and knows nothing of photographs "
            f"such as {other}: leave --run out, or name a run of `dagf train dagf --benchmark "
            "PHOTOS`"
        )
