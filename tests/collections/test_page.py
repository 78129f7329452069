"""What was found and why: as a file, in a notebook, and live; its parts by hand, its controls."""

import base64
import io
import json
from pathlib import Path

import bs4
import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from dagf.collections import page as module
from dagf.collections.index import Collection, build, open_encoder
from dagf.collections.page import TOP, WHOLE, in_per_cent, in_pixels, middle, render, start
from dagf.console import HEADLESS
from dagf.datasets.decode import Box, find_images
from dagf.show.pictures import SIDE
from tests.commands import fine, refused
from tests.fixtures import fails, photograph

pytestmark = pytest.mark.usefixtures("one_process")
ODD = """<b>"x" & 'y'.jpg"""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Nine photographs in two folders, one with an odd name; no test changes them."""
    root = tmp_path_factory.mktemp("live")
    for number in range(9):
        name = "town/" + ODD if number == 8 else f"{'sea' if number < 3 else 'town'}/{number}.jpg"
        file = root / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(number // 2, number % 2, 200).resize((200, 100)).save(file)
    return build(find_images([root / "photos"]).files, open_encoder(), root / "index")[0]


def expected(
    collection: Collection, photo: Path, box: Box | None = None, top: int = TOP, why: bool = False
) -> str:
    """The page of a search that is made anew."""
    return render(collection, photo, collection.search(photo, top, box), box, why)


def parts(box: widgets.Widget) -> tuple[dict[str, widgets.Widget], widgets.HTML]:
    """The controls by their descriptions, and the page."""
    controls, *_, page = box.children
    return {one.description: one for one in controls.children}, page


def test_a_file_shows_what_was_found_and_why(collection: Collection, tmp_path: Path) -> None:
    index, page = collection.descriptors.folder, tmp_path / "pages" / "found.html"
    query = index.parent / "photos" / "town" / ODD
    told = ("search", query, "--index", index, "--top", 3, "--crop", 2, 2, 130, 90, "--json")
    rows = json.loads(fine(*told, "--html", page))
    assert rows == json.loads(fine(*told))
    before = page.read_bytes()
    soup = bs4.BeautifulSoup(before, "html.parser")
    assert not soup.select("script, link, b, [srcset]")
    assert f"What is like {ODD}?" in soup.h1.get_text()
    assert str(query) in soup.select_one(".query figcaption").get_text()
    for row, card in zip(rows, soup.select(".matches > li"), strict=True):
        rank, score, file = card.figcaption.get_text().split(" · ")
        assert (int(rank), file) == (rows.index(row) + 1, row["file"])
        assert float(score.removeprefix("cosine ")) == pytest.approx(row["score"], abs=1e-3)
    pictures = soup.select("img")
    assert len(pictures) == 1 + 3 * 4 and all(picture["alt"] for picture in pictures)
    kinds, data = zip(*(picture["src"].split(",") for picture in pictures), strict=True)
    decoded = [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]
    assert set(kinds) == {"data:image/jpeg;base64"} and decoded[0].size == (200, 100)
    assert all(max(picture.size) <= SIDE for picture in decoded)
    light = [np.asarray(picture).mean() for picture in decoded[1:]]
    assert all(here < whole for whole, here in zip(light[::4], light[2::4], strict=True))
    fine(*told, "--html", page)
    assert page.read_bytes() == before
    fine(*told, "--whiten", "--html", page)
    assert "compared without what all the images have in common" in page.read_text()
    assert page.read_text().count("<img") == 1 + 3 * 4


def test_a_file_is_written_over_nothing_else(collection: Collection, tmp_path: Path) -> None:
    query, gone = (Path(collection.files[number]) for number in (0, 5))
    index, page, before = collection.descriptors.folder, tmp_path / "a.html", query.read_bytes()
    said = refused("search", query, "--index", index, "--html", query)
    assert "name a file that ends in .html" in said and query.read_bytes() == before
    gone.rename(tmp_path / "gone.jpg")
    said = refused("search", query, "--index", index, "--html", page)
    (tmp_path / "gone.jpg").rename(gone)
    assert f"{gone.name} is gone since the images were extracted" in said and not page.exists()


def test_a_part_in_per_cent_is_a_box_in_pixels(collection: Collection) -> None:
    photo = Path(collection.files[0])  # 200 x 100
    assert in_pixels(photo, (25, 75), (10, 90)) == (50, 10, 150, 90)
    assert in_per_cent(photo, (50, 10, 150, 90)) == ((25, 75), (10, 90))
    assert in_per_cent(photo, (-9, 33.4, 999, 66.6)) == ((0, 100), (33, 67))
    assert middle(photo) == (50, 25, 150, 75)


def test_headless_is_a_still_page(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(module, "widgets", None)  # whatever asks for one fails
    photo, box = Path(collection.files[3]), (50, 10, 150, 90)
    assert start(collection, photo, box).data == expected(collection, photo, box)
    assert start(collection).data == expected(collection, Path(collection.files[0]))
    fails(r"nowhere\.jpg does not exist", start, collection, Path("nowhere.jpg"))


def test_results_follow_the_controls(collection: Collection, live: None) -> None:
    photo = Path(collection.files[1])
    controls, page = parts(start(collection, photo, middle(photo)))
    assert page.value == expected(collection, photo, middle(photo))
    controls["across, %"].value, controls["down, %"].value = (20, 60), (0, 50)
    part = (40, 0, 120, 50)
    assert page.value == expected(collection, photo, part)
    controls["results"].value, controls["whiten"].value, controls["why"].value = 3, True, True
    assert page.value == expected(collection.whitened(True), photo, part, 3, why=True)
    controls["down, %"].value = (30, 30)
    assert page.value.startswith(f"<p>{photo}: box (40.0, 30.0, 120.0, 30.0) has no pixel")


def test_any_file_can_be_searched(collection: Collection, tmp_path: Path, live: None) -> None:
    own, box = tmp_path / "own.png", (0, 0, 45, 45)
    Image.new("RGB", (90, 90), "red").save(own)
    first = Path(collection.files[0])
    controls, page = parts(start(collection, first, middle(first)))
    query = controls["query"]
    assert query.options[:3] == ("sea/0.jpg", "sea/1.jpg", "sea/2.jpg") and len(query.options) == 9
    assert query.value == query.options[0]
    query.value = str(own)  # another photograph is searched as a whole
    assert controls["across, %"].value == controls["down, %"].value == WHOLE
    assert page.value == expected(collection, own)
    query.value = "<castle>"
    assert page.value.startswith("<p>&lt;castle&gt; does not exist")
    query.value = query.options[3]
    assert page.value == expected(collection, Path(collection.files[3]))
    controls, page = parts(start(collection, own, box))
    query = controls["query"]
    assert len(query.options) == 10 and query.value == query.options[0]
    assert page.value == expected(collection, own, box)
