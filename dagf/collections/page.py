"""What a search found, and why: as a page of its own, and as a part of a notebook.

For each result four pictures: the result itself, where the network looks in it, and what of it and
of the query makes the two alike (`dagf.analysis.cam.contributions`).
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from IPython.display import HTML

import dagf
from dagf.analysis.cam import contributions, look
from dagf.collections.index import Collection, Ranking
from dagf.console import progress
from dagf.datasets.benchmark import Box
from dagf.files import write_text
from dagf.show.html import style, templates
from dagf.show.pictures import Pixels, address, boxed, heated, lit, thumbnail, upright_size

OUTSIDE = 0.35  # of its light is left to a picture outside the part that is searched for


def table(ranking: Ranking) -> pd.DataFrame:
    """Return results as a table: rank, cosine, file."""
    rows = [(rank, cosine, file) for rank, (file, cosine) in enumerate(ranking, 1)]
    return pd.DataFrame(rows, columns=["rank", "cosine", "file"])


def show(collection: Collection, query: Path, ranking: Ranking, box: Box | None = None) -> HTML:
    """Return results with their reasons, for a notebook."""
    return HTML(render(collection, query, ranking, box))


def write_page(
    page: Path, collection: Collection, query: Path, ranking: Ranking, box: Box | None = None
) -> None:
    """Write results with their reasons as one file that needs nothing beside it."""
    write_text(page, render(collection, query, ranking, box, template="search.html.j2"))


def render(
    collection: Collection,
    query: Path,
    ranking: Ranking,
    box: Box | None = None,
    why: bool = True,
    template: str = "found.html.j2",
) -> str:
    """Return results as HTML beside the query, in which its part is lit; why: with reasons."""
    matches = [
        {"score": cosine, "file": file, "name": Path(file).name}
        | {"picture": address(thumbnail(Path(file)))}
        for file, cosine in ranking
    ]
    if why:
        reasons = progress(_reasons(collection, query, ranking, box), "explaining", len(ranking))
        matches = [match | reason for match, reason in zip(matches, reasons, strict=True)]
    html: str = (
        templates()
        .get_template(template)
        .render(
            query={"file": str(query), "name": query.name, "picture": address(_part(query, box))},
            cropped=box,
            matches=matches,
            why=why,
            encoder=collection.encoder.title,
            whitened=collection.whitening is not None,
            attention=collection.network.head.spatial is not None,
            style=style(),
            version=dagf.__version__,
            images=len(collection.files),
        )
    )
    return html.encode("utf-8", "replace").decode()  # a file's name may be no text at all


def _part(photo: Path, box: Box | None) -> Pixels:
    """Return a photograph in which a box of it is lit."""
    pixels = thumbnail(photo)
    if box is None:
        return pixels
    x1, y1, x2, y2 = box
    factor = pixels.shape[1] / upright_size(photo)[0]
    return boxed(pixels, (x1 * factor, y1 * factor, x2 * factor, y2 * factor), OUTSIDE)


def _reasons(
    collection: Collection, query: Path, ranking: Ranking, box: Box | None
) -> Iterator[dict[str, str]]:
    """Yield the pictures that explain each result.

    looked: where the network looks. here, there: what matches in the result and in the query, ''
    where the pooling does not tell.
    """
    net, spec, whitening = collection.network, collection.encoder.image, collection.whitening
    toward = whitening.toward if whitening else lambda _, other: other
    mine, picture = look(net, query, spec, box), thumbnail(query, box)
    for file, _ in ranking:
        seen, pixels = look(net, Path(file), spec), thumbnail(Path(file))
        plane = seen.effective if seen.attention is None else seen.attention
        here = contributions(net, seen, toward(seen.descriptor, mine.descriptor))
        there = contributions(net, mine, toward(mine.descriptor, seen.descriptor))
        yield {
            "looked": address(heated(pixels, plane)),
            "here": "" if here is None else address(lit(pixels, here)),
            "there": "" if there is None else address(lit(picture, there)),
        }
