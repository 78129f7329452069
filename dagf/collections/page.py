"""What a search found, and why: as a page of its own, as a part of a notebook, and live.

    page.start(collection)
    page.start(collection, Path("castle.jpg"), (300, 200, 900, 1100))

Live, in JupyterLab, one picks a photograph and cuts a part out of it; in a report, without a
kernel, only the page is shown with which the search would begin. With reasons there are four
pictures for each result: the result itself, where the network looks in it, and what of it and of
the query makes the two alike (`dagf.analysis.cam.contributions`).
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from os.path import commonpath, relpath
from pathlib import Path

import ipywidgets as widgets
from IPython.display import HTML

import dagf
from dagf.analysis.cam import contributions, look
from dagf.collections.index import Collection
from dagf.collections.kept import Ranking
from dagf.console import headless, progress
from dagf.datasets.decode import Box, image_size
from dagf.show.controls import follow
from dagf.show.html import style, templates
from dagf.show.pictures import Pixels, address, boxed, heated, lit, thumbnail

Span = tuple[int, int]  # from and to, in per cent of a side

OUTSIDE = 0.35  # of its light is left to a picture outside the part that is searched for
WHOLE = (0, 100)
LISTED = 1000  # names that are offered: a browser is slow with more; any other can be typed
TOP, MOST = 6, 24  # results of a live search


def render(
    collection: Collection,
    query: Path,
    ranking: Ranking,
    box: Box | None = None,
    why: bool = True,
    template: str = "found.html.j2",
) -> str:
    """Return results as HTML beside the query, in which its part is lit; why: with reasons.

    template: "search.html.j2" for a page that needs nothing beside it.
    """
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
            encoder=collection.made_by.title,
            whitened=collection.whitening is not None,
            attention=collection.network.head.spatial is not None,
            style=style(),
            version=dagf.__version__,
            images=len(collection.files),
        )
    )
    return html.encode("utf-8", "replace").decode()  # a file's name may be no text at all


def _part(photo: Path, box: Box | None) -> Pixels:
    pixels = thumbnail(photo)
    if box is None:
        return pixels
    x1, y1, x2, y2 = box
    factor = pixels.shape[1] / image_size(photo)[0]
    return boxed(pixels, (x1 * factor, y1 * factor, x2 * factor, y2 * factor), OUTSIDE)


def _reasons(
    collection: Collection, query: Path, ranking: Ranking, box: Box | None
) -> Iterator[dict[str, str]]:
    """Yield the pictures that explain each result.

    looked: where the network looks. here, there: what matches in the result and in the query, ''
    where the pooling does not tell.
    """
    net, spec, whitening = collection.network, collection.made_by.spec, collection.whitening
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


def middle(photo: Path) -> Box:
    """Return the middle half of a photograph's width and height, in its pixels."""
    return in_pixels(photo, (25, 75), (25, 75))


def in_pixels(photo: Path, across: Span, down: Span) -> Box:
    """Return a part of a photograph, in per cent of its width and height, as a box in pixels."""
    width, height = image_size(photo)
    (left, right), (top, bottom) = across, down
    return (width * left / 100, height * top / 100, width * right / 100, height * bottom / 100)


def in_per_cent(photo: Path, box: Box) -> tuple[Span, Span]:
    """Return a box in pixels as the nearest per cent of a photograph's width and height."""
    edges = zip(box, image_size(photo) * 2, strict=True)
    left, top, right, bottom = (round(min(max(100 * edge / side, 0), 100)) for edge, side in edges)
    return (left, right), (top, bottom)


def start(
    collection: Collection, photo: Path | None = None, box: Box | None = None
) -> HTML | widgets.Widget:
    """Return the live search of a collection: with controls, or as a static page where headless.

    It begins with a photograph (None: the collection's first), or with a box of it in its pixels.
    """
    photo = photo or Path(collection.files[0])
    across, down = in_per_cent(photo, box) if box else (WHOLE, WHOLE)
    files = list(dict.fromkeys([str(photo), *collection.files]))
    folder = commonpath([Path(file).absolute().parent for file in files])
    names = {relpath(file, folder): Path(file) for file in files}
    compared = lru_cache(collection.whitened)  # a whitening is learned, and a network loaded, once

    def page(query: str, across: Span, down: Span, top: int, whiten: bool, why: bool) -> str:
        file, searched = names.get(query, Path(query).expanduser()), compared(whiten)
        part = None if (across, down) == (WHOLE, WHOLE) else in_pixels(file, across, down)
        return render(searched, file, searched.search(file, top, part), part, why)

    first, whiten = next(iter(names)), collection.whitening is not None
    if headless():
        return HTML(page(first, across, down, TOP, whiten, why=False))
    late = {"continuous_update": False}
    span = partial(widgets.IntRangeSlider, min=0, max=100, **late)
    hint = {"options": list(names)[:LISTED], "placeholder": "a part of a name, or a file"}
    controls = {
        "query": widgets.Combobox(value=first, description="query", **hint, **late),
        "across": span(value=across, description="across, %"),
        "down": span(value=down, description="down, %"),
        "top": widgets.IntSlider(TOP, 1, MOST, description="results", **late),
        "whiten": widgets.Checkbox(whiten, description="whiten"),
        "why": widgets.Checkbox(description="why"),
    }

    def whole(change: object) -> None:
        """Search for the whole of another photograph: both sliders change before it is searched."""
        sides = controls["across"], controls["down"]
        with sides[0].hold_trait_notifications(), sides[1].hold_trait_notifications():
            sides[0].value = sides[1].value = WHOLE

    controls["query"].observe(whole, "value")
    return follow(controls, page, shown=list(controls))
