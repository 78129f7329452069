"""A folder of photographs, described once and searched: what is kept, what is refused, and by several processes."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bs4
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dagf.collections import changes
from dagf.collections import index as collection
from dagf.collections.encoders import OFF_THE_SHELF, Encoder, of_run
from dagf.collections.index import Collection, _check_made, build, find_images
from dagf.collections.page import SIDE, write_page
from dagf.datasets.batches import image_batches
from dagf.datasets.images import ImageSpec
from dagf.datasets.training_sets import TrainingSet
from dagf.devices import bfloat16_pays
from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.model.backbone import BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.paths import ROOT
from dagf.retrieval.ann import build_index
from dagf.retrieval.extract import SHARDS, extract, for_inference
from dagf.study import parallel
from dagf.study.runs import Run
from tests.commands import dagf, fine, refused
from tests.fixtures import Workshop, configured, mobilenet, photograph, write_photographs

BROKEN = "is no collection of `dagf extract`, or is broken; make it again"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder, with 37 photographs; no test changes them."""
    root = tmp_path_factory.mktemp("collections") / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    write_photographs(root / "photos")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(ROOT, str(root))
        patched.setattr(parallel, "cores", lambda: 1)
        yield root


@pytest.fixture(scope="module")
def run(home: Path, data: TrainingSet) -> Run:
    """A trained run."""
    return Workshop(home / "data", data).train(configured("gem", epochs=1))


@pytest.fixture
def photos(home: Path, tmp_path: Path) -> Path:
    """A copy of the photographs, which may be changed."""
    return Path(shutil.copytree(home / "photos", tmp_path / "photos"))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight images."""
    monkeypatch.setattr(changes, "SHARD", 8)


@pytest.fixture
def index(home: Path, run: Run, tmp_path: Path, small_shards: None) -> Path:
    """A collection of the photographs, in five shards."""
    path = tmp_path / "made" / "photos.index"
    said = fine("extract", "--run", run.id[:5], home / "photos", "--output", path)
    assert said.startswith(f"37 images in {path}: 37 described in ")
    assert said.endswith(" images/s\n")
    return path


def shards(folder: Path) -> dict[str, int]:
    """The shards that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(SHARDS)}


def test_a_folder_holds_shards_and_their_index(home: Path, run: Run, index: Path) -> None:
    about = read_json(index / "index.json")
    assert about["encoder"]["run"] == run.id
    assert about["precision"] == "float32"
    assert about["encoder"]["image"] == {"size": 32, "mode": "longest", "resize_crop": True}
    assert about["files"] == [str(path) for path in sorted((home / "photos").rglob("*.jpg"))]
    assert len(about["shards"]) == 5
    assert {path.name for path in index.iterdir()} == {
        "index.json",
        "contents.json",
        ".lock",
        *about["shards"],
    }
    found = Collection.load(index)
    files = [Path(file) for file in found.files]
    net = for_inference(run.network(), bfloat16_pays())
    expected = extract(net, image_batches(files, run.config.image), len(files))
    np.testing.assert_allclose(found.descriptors[:], expected, atol=1e-5)


def test_extract_and_search(home: Path, index: Path) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    found = json.loads(fine("search", asked, "--index", index, "--top", 5, "--json"))
    assert len(found) == 5
    assert found[0] == {"file": str(asked), "score": pytest.approx(1, abs=1e-3)}
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    lines = fine("search", asked, "--index", index, "--top", 2).splitlines()
    assert [line.split("  ")[1] for line in lines] == [row["file"] for row in found[:2]]
    assert len(fine("search", asked, "--index", index, "--top", 999).splitlines()) == 37
    cropped = fine("search", asked, "--index", index, "--top", 1, "--crop", 2, 2, 30, 30)
    assert len(cropped.splitlines()) == 1
    assert "box" in refused("search", asked, "--index", index, "--crop", 90, 90, 99, 99)


