"""A folder of photographs, extracted once and searched: what is kept, made anew, refused."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import timm
import torch

from dagf.collections import index as module
from dagf.collections.index import OFF_THE_SHELF, Collection, build, open_encoder
from dagf.collections.kept import Kept
from dagf.datasets import contents
from dagf.datasets.batches import image_batches
from dagf.datasets.benchmark import TrainingSet
from dagf.datasets.decode import ImageSpec, find_images
from dagf.devices import device
from dagf.errors import UserError
from dagf.files import read_json, write_json
from dagf.model.backbone import PACKAGED, BackboneSpec
from dagf.model.network import RetrievalNet
from dagf.model.variants import variant
from dagf.retrieval import ann
from dagf.retrieval import extract as extraction
from dagf.retrieval.extract import extract, for_inference
from dagf.retrieval.shards import SHARDS, ShardedDescriptors, store_shard
from dagf.study.runs import Run, RunStore, Untrained
from tests.commands import dagf, fine, refused
from tests.fixtures import Workshop, configured, fails, photograph, torchrun

QUICK = "timm:test_resnet"  # a backbone whose graph is made in a moment
LIGHT = """
import sys
from dagf.cli import main

main(sys.argv[1:], standalone_mode=False)
print({"torch", "torchvision", "timm", "pandas", "scipy", "faiss"} & sys.modules.keys())
"""
JOB = """
import sys
from dagf.cli import main
from dagf.retrieval import extract

extract.SHARD = 8
for words in " ".join(sys.argv[1:]).split(" then "):
    main(words.split(), standalone_mode=False)
"""


@pytest.fixture(scope="module")
def run(home: Path, data: TrainingSet) -> Run:
    """A trained run."""
    return Workshop(home / "data", data).train(configured("gem", epochs=1))


@pytest.fixture
def photos(home: Path, tmp_path: Path) -> Path:
    """A copy of the photographs, which may be changed."""
    return Path(shutil.copytree(home / "photos", tmp_path / "photos"))


@pytest.fixture
def query(home: Path) -> Path:
    """One of the photographs."""
    return home / "photos" / "jpg" / "5-0.jpg"


@pytest.fixture
def index(home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A collection of the photographs, in five shards of eight images."""
    monkeypatch.setattr(extraction, "SHARD", 8)
    path = tmp_path / "made" / "photos.index"
    said = fine("extract", "--run", run.id[:5], home / "photos", "--output", path)
    assert said.startswith(f"37 images in {path}: 37 ")
    return path


def quick_weights(file: Path, seed: int) -> Path:
    """A file with some weights of `QUICK`."""
    torch.manual_seed(seed)
    torch.save(timm.create_model(QUICK.removeprefix("timm:")).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some weights of `QUICK`."""
    return quick_weights(tmp_path_factory.mktemp("weights") / "quick.pth", 5)


def shards(folder: Path) -> dict[str, int]:
    """The shards that are there, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(SHARDS)}


def beside(collection: Collection) -> set[str]:
    """What lies beside the shards."""
    return {"index.json", ".lock", collection.made_by.graph, collection.whitening_file.name}


def test_extract_and_search(query: Path, index: Path) -> None:
    found = json.loads(fine("search", query, "--index", index, "--top", 5, "--json"))
    assert found[0] == {"file": str(query), "score": pytest.approx(1, abs=1e-3)}
    scores = [row["score"] for row in found]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    lines = fine("search", query, "--index", index, "--top", 2).splitlines()
    assert [line.split("  ")[1] for line in lines] == [row["file"] for row in found[:2]]
    assert len(fine("search", query, "--index", index, "--top", 999).splitlines()) == 37
    told = ("search", query, "--index", index, "--json", "--top", 5)
    cropped = json.loads(fine(*told, "--crop", 2, 2, 30, 30))
    assert [row["score"] for row in cropped] != scores
    assert "box" in refused("search", query, "--index", index, "--crop", 90, 90, 99, 99)


