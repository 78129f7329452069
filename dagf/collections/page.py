"""What a search found, and why: as a page of its own, and as a part of a notebook.

For each result four pictures: the result itself, where the network looks in it, and what of it and
of the query makes the two alike (`dagf.analysis.cam.contributions`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML

import dagf
from dagf.analysis.cam import contributions, look
from dagf.collections.index import Collection, Ranking
from dagf.console import progress
from dagf.datasets.benchmark import Box
from dagf.files import write_text
from dagf.show.html import style, templates
from dagf.show.pictures import Pixels, address, heated, lit, thumbnail


def table(ranking: Ranking) -> pd.DataFrame:
    """Return results as a table: rank, cosine, file."""
    rows = [(rank, cosine, file) for rank, (file, cosine) in enumerate(ranking, 1)]
    return pd.DataFrame(rows, columns=["rank", "cosine", "file"])


def show(collection: Collection, query: Path, ranking: Ranking, box: Box | None = None) -> HTML:
    """Return results with their reasons, for a notebook."""
    return HTML(_render("found.html.j2", _shown(collection, query, ranking, box)))


def beside(
    collection: Collection,
    query: Path,
    ranking: Ranking,
    box: Box | None,
    picture: Pixels,
    why: bool = False,
) -> str:
    """Return results as HTML beside a picture of the query in which its part is lit."""
    shown = _shown(collection, query, ranking, box, why)
    shown["query"]["picture"] = address(picture)
    return _render("found.html.j2", shown | {"beside": True})


def write_page(
    page: Path, collection: Collection, query: Path, ranking: Ranking, box: Box | None = None
) -> None:
    """Write results with their reasons as one file that needs nothing beside it."""
    shown = _shown(collection, query, ranking, box)
    shown |= {"style": style(), "version": dagf.__version__, "images": len(collection.files)}
    write_text(page, _render("search.html.j2", shown))


def _render(template: str, values: dict[str, Any]) -> str:
    html: str = templates().get_template(template).render(values)
    return html.encode("utf-8", "replace").decode()  # a file's name may be no text at all


def _shown(
    collection: Collection, query: Path, ranking: Ranking, box: Box | None, why: bool = True
) -> dict[str, Any]:
    """Return what the templates show; pictures are addresses of themselves."""
    matches = [
        {"rank": rank, "score": cosine, "file": file, "name": Path(file).name}
        | {"picture": address(thumbnail(Path(file)))}
        for rank, (file, cosine) in enumerate(ranking, 1)
    ]
    if why:
        reasons = progress(_reasons(collection, query, ranking, box), "explaining", len(ranking))
        matches = [match | why for match, why in zip(matches, reasons, strict=True)]
    picture = address(thumbnail(query, box))
    return {
        "query": {"file": str(query), "name": query.name, "picture": picture, "cropped": box},
        "beside": False,
        "matches": matches,
        "why": why,
        "encoder": collection.encoder.title,
        "whitened": collection.whitening is not None,
        "attention": collection.network.head.spatial is not None,
    }


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