def test_names_do_not_move_the_cursor(home: Path, run: Run, photos: Path, tmp_path: Path) -> None:
    odd = photos / "jpg" / "a\x1b[31m\nb.jpg"
    (photos / "jpg" / "5-0.jpg").rename(odd)
    out, page = tmp_path / "\x1b[2J", tmp_path / "\n.html"
    told = fine("extract", "--run", run.id, odd, "--output", out)
    told += fine("search", odd, "--index", out)
    told += dagf("search", odd, "--index", out, "--html", page).stderr
    assert r"a\x1b[31m\nb.jpg" in told and r"/\x1b[2J: 1 described" in told and r"/\n.html" in told
    assert "\x1b" not in told.replace("\x1b[A", "")  # as a progress bar has it
    assert "\n.html" not in told


def test_an_approximate_search_builds_its_index_once(
    home: Path, run: Run, photos: Path, index: Path
) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    exact = fine("search", asked, "--index", index)
    assert (
        fine("search", asked, "--index", index, "--approximate") == exact
    )  # a flat index, for so few
    (near,) = index.glob("near-*.faiss")
    built = near.stat().st_mtime_ns
    assert fine("search", asked, "--index", index, "--approximate", "--top", 3) == "".join(
        exact.splitlines(True)[:3]
    )
    build(find_images([home / "photos"]), of_run(run.id), index)
    assert near.stat().st_mtime_ns == built
    near.write_bytes(b"no index")
    assert f"{near.name} is no FAISS index" in refused(
        "search", asked, "--index", index, "--approximate"
    )
    build_index(np.eye(40, 128, dtype=np.float32)).save(near)
    said = refused("search", asked, "--index", index, "--approximate")
    assert f"{near} is the index of another collection: delete it, it is made again" in said
    (photos / "jpg" / "other-1.jpg").unlink()
    build(find_images([photos]), of_run(run.id), index)
    assert not near.exists()  # it was of other rows
    assert "other-1.jpg" not in fine(
        "search", asked, "--index", index, "--approximate", "--top", 99
    )


def test_a_whitened_search_compares_what_sets_images_apart(
    home: Path, run: Run, photos: Path, index: Path
) -> None:
    """As by hand: the cosine of centred descriptors in the span of the collection's own."""
    fine("extract", "--run", run.id, photos, "--output", index)
    asked = photos / "jpg" / "5-0.jpg"
    told = ("search", asked, "--index", index, "--top", 37, "--json")
    plain, white = (json.loads(fine(*told, *more)) for more in ((), ("--whiten",)))
    known = Collection.load(index)
    rows = known.descriptors[:].astype(float)
    values, directions = np.linalg.eigh(np.cov(rows.T))
    kept = np.argsort(values)[-36:]  # 37 rows span no more
    query = extract(known.encoder.network(), image_batches([asked], known.encoder.image), 1)
    apart = (np.vstack([rows, query]) - rows.mean(0)) @ directions[:, kept]
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    expected = apart[:-1] @ apart[-1]
    assert [row["score"] for row in white] == pytest.approx(
        sorted(expected, reverse=True), abs=2e-4
    )
    assert {row["file"] for row in white} == {row["file"] for row in plain}
    assert white[0]["file"] == str(asked)
    assert [row["score"] for row in white] != [row["score"] for row in plain]
    assert "leave out --approximate, or --whiten" in refused(*told, "--whiten", "--approximate")
    page = home / "whitened.html"
    fine(*told[:-2], 3, "--whiten", "--html", page)
    assert "compared without what all the images have in common" in page.read_text()
    assert page.read_text().count("<img") == 1 + 3 * 4


