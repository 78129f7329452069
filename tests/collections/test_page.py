"""A page of what was found and why: its pictures, its words, and what it is not written over."""

import base64
import io
import json
from pathlib import Path

import bs4
import numpy as np
import pytest
from PIL import Image

from dagf.collections.encoders import Encoder, open_encoder
from dagf.collections.index import Collection, build, find_images
from dagf.collections.page import table, write_page
from dagf.show.pictures import SIDE
from dagf.study.runs import Run
from tests.commands import fine, refused
from tests.fixtures import photograph

ODD = """<b>"x" & 'y'.jpg"""


@pytest.fixture(scope="module")
def index(home: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of five photographs, one with an odd name."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "photos").mkdir()
    for number, name in enumerate((ODD, "a.jpg", "b.jpg", "c.jpg", "d.jpg")):
        photograph(number, 0).save(folder / "photos" / name)
    build(find_images([folder / "photos"]), open_encoder(run.id), folder / "index")
    return folder / "index"


def test_a_page_shows_what_was_found_and_why(index: Path, tmp_path: Path) -> None:
    query, page = index.parent / "photos" / ODD, tmp_path / "pages" / "found.html"
    told = ("search", query, "--index", index, "--top", 3, "--crop", 2, 2, 30, 28, "--json")
    rows = json.loads(fine(*told, "--html", page))
    assert rows == json.loads(fine(*told))
    soup = bs4.BeautifulSoup(page.read_text(), "html.parser")
    assert not soup.select("script, link, b, [srcset]")
    assert f"What is like {ODD}?" in soup.h1.get_text()
    assert str(query) in soup.select_one(".query figcaption").get_text()
    for row, card in zip(rows, soup.select(".matches > li"), strict=True):
        rank, score, file = card.figcaption.get_text().split(" · ")
        assert (int(rank), file) == (rows.index(row) + 1, row["file"])
        assert float(score.removeprefix("cosine ")) == pytest.approx(row["score"], abs=1e-3)
    pictures = soup.select("img")
    assert len(pictures) == 1 + 3 * 4 and all(picture["alt"] for picture in pictures)
    decoded = [_decoded(picture["src"]) for picture in pictures]
    assert decoded[0].size == (32, 32)
    assert all(max(picture.size) <= SIDE for picture in decoded)
    light = [np.asarray(picture).mean() for picture in decoded[1:]]
    assert all(here < whole for whole, here in zip(light[::4], light[2::4], strict=True))
    before = page.read_bytes()
    fine(*told, "--html", page)
    assert page.read_bytes() == before
    fine(*told, "--whiten", "--html", page)
    assert "compared without what all the images have in common" in page.read_text()
    assert page.read_text().count("<img") == 1 + 3 * 4


def _decoded(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_page_is_written_over_nothing_else(index: Path, tmp_path: Path) -> None:
    query = index.parent / "photos" / "a.jpg"
    before = query.read_bytes()
    said = refused("search", query, "--index", index, "--html", query)
    assert "name a file that ends in .html" in said
    assert query.read_bytes() == before
    gone, page = index.parent / "photos" / "d.jpg", tmp_path / "found.html"
    gone.rename(tmp_path / "d.jpg")
    said = refused("search", query, "--index", index, "--html", page)
    (tmp_path / "d.jpg").rename(gone)
    assert "d.jpg does not exist" in said and not page.exists()


def test_a_network_is_loaded_once_for_many_searches(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, whole = [], Encoder.network
    monkeypatch.setattr(Encoder, "network", lambda self: loaded.append(self) or whole(self))
    known, query = Collection.load(index), index.parent / "photos" / "a.jpg"
    assert loaded == []
    first = known.search(query, 3)
    assert known.search(query, 3) == first
    write_page(tmp_path / "found.html", known, query, first)
    assert loaded == [known.encoder]


def test_results_as_a_table() -> None:
    frame = table([("b.jpg", 0.9), ("a.jpg", 0.8)])
    assert frame.to_dict("list") == {
        "rank": [1, 2],
        "cosine": [0.9, 0.8],
        "file": ["b.jpg", "a.jpg"],
    }