def test_a_search_needs_no_pytorch(query: Path, index: Path) -> None:
    command = [sys.executable, "-c", LIGHT, "search", query, "--index", index, "--whiten"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *found, loaded = done.stdout.splitlines()
    assert loaded == "set()" and found == fine(*command[3:]).splitlines()


def test_an_approximate_search(
    home: Path, run: Run, photos: Path, query: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First where nothing can be written."""
    exact = fine("search", query, "--index", index)
    told = ("search", query, "--index", index, "--approximate")

    def denied(path: Path) -> NoReturn:
        raise UserError(f"cannot write {path}: Read-only file system; nothing was changed there")

    with monkeypatch.context() as patched:
        patched.setattr(ann, "atomic_path", denied)
        assert fine(*told) == exact  # a flat index, for so few
    assert not list(index.glob("near-*"))
    assert fine(*told, "--top", 3) == "".join(exact.splitlines(True)[:3])
    (near,) = index.glob("near-*.faiss")
    built = near.stat().st_mtime_ns
    build(find_images([home / "photos"]).files, open_encoder(run.id), index, fast=True)
    assert fine(*told) == exact and near.stat().st_mtime_ns == built
    near.write_bytes(b"no index")
    assert f"{near.name} is missing, or no whole FAISS index" in refused(*told)
    (photos / "jpg" / "other-1.jpg").unlink()
    build(find_images([photos]).files, open_encoder(run.id), index, fast=True)
    assert not near.exists()  # it was of other rows
    assert "other-1.jpg" not in fine(*told, "--top", 99)


def test_a_whitened_search_compares_what_is_not_common(query: Path, index: Path) -> None:
    """As by hand: the cosine of centred descriptors in the span of the collection's own."""
    told = ("search", query, "--index", index, "--top", 37, "--json")
    plain, white = (json.loads(fine(*told, *more)) for more in ((), ("--whiten",)))
    known = Collection.load(index)
    rows = known.descriptors[:].astype(float)
    values, directions = np.linalg.eigh(np.cov(rows.T))
    kept = np.argsort(values)[-36:]  # 37 rows span no more
    row = extract(known.encoder.network(), image_batches([query], known.encoder.config.image), 1)
    apart = (np.vstack([rows, row]) - rows.mean(0)) @ directions[:, kept]
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    expected = sorted(apart[:-1] @ apart[-1], reverse=True)
    assert [row["score"] for row in white] == pytest.approx(expected, abs=2e-4)
    assert {row["file"] for row in white} == {row["file"] for row in plain}
    assert white[0]["file"] == str(query)
    assert [row["score"] for row in white] != [row["score"] for row in plain]
    assert "leave out --approximate, or --whiten" in refused(*told, "--whiten", "--approximate")


@pytest.mark.parametrize(
    ("run_id", "count", "suits"), [("", 100, True), ("", 99, False), ("0c07", 100, False)]
)
def test_a_whitening_suits_many_images_off_the_shelf(
    run_id: str, count: int, suits: bool, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).standard_normal((count, 6)).astype(np.float32)
    store_shard(tmp_path / "shard.npy", ["x"] * count, rows)
    made_by: Any = SimpleNamespace(run=run_id)
    kept = ShardedDescriptors(tmp_path, ["shard.npy"])
    known = Kept(tuple(map(str, range(count))), kept, made_by)
    assert (known.whitened().whitening is not None) is suits
    white = known.whitened(True)
    assert white.whitening and np.allclose(white.whitening.mean, rows.mean(0), atol=1e-6)
    assert white.whitened(False) == known and known.whitened(False) is known
    store_shard(tmp_path / "same.npy", ["x"] * count, np.ones_like(rows))  # copies of one image
    same = replace(known, descriptors=ShardedDescriptors(tmp_path, ["same.npy"]))
    assert same.whitened().whitening is None
    fails("all descriptors are equal", same.whitened, True)
    known.whitening_file.write_bytes(b"PK\x03\x04 half")  # it is learned again
    assert known.whitened(True).whitening
    fails("one image has nothing in common", replace(known, files=("one",)).learned_whitening)


def test_half_precision_is_chosen_or_comes_with_size(
    home: Path, run: Run, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ("extract", "--run", run.id, home / "photos")
    monkeypatch.setattr(module, "LARGE", 37)
    for place, chosen, kept in (
        ("out", "float32", np.float32), ("out", "", np.float32), ("new", "", np.float16)
    ):  # fmt: skip
        out = ("--output", tmp_path / place)
        said = fine(*told, *out, *(("--precision", chosen) if chosen else ()))
        found = Collection.load(tmp_path / place)
        assert ("37 extracted" in said) is (place == "new" or bool(chosen))  # it keeps what it has
        assert found.descriptors.dtype == kept
        assert found.search(query, 1) == [(str(query), pytest.approx(1, abs=1e-2))]


def test_good_images_are_kept_and_all_others_named(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And searched from another folder than where they were extracted."""
    monkeypatch.chdir(tmp_path)
    for name in ("2-0.jpg", "2-10.jpg"):
        (photos / "jpg" / name).write_bytes(b"\xff\xd8\xff no photograph")
    told = ("extract", "--run", run.id, "photos", "photos/jpg/5-0.jpg", "--output", "out")
    for made in (36, 0):
        result = dagf(*told)
        assert result.exit_code == 1
        assert f"36 images in out: {made} extracted in" in result.stdout
        first, second, last = result.stderr.splitlines()
        assert "cannot decode" in first and "2-0.jpg" in first and "2-10.jpg" in second
        other = "1 of other kinds (.csv), 1 there twice, 2 that cannot be read"
        assert last == f"36 images; left out: {other}"
    assert "photos/jpg/5-0.jpg" in fine("search", "photos/jpg/5-0.jpg", "--index", "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = ("search", "../photos/jpg/5-0.jpg", "--index", "../out", "--html", "found.html")
    assert f"  {photos / 'jpg' / '5-0.jpg'}" in fine(*told)
    assert b"data:image/jpeg" in (tmp_path / "elsewhere" / "found.html").read_bytes()


def test_drawings_are_refused(home: Path, data: TrainingSet, photos: Path, tmp_path: Path) -> None:
    drawn, out = replace(data, id="toytown-0123456789ab"), tmp_path / "out"
    run = Workshop(home / "data", drawn).train(replace(configured("gem", epochs=1), data=drawn.id))
    said = refused("extract", "--run", run.id, photos, "--output", out)
    assert f"run {run.id} learned from drawings (Toytown)" in said
    assert "leave --run out, or name a run of `dagf train dagf --benchmark PHOTOS`" in said
    assert not out.exists()
    drawings = Path(shutil.copytree(photos, home / "data" / drawn.id))
    assert build(find_images([drawings]).files, open_encoder(run.id), out)[1] == 37
    assert "learned from drawings" in refused("extract", "--run", run.id, drawings, photos)
    assert Collection.load(out).search(drawings / "jpg" / "5-0.jpg", 1)
    said = refused("search", photos / "jpg" / "5-0.jpg", "--index", out)
    assert f"knows nothing of photographs such as {photos / 'jpg' / '5-0.jpg'}" in said


@pytest.mark.parametrize("named", [False, True])
def test_without_a_run(named: bool, photos: Path, weights: Path, tmp_path: Path) -> None:
    """The descriptors are those of the named variant on a backbone: ours, or one with a file."""
    files, out = sorted((photos / "jpg").glob("5-*.jpg")), tmp_path / "out"
    chosen = ("--backbone", QUICK, "--weights", weights) if named else ()
    fine("extract", *files, *chosen, "--output", out)
    found = Collection.load(out)
    assert (found.encoder.id, found.encoder.weights) == ("", weights if named else None)
    on = f"{QUICK} with quick.pth" if named else f"{PACKAGED} with its ImageNet weights"
    assert f"nothing trained, on {on}" in found.made_by.title
    backbone = BackboneSpec(PACKAGED, weights="imagenet")
    if named:
        backbone = BackboneSpec(QUICK, weights=str(weights))
    net = for_inference(RetrievalNet(backbone, variant(OFF_THE_SHELF)).eval(), device() == "cuda")
    batches = image_batches(files, ImageSpec(320, "squash"))
    np.testing.assert_allclose(found.descriptors[:], extract(net, batches, len(files)), atol=1e-4)


def test_weights_that_changed_are_named(query: Path, tmp_path: Path) -> None:
    file, out = quick_weights(tmp_path / "net.pth", 6), tmp_path / "out"
    made = ("extract", query, "--backbone", QUICK, "--weights", file, "--output", out)
    fine(*made)
    before = shards(out)
    quick_weights(file, 7)
    told = ("search", query, "--index", out)
    assert len(fine(*told).splitlines()) == 1  # the index has what made it
    page = ("--html", tmp_path / "found.html")
    assert "with net.pth: its weights, or dagf's code, changed since" in refused(*told, *page)
    fine(*made)
    assert before.keys().isdisjoint(shards(out))
    assert len(fine(*told).splitlines()) == 1
    file.unlink()
    assert f"{file} is no file" in refused(*told, *page)


def test_weights_that_give_no_number_are_named(photos: Path, weights: Path, tmp_path: Path) -> None:
    files, out = sorted((photos / "jpg").glob("5-*.jpg")), tmp_path / "out"
    made = ("extract", *files, "--backbone", QUICK, "--output", out, "--weights")
    fine(*made, weights)
    before = (out / "index.json").read_bytes()
    values = torch.load(weights, weights_only=True)
    next(iter(values.values())).fill_(float("nan"))
    torch.save(values, tmp_path / "bad.pth")
    said = refused(*made, tmp_path / "bad.pth")
    assert "with bad.pth gives no descriptors: name other weights" in said
    assert (out / "index.json").read_bytes() == before
    assert str(files[2]) in fine("search", files[2], "--index", out, "--top", 1)


def test_search_with_something_wrong(home: Path, query: Path, index: Path) -> None:
    about, photos = read_json(index / "index.json"), home / "photos"
    assert "dagf extract FOLDER" in refused("search", query, "--index", index / "nowhere")
    for file in photos / "nowhere.jpg", photos / "labels.csv":
        assert file.name in refused("search", file, "--index", index)
    broken = f"{index} is no collection of `dagf extract`, or is broken; make it again"
    texts = dict.fromkeys(("no index", "[1]", '{"files": [], "shards": []}'), broken)
    texts['{"files": [], "shards": [], "content": ""}'] = "is of an earlier dagf: run"
    other = about["made_by"] | {"pixels": "0"}
    texts[json.dumps(about | {"made_by": other})] = "dagf decodes images otherwise than when"
    other = about["made_by"] | {"run": "0" * 12, "graph": ""}
    texts[json.dumps(about | {"made_by": other})] = "'000000000000': expected one finished run"
    for text, says in texts.items():
        (index / "index.json").write_text(text)
        assert says in refused("search", query, "--index", index)


def test_extract_with_something_wrong(home: Path, run: Run, weights: Path, tmp_path: Path) -> None:
    out, photos = ("--output", tmp_path / "out.index"), home / "photos"
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "b.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    mistakes: dict[str, tuple[object, ...]] = {
        "expected one finished run": ("--run", "ffffffff", photos),
        "there is no image in": ("--run", run.id, tmp_path / "nowhere"),
        "b.jpg": ("--run", run.id, tmp_path / "mixed"),
        "leave them out, or --run": ("--run", run.id, "--weights", weights, photos),
        "none.pth is no file": ("--weights", tmp_path / "none.pth", photos),
    }
    for words, told in mistakes.items():
        assert words in refused("extract", *told, *out)
    assert not (tmp_path / "out.index" / "index.json").exists()
    alike = tmp_path / "alike"  # what others call alike
    for name in ("index.json", "shard-0.npy", "encoder-best.onnx", "my-whitening-1.npz"):
        write_json(alike / name, {"my": "site"})
    before = {path: path.stat().st_mtime_ns for one in (photos, alike) for path in one.rglob("*")}
    for place in (photos / "jpg", photos / "labels.csv", alike):  # nothing else is written over
        said = refused("extract", "--run", run.id, photos, "--output", place)
        assert f"{place} holds something else: name a new folder with --output" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for place, says in ((photos / "labels.csv" / "x", "Not a directory"), ("x" * 300, "too long")):
        assert says in refused("extract", "--run", run.id, photos, "--output", place)


def test_a_collection_is_brought_up_to_date(
    run: Run, photos: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies have the contents that the collection knows; then two of them are taken away."""
    before = shards(index)
    assert build(find_images([photos]).files, open_encoder(run.id), index, fast=True)[1] == 0
    assert shards(index) == before
    found, files = Collection.load(index), find_images([photos]).files
    assert (found.files, found.encoder) == (tuple(map(str, files)), open_encoder(run.id))
    net = for_inference(run.network(), device() == "cuda")
    expected = extract(net, image_batches(files, run.config.image), len(files))
    np.testing.assert_allclose(found.descriptors[:], expected, atol=1e-5)
    for name in ("other-0.jpg", "other-1.jpg"):
        (photos / "jpg" / name).unlink()
    (index / f".shard-{'0' * 12}.npy.abc.npy").write_bytes(b"half")  # as a killed job leaves it
    assert build(find_images([photos]).files, open_encoder(run.id), index, fast=True)[1] == 0
    after = shards(index)
    assert len(before.items() & after.items()) == 4 and len(after) == 5
    assert {path.name for path in index.iterdir()} == {*after, *beside(Collection.load(index))}
    assert len(Collection.load(index).files) == 35
    (index / "index.json").unlink()  # as a job leaves it that was stopped before its first index
    monkeypatch.delattr(contents, "file_sha256")  # nothing is read again
    assert build(find_images([photos]).files, open_encoder(run.id), index, fast=True)[1] == 0


def test_windows_meet_images_smaller_than_they(tmp_path: Path) -> None:
    """Which no graph can hold: where images keep their shape the network itself extracts."""
    photograph(0, 0, 16).save(tmp_path / "small.png")
    encoder = Untrained(configured("dagf"), RunStore(tmp_path))
    found, made = build([tmp_path / "small.png"], encoder, tmp_path / "out", fast=True)
    assert (made, found.made_by.graph) == (1, "")


@pytest.mark.study
def test_two_processes_do_what_one_does(
    home: Path, run: Run, query: Path, index: Path, tmp_path: Path
) -> None:
    made = ("extract", "--run", run.id, home / "photos", "--output", "two.index")
    told = ("search", query, "--index", index, "--json", "--top", 7)
    (tmp_path / "job.py").write_text(JOB)
    ran = torchrun(tmp_path, "--", "job.py", *made, "then", *told)
    assert ran.returncode == 0, ran.stderr
    one, other = (Collection.load(path) for path in (index, tmp_path / "two.index"))
    assert (one.files, one.descriptors.names) == (other.files, other.descriptors.names)
    np.testing.assert_allclose(one.descriptors[:], other.descriptors[:], atol=1e-6)
    alone, found = json.loads(fine(*told)), json.loads(ran.stdout[ran.stdout.index("[") :])
    assert [one["file"] for one in found] == [one["file"] for one in alone]


def test_eight_bits_stay_near_the_float_descriptors(
    run: Run, home: Path, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried from `MANY` images on, kept where they are `ALIKE`, and said."""
    files, told = find_images([home / "photos"]).files, ("extract", "--run", run.id)
    plain = build(files, open_encoder(run.id), tmp_path / "plain", fast=True)[0]
    assert plain.made_by.cosine == 1
    monkeypatch.setattr(module, "MANY", 37)
    monkeypatch.setattr(module, "eight_bits_pay", lambda: True)
    for least, kept in ((1.1, False), (0.9, True)):
        monkeypatch.setattr(module, "ALIKE", least)
        out = tmp_path / str(kept)
        assert ("in eight bits: " in fine(*told, home / "photos", "--output", out)) == kept
        found = Collection.load(out)
        cosines = np.sum(found.descriptors[:] * plain.descriptors[:], 1)
        assert (cosines.min() > 0.9999) != kept and cosines.mean() > 0.9
        assert found.made_by.cosine == pytest.approx(cosines.mean(), abs=0.01)
        assert found.search(query, 1)[0][1] == pytest.approx(1, abs=1e-4)