def test_what_suits_a_collection_is_decided_by_its_encoder_and_size() -> None:
    """Off the shelf and from a hundred images on the mean is taken out; a trained head is compared as it is."""
    rows = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)
    off_the_shelf, trained = (Encoder(run, "", ImageSpec(32), "content") for run in ("", "0c07"))
    for encoder, count, suits in (
        (off_the_shelf, 100, True),
        (off_the_shelf, 99, False),
        (trained, 100, False),
    ):
        known = Collection(tuple(map(str, range(count))), rows[:count], encoder)  # type: ignore[arg-type]
        assert (known.whitened().whitening is not None) is suits
        assert known.whitened(True).whitening is not None
        assert known.whitened(False) is known
    mean = Collection(tuple(map(str, range(100))), rows, off_the_shelf).whitened().whitening  # type: ignore[arg-type]
    assert mean is not None and np.allclose(mean.mean, rows.mean(0), atol=1e-6)


def test_half_precision_is_asked_for_or_comes_with_size(
    home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    fine(
        "extract",
        "--run",
        run.id,
        home / "photos",
        "--output",
        tmp_path / "half",
        "--precision",
        "float16",
    )
    half = Collection.load(tmp_path / "half")
    assert half.descriptors.dtype == np.float16
    assert half.search(asked, 1) == [(str(asked), pytest.approx(1, abs=1e-2))]
    monkeypatch.setattr(collection, "LARGE", 37)
    assert (
        build(find_images([home / "photos"]), of_run(run.id), tmp_path / "large").descriptors.dtype
        == np.float16
    )
    assert (
        build(
            find_images([home / "photos"]), of_run(run.id), tmp_path / "large", "float32"
        ).descriptors.dtype
        == np.float32
    )


# --- a page of what was found -------------------------------------------------------------------------------------

ODD = """<b>"x" & 'y'.jpg"""


def test_a_page_shows_what_was_found_and_why(
    run: Run, photos: Path, index: Path, tmp_path: Path
) -> None:
    asked, page = photos / "jpg" / ODD, tmp_path / "pages" / "found.html"
    (photos / "jpg" / "5-0.jpg").rename(asked)
    fine("extract", "--run", run.id, photos, "--output", index)
    told = ("search", asked, "--index", index, "--top", 3, "--crop", 2, 2, 30, 28, "--json")
    rows = json.loads(fine(*told, "--html", page))
    assert rows == json.loads(fine(*told))
    soup = bs4.BeautifulSoup(page.read_text(), "html.parser")
    assert not soup.select("script, link, b, [srcset]")
    assert f"What is like {ODD}?" in soup.h1.get_text()
    assert f"{asked}" in soup.select_one(".query figcaption").get_text()
    for row, card in zip(rows, soup.select(".matches > li"), strict=True):
        rank, score, file = card.figcaption.get_text().split(" · ")
        assert (int(rank), file) == (rows.index(row) + 1, row["file"])
        assert float(score.removeprefix("cosine ")) == pytest.approx(row["score"], abs=1e-3)
    pictures = soup.select("img")
    assert len(pictures) == 1 + 3 * 4
    assert all(picture["alt"] for picture in pictures)
    decoded = [_decoded(picture["src"]) for picture in pictures]
    assert decoded[0].size == (28, 26)
    assert all(max(picture.size) <= SIDE for picture in decoded)
    lit = [np.asarray(picture).mean() for picture in decoded[1:]]
    assert all(here < whole for whole, here in zip(lit[::4], lit[2::4], strict=True))
    before = page.read_bytes()
    fine(*told, "--html", page)
    assert page.read_bytes() == before


def _decoded(address: str) -> Image.Image:
    kind, _, data = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_page_is_written_over_nothing_else(
    home: Path, photos: Path, index: Path, tmp_path: Path
) -> None:
    asked = photos / "jpg" / "5-0.jpg"
    before = asked.read_bytes()
    assert "name a file that ends in .html" in refused(
        "search", asked, "--index", index, "--html", asked
    )
    assert asked.read_bytes() == before
    (tmp_path / "folder.html").mkdir()
    for place in (tmp_path / "folder.html", asked / "found.html"):
        assert f"cannot write {place}" in refused(
            "search", asked, "--index", index, "--html", place
        )
    (home / "photos" / "jpg" / "6-0.jpg").rename(tmp_path / "6-0.jpg")
    try:
        said = refused(
            "search", asked, "--index", index, "--top", 99, "--html", tmp_path / "found.html"
        )
        assert "6-0.jpg does not exist" in said
    finally:
        (tmp_path / "6-0.jpg").rename(home / "photos" / "jpg" / "6-0.jpg")
    assert not (tmp_path / "found.html").exists()


# --- what describes them ------------------------------------------------------------------------------------------


def test_a_run_of_drawings_is_refused_for_photographs(
    home: Path, data: TrainingSet, photos: Path
) -> None:
    drawn = replace(data, id="toytown-0123456789ab")
    run = Workshop(home / "data", drawn).train(replace(configured("gem", epochs=1), data=drawn.id))
    said = refused("extract", "--run", run.id, photos, "--output", photos / "out")
    assert f"run {run.id} learned from drawings (Toytown)" in said
    assert "leave --run out, or name a run of `dagf train dagf --benchmark PHOTOS`" in said
    assert not (photos / "out").exists()
    shutil.copytree(photos, home / "data" / drawn.id)
    assert build(find_images([home / "data" / drawn.id]), of_run(run.id), photos / "out").made == 37
    assert "learned from drawings" in refused(
        "extract", "--run", run.id, home / "data" / drawn.id, photos
    )
    asked = Path("jpg") / "5-0.jpg"
    (drawing, _), *_ = Collection.load(photos / "out").search(home / "data" / drawn.id / asked, 1)
    assert drawing == str(home / "data" / drawn.id / asked)
    said = refused("search", photos / asked, "--index", photos / "out")
    assert (
        f"learned from drawings (Toytown) and knows nothing of photographs such as {photos / asked}"
        in said
    )


def test_a_network_is_loaded_once_for_many_searches(
    home: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, loaded, whole = home / "photos" / "jpg" / "5-0.jpg", [], Encoder.network
    monkeypatch.setattr(Encoder, "network", lambda self: loaded.append(self) or whole(self))
    known = Collection.load(index)
    assert loaded == []
    first = known.search(asked, 3)
    assert known.search(asked, 3) == first
    write_page(tmp_path / "found.html", known, asked, first)
    assert loaded == [known.encoder]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of some MobileNetV2."""
    return mobilenet(tmp_path_factory.mktemp("weights") / "mobilenet.pth", 5)


def test_without_a_run_nothing_is_trained(photos: Path, weights: Path, tmp_path: Path) -> None:
    """The descriptors are those of the named variant on the backbone with these weights."""
    files = sorted((photos / "jpg").glob("5-*.jpg"))
    fine("extract", *files, "--weights", weights, "--output", tmp_path / "shelf")
    found = Collection.load(tmp_path / "shelf")
    assert (found.encoder.run, found.encoder.weights) == ("", str(weights))
    assert "nothing trained, on mobilenet_v2 with mobilenet.pth" in found.encoder.words
    net = RetrievalNet(
        BackboneSpec("mobilenet_v2", "features.18", str(weights)), variant(OFF_THE_SHELF)
    ).eval()
    expected = extract(
        for_inference(net, bfloat16_pays()),
        image_batches(files, ImageSpec(225, "squash")),
        len(files),
    )
    np.testing.assert_allclose(found.descriptors[:], expected, atol=1e-4)
    page = tmp_path / "found.html"
    rows = json.loads(
        fine("search", files[2], "--index", tmp_path / "shelf", "--html", page, "--json")
    )
    assert {row["file"]: row["score"] for row in rows}[str(files[2])] == pytest.approx(1, abs=1e-3)
    assert "activation" in page.read_text()


def test_weights_that_changed_are_named(photos: Path, tmp_path: Path) -> None:
    file, asked = mobilenet(tmp_path / "net.pth", 6), photos / "jpg" / "5-0.jpg"
    made = ("--weights", file, "--output", tmp_path / "shelf")
    fine("extract", asked, *made)
    before = shards(tmp_path / "shelf")
    mobilenet(file, 7)
    said = refused("search", asked, "--index", tmp_path / "shelf")
    assert f"{file} changed since the images were described" in said
    fine("extract", asked, *made)
    assert before.keys().isdisjoint(shards(tmp_path / "shelf"))
    assert len(fine("search", asked, "--index", tmp_path / "shelf").splitlines()) == 1
    file.unlink()
    assert f"{file} does not exist" in refused("search", asked, "--index", tmp_path / "shelf")


def spoilt(weights: Path, factor: float) -> Path:
    """The same weights with every convolution times `factor`; 0 leaves of a picture nothing, NaN no number."""
    path = weights.with_name(f"{factor}.pth")
    values = torch.load(weights, weights_only=True)
    torch.save(
        {key: value * factor if value.dim() == 4 else value for key, value in values.items()}, path
    )
    return path


def test_weights_that_describe_all_alike_or_by_nothing_are_refused(
    photos: Path, weights: Path, tmp_path: Path
) -> None:
    files = sorted((photos / "jpg").glob("5-*.jpg"))
    out = ("--output", tmp_path / "out")
    fine("extract", *files, "--weights", weights, *out)
    before = (tmp_path / "out" / "index.json").read_bytes()
    remedy = "name other weights, or a run, and extract again"
    for factor in (float("nan"), 0.0):
        bad = spoilt(weights, factor)
        said = refused("extract", *files, "--weights", bad, *out)
        assert said.startswith(f"dagf: {bad} describes ") and said.endswith(f": {remedy}")
        assert "leave it out" not in said
    assert (tmp_path / "out" / "index.json").read_bytes() == before
    assert json.loads(fine("search", files[2], "--index", tmp_path / "out", "--json"))[0][
        "file"
    ] == str(files[2])


def alike(rows: NDArray[np.float32], files: list[Path]) -> str:
    """What is said of the descriptors of these files, by some weights."""
    with pytest.raises(UserError) as caught:
        _check_made(rows, Encoder("", "some.pth", ImageSpec(16, "squash"), ""), files)  # type: ignore[arg-type]
    return str(caught.value)


def test_only_different_images_may_not_be_alike(photos: Path) -> None:
    files, ones = find_images([photos])[:3], np.full((3, 4), 0.5, np.float32)
    copies = [files[0], Path(shutil.copy(files[0], photos / "copy.jpg"))]
    off_the_shelf = Encoder("", "some.pth", ImageSpec(16, "squash"), "")
    for good, of in (
        (ones[:1], files[:1]),
        (ones[:2], copies),
        (np.eye(3, 4, dtype=np.float32), files),
    ):
        _check_made(good, off_the_shelf, of)  # type: ignore[arg-type]
    assert "some.pth describes all 3 images alike, it has collapsed: name other weights" in alike(
        ones, files
    )
    ones[1] = np.nan
    assert (
        f"some.pth describes {files[1]} by NaN, or by nothing but zeros: leave it out, or "
        in alike(ones, files)
    )


def test_a_photo_without_a_descriptor_names_the_weights(
    home: Path, run: Run, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    monkeypatch.setattr(
        collection, "describe", lambda *given: np.full((1, 128), np.nan, np.float32)
    )
    said = refused("search", asked, "--index", index)
    assert (
        f"the run {run.id} describes {asked} by NaN, or by nothing but zeros: describe the images of {index}"
        in said
    )


def test_weights_and_a_run_are_one_too_many(
    run: Run, photos: Path, weights: Path, tmp_path: Path
) -> None:
    out = ("--output", tmp_path / "out")
    said = refused("extract", photos, "--run", run.id, "--weights", weights, *out)
    assert "leave out --weights, or --run" in said
    assert "nowhere.pth is no file" in refused(
        "extract", photos, "--weights", tmp_path / "nowhere.pth", *out
    )


# --- what is kept, replaced, removed ------------------------------------------------------------------------------


def test_what_fits_is_kept_and_what_does_not_is_removed(
    run: Run, photos: Path, tmp_path: Path, index: Path
) -> None:
    """The copy's files have the contents of those that the index was made of; its last two are then taken away."""
    before = shards(index)
    again = build(find_images([photos]), of_run(run.id), index)
    assert (again.made, shards(index)) == (0, before)
    assert Collection.load(index).files == tuple(map(str, find_images([photos])))
    for name in ("other-0.jpg", "other-1.jpg"):
        (photos / "jpg" / name).unlink()
    (index / ".shard-0123.npy.abc.npy").write_bytes(b"half")  # as a killed job leaves it
    assert build(find_images([photos]), of_run(run.id), index).made == 0
    after = shards(index)
    assert len(before.items() & after.items()) == 4
    assert len(after) == 5
    assert {path.name for path in index.iterdir()} == {
        "index.json",
        "contents.json",
        ".lock",
        *after,
    }
    assert len(Collection.load(index).files) == 35


def test_another_run_replaces_all(home: Path, run: Run, data: TrainingSet, index: Path) -> None:
    before = shards(index)
    other = Workshop(home / "data", data).train(configured("spoc", epochs=1))
    assert build(find_images([home / "photos"]), of_run(other.id), index).made == 37
    assert len(shards(index)) == 5
    assert before.keys().isdisjoint(shards(index))
    assert Collection.load(index).encoder.run == other.id


def test_an_image_that_cannot_be_read_leaves_the_index_and_what_is_done(
    run: Run, photos: Path, index: Path
) -> None:
    before = Collection.load(index)
    for number, image in enumerate(find_images([photos])):
        photograph(200 + number, 0).save(image)
    bad = photos / "jpg" / "4-1.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(b"\xff\xd8\xff no photograph")
    assert "4-1.jpg" in refused("extract", "--run", run.id, photos, "--output", index)
    assert Collection.load(index).files == before.files
    assert len(shards(index)) == 5 + 2  # the third has the bad one
    bad.write_bytes(whole)
    assert build(find_images([photos]), of_run(run.id), index).made == 37 - 16
    assert len(shards(index)) == 5


# --- what is refused ----------------------------------------------------------------------------------------------


def test_search_with_something_wrong(home: Path, index: Path, tmp_path: Path, run: Run) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    assert "dagf extract FOLDER" in refused("search", asked, "--index", tmp_path / "nowhere.index")
    assert "nowhere.jpg" in refused("search", tmp_path / "nowhere.jpg", "--index", index)
    assert "labels.csv" in refused("search", home / "photos" / "labels.csv", "--index", index)
    about = read_json(index / "index.json")
    write_json(index / "index.json", about | {"encoder": about["encoder"] | {"run": "0" * 12}})
    assert "run '000000000000': expected one finished run" in refused(
        "search", asked, "--index", index
    )


def test_a_broken_collection_is_one_line(home: Path, index: Path, tmp_path: Path) -> None:
    asked = home / "photos" / "jpg" / "5-0.jpg"
    file, whole = index / "index.json", (index / "index.json").read_text()
    about = json.loads(whole)
    texts = ["", "no index", whole[: len(whole) // 2], "[1]", '"text"', "{}"]
    texts += [
        json.dumps({key: value for key, value in about.items() if key != left}) for left in about
    ]
    texts += [
        json.dumps(about | change)
        for change in (
            {"files": about["files"][1:]}, {"precision": "float16"}, {"shards": about["shards"][1:]}, {"files": 3},
            {"shards": [3]}, {"encoder": {"run": "x"}}, {"shards": ["shard-0.npy"]}, {"encoder": 7},
        )
    ]  # fmt: skip
    for text in texts:
        file.write_text(text)
        assert BROKEN in refused("search", asked, "--index", index), text
    file.write_text(whole)
    Collection.load(index)
    shard = index / about["shards"][2]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard.name} is missing or broken" in refused("search", asked, "--index", index)
    for path in (tmp_path, file, asked):
        assert BROKEN in refused("search", asked, "--index", path)


def test_extract_with_something_wrong(home: Path, run: Run, tmp_path: Path) -> None:
    out = ["--output", tmp_path / "out.index"]
    assert "expected one finished run" in refused(
        "extract", "--run", "ffffffff", home / "photos", *out
    )
    assert "expected one finished run" in refused(
        "extract", "--run", f"/x/{run.id}", home / "photos", *out
    )
    assert "nowhere does not exist" in refused(
        "extract", "--run", run.id, tmp_path / "nowhere", *out
    )
    weights = (
        "--weights",
        tmp_path / "none.pth",
    )  # the images come first: weights may have to be downloaded
    assert "nowhere does not exist" in refused("extract", *weights, tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refused("extract", "--run", run.id, tmp_path / "empty", *out)
    (tmp_path / "mixed").mkdir()
    photograph(1, 1).save(tmp_path / "mixed" / "a.png")
    (tmp_path / "mixed" / "b.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    assert "b.jpg" in refused("extract", "--run", run.id, tmp_path / "mixed", *out)
    assert not (tmp_path / "out.index" / "index.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="it needs pipes")
def test_a_pipe_or_a_device_is_not_read(home: Path, run: Run, index: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for place in (tmp_path / "pipe.jpg", Path(os.devnull)):
        assert f"{place} is no file" in refused(
            "extract", "--run", run.id, place, "--output", tmp_path / "out"
        )
        assert f"{place} is no file" in refused("search", place, "--index", index)


def test_nothing_else_is_written_over(home: Path, run: Run, photos: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    said = refused("extract", "--run", run.id, home / "photos", "--output", photos)
    assert "photos holds something else (jpg): name a new folder" in said
    said = refused("extract", "--run", run.id, home / "photos", "--output", photos / "labels.csv")
    assert "labels.csv is a file, and a collection is a folder" in said
    said = refused(
        "extract", "--run", run.id, home / "photos", "--output", photos / "labels.csv" / "inside"
    )
    assert "cannot write" in said
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == files


@pytest.mark.parametrize(
    ("mine", "named"),
    [
        (
            {"index.json": '{"my": 1}', "contents.json": "[1]", "shard-0001.npy": "mine"},
            "shard-0001.npy",
        ),
        ({"index.json": '{"my": 1}'}, "index.json"),
        ({"index.json": "[1]", "contents.json": '{"my": 1}'}, "index.json"),
        ({"index.json": "no JSON"}, "index.json"),
        ({"contents.json": "[1]"}, "contents.json"),
        ({"contents.json": "{}"}, "contents.json"),
        ({"contents.json": '{"shard-0123456789abcdef.npy": "mine"}'}, "contents.json"),
        ({"shard-0123456789abcdef.npy": "mine"}, "shard-0123456789abcdef.npy"),
        ({"near-0123456789abcdef.faiss": "mine"}, "near-0123456789abcdef.faiss"),
    ],
)
def test_what_has_only_the_names_of_a_collection_is_left_alone(
    home: Path, run: Run, tmp_path: Path, mine: dict[str, str], named: str
) -> None:
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    said = refused("extract", "--run", run.id, home / "photos", "--output", tmp_path)
    assert f"{tmp_path} holds something else ({named}): name a new folder with --output" in said
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == mine


def test_a_collection_that_was_begun_goes_on(home: Path, run: Run, index: Path) -> None:
    """As a job leaves it that was stopped before its first index."""
    (index / "index.json").unlink()
    assert build(find_images([home / "photos"]), of_run(run.id), index).made == 0
    (index / "contents.json").write_text("broken")  # known again by its index
    assert build(find_images([home / "photos"]), of_run(run.id), index).made == 0


def test_images_are_found_in_folders_and_among_files(photos: Path) -> None:
    (photos / "deep" / "er").mkdir(parents=True)
    photograph(1, 1).save(photos / "deep" / "er" / "A.PNG")
    (photos / "deep" / "album.jpg").mkdir()  # a folder by the name of a photograph
    (photos / "deep" / "notes.txt").touch()
    found = find_images([photos / "deep", photos / "jpg" / "1-0.jpg"])
    assert found == [photos / "deep" / "er" / "A.PNG", photos / "jpg" / "1-0.jpg"]
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image"):
        find_images([photos / "deep", photos / "empty"])


# --- several processes --------------------------------------------------------------------------------------------

JOB = """
import os, signal, sys
from dagf.cli import main
from dagf.retrieval import extract
from dagf.collections import changes

def killed(*shard):
    if os.environ["RANK"] == "1" and list(shard[3].parent.glob("shard-*")):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*shard)

if "--die" in sys.argv:
    sys.argv.remove("--die")
    whole, extract._make = extract._make, killed
changes.SHARD = 8
main(sys.argv[1:])
"""


def two(folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """`dagf` by two processes, in shards of eight images."""
    (folder / "job.py").write_text(JOB)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command = [*launcher, "--", "job.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300
    )


def together(
    folder: Path, run: Run, photos: Path, *output: str
) -> "subprocess.CompletedProcess[str]":
    """`dagf extract` by two processes."""
    return two(folder, "extract", "--run", run.id, photos, "--output", *output)


@pytest.mark.study
def test_two_processes_make_the_collection_of_one(
    home: Path, run: Run, index: Path, tmp_path: Path
) -> None:
    ran = together(tmp_path, run, home / "photos", "two.index")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("37 images in two.index: 37 described in ") == 1
    one, two = (Collection.load(path) for path in (index, tmp_path / "two.index"))
    assert (one.files, one.encoder) == (two.files, two.encoder)
    assert one.descriptors.names == two.descriptors.names
    np.testing.assert_allclose(one.descriptors[:], two.descriptors[:], atol=1e-6)


@pytest.mark.study
def test_a_mistake_ends_all_processes_and_the_job_goes_on(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    """The second process meets the bad image; the first, which waits for it, ends too."""
    bad = find_images([photos])[9]
    whole = bad.read_bytes()
    bad.write_bytes(b"\xff\xd8\xff no photograph")
    failed = together(tmp_path, run, photos, "out")
    assert failed.returncode not in (0, 124)
    assert f"dagf: cannot decode {bad}" in failed.stderr
    assert not (tmp_path / "out" / "index.json").exists()
    kept = shards(tmp_path / "out")
    bad.write_bytes(whole)
    again = together(tmp_path, run, photos, "out")
    assert again.returncode == 0, again.stderr
    assert kept.items() <= shards(tmp_path / "out").items()
    assert len(Collection.load(tmp_path / "out").files) == 37


@pytest.mark.study
def test_a_killed_process_ends_the_job_which_then_goes_on(
    home: Path, run: Run, tmp_path: Path
) -> None:
    failed = together(tmp_path, run, home / "photos", "out", "--die")
    assert failed.returncode not in (0, 124)
    assert "Signal 9 (SIGKILL)" in failed.stderr
    assert not (tmp_path / "out" / "index.json").exists()
    kept = shards(tmp_path / "out")
    assert 0 < len(kept) < 5
    again = together(tmp_path, run, home / "photos", "out")
    assert again.returncode == 0, again.stderr
    assert kept.items() <= shards(tmp_path / "out").items()
    assert len(Collection.load(tmp_path / "out").files) == 37


@pytest.mark.study
def test_two_processes_find_what_one_finds(home: Path, index: Path, tmp_path: Path) -> None:
    for name in ("5-0.jpg", "6-2.jpg"):
        asked = ("search", home / "photos" / "jpg" / name, "--index", index, "--json", "--top", 7)
        ran = two(tmp_path, *asked)
        assert ran.returncode == 0, ran.stderr
        alone = json.loads(fine(*asked))
        found = json.loads(ran.stdout)
        assert [one["file"] for one in found] == [one["file"] for one in alone]
        assert [one["score"] for one in found] == pytest.approx(
            [one["score"] for one in alone], abs=1e-6
        )
