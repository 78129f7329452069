"""Ground truth, archives, lists and manifests that are damaged or hostile: a valid result, or one line, and no more."""

import json
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.datasets.convert import convert
from dagf.datasets.folder import load_folder, read_labels
from dagf.datasets.grocery import grocery_rows
from dagf.datasets.manifest import differences, read_manifest
from dagf.datasets.oxford import load_oxford
from dagf.datasets.public import open_benchmark
from dagf.datasets.revisited import load_ground_truth
from dagf.datasets.training_sets import load_gldv2, load_sfm
from dagf.datasets.unpack import Limits, extract
from dagf.errors import UserError
from tests.datasets.sets import OXFORD, PICKLE, write_grocery, write_text_truth
from tests.datasets.test_download import MANIFEST
from tests.datasets.test_unpack import MAKERS, Entry
from tests.hostile import FEW, as_json, changed, damaged, read_or_refuse, tree
from tests.training_copies import write_gldv2, write_sfm

LABELS = (
    "file,instance,role\nq.jpg,one,query\nd.jpg,one,database\nsub/e.jpg,two,database\nx.jpg,,distractor\n"
    "t.jpg,three,train\n"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photographs in name only, with labels."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("q.jpg", "d.jpg", "sub/e.jpg", "x.jpg", "t.jpg"):
        (folder / name).touch()
    (folder / "labels.csv").write_text(LABELS)
    return folder


@FEW
@given(st.data())
def test_labels(photos: Path, data: st.DataObject) -> None:
    path = photos / "labels.csv"
    path.write_bytes(data.draw(damaged(LABELS.encode())))
    rows = read_or_refuse(lambda: read_labels(photos), path)
    assert rows is None or all((photos / row.file).resolve().is_relative_to(photos) for row in rows)
    read_or_refuse(lambda: load_folder(photos), path)


@FEW
@given(st.data())
def test_a_list_to_import(photos: Path, data: st.DataObject) -> None:
    listing = photos.parent / "list.csv"
    (photos / "labels.csv").unlink(missing_ok=True)
    before = tree(photos.parent)
    good = data.draw(st.sampled_from([LABELS, "query,positives,junk\nq.jpg,d.jpg,sub/e.jpg\n"]))
    listing.write_bytes(data.draw(damaged(good.encode())))
    read_or_refuse(lambda: convert(photos, listing), listing, photos)
    assert tree(photos.parent) - before <= {
        "list.csv",
        "photos/labels.csv",
        "photos/ground_truth.json",
    }
    (photos / "ground_truth.json").unlink(missing_ok=True)


@FEW
@given(st.data())
def test_ground_truth_as_json(photos: Path, data: st.DataObject) -> None:
    (photos / "labels.csv").unlink(missing_ok=True)
    truth = {
        "imlist": ["d", "sub/e"],
        "qimlist": ["q"],
        "gnd": [{"bbx": [0, 0, 5, 5], "ok": [0], "junk": [1]}],
    }
    path = photos / "ground_truth.json"
    path.write_text(as_json(data.draw(changed(truth))))
    read_or_refuse(lambda: open_benchmark(str(photos), photos), path, photos.name)


@pytest.mark.parametrize("name", ["../q", "/etc/hostname.jpg", "sub/../../q"])
@pytest.mark.parametrize("where", ["imlist", "qimlist"])
def test_ground_truth_stays_in_its_folder(photos: Path, name: str, where: str) -> None:
    (photos / "labels.csv").unlink()
    truth: dict[str, Any] = {
        "imlist": ["d"],
        "qimlist": ["q"],
        "gnd": [{"bbx": None, "ok": [0], "junk": []}],
    }
    truth[where] = [name]
    (photos.parent / "q.jpg").touch()
    (photos / "ground_truth.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"leaves the folder|are not in"):
        open_benchmark(str(photos), photos)


@FEW
@given(st.data())
def test_ground_truth_as_text(tmp_path: Path, data: st.DataObject) -> None:
    home = tmp_path / "oxford5k"
    if not home.exists():
        (home / "jpg").mkdir(parents=True)
        for one in OXFORD:
            (home / "jpg" / f"{one}.jpg").touch()
    write_text_truth(home / "gt")
    path = data.draw(st.sampled_from(sorted((home / "gt").iterdir())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    made = read_or_refuse(lambda: load_oxford("oxford5k", home), path, home / "gt", "oxford5k")
    assert made is None or isinstance(made, Benchmark)


@FEW
@given(st.data())
def test_ground_truth_in_a_dictionary_of_anything(tmp_path: Path, data: st.DataObject) -> None:
    value = data.draw(changed(PICKLE))
    if isinstance(value, dict):
        read_or_refuse(lambda: from_ground_truth("some", tmp_path, value), "some")


@pytest.mark.parametrize("kind", MAKERS)
@FEW
@given(st.data())
def test_archives(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    entries: list[Entry] = [
        ("d/a.jpg", b"photo" * 40, ""),
        ("d/b.txt", bytes(900), ""),
        ("l", b"d/a.jpg", "link"),
    ]
    archive = tmp_path / "a"
    good = MAKERS[kind](archive, entries).read_bytes()
    archive.write_bytes(data.draw(damaged(good)))
    out = tmp_path / "out" / os.urandom(4).hex()
    out.mkdir(parents=True)
    before = tree(tmp_path)
    made = read_or_refuse(
        lambda: extract(archive, kind, out, limits=Limits(floor=10_000, members=50)), archive
    )
    assert all(name.startswith(f"out/{out.name}") for name in tree(tmp_path) - before)
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) <= 10_000
    assert made is None or made <= 50


@FEW
@given(st.data())
def test_lists_of_training_sets(tmp_path: Path, data: st.DataObject) -> None:
    sfm, gldv2 = tmp_path / "sfm", tmp_path / "gldv2"
    if not sfm.exists():
        sfm.mkdir()
        gldv2.mkdir()
        (sfm / "parts.json").write_text(json.dumps(write_sfm(sfm, 2, 2, name="few")))
        (sfm / "few.pkl").unlink()
        write_gldv2(gldv2, 3, 2)
        (gldv2 / "good.csv").write_bytes((gldv2 / "train_clean.csv").read_bytes())
    (sfm / "few.json").write_text(
        as_json(data.draw(changed(json.loads((sfm / "parts.json").read_text()))))
    )
    read_or_refuse(lambda: load_sfm(sfm, "few"), sfm / "few.json", "few-validation")
    (gldv2 / "train_clean.csv").write_bytes(data.draw(damaged((gldv2 / "good.csv").read_bytes())))
    read_or_refuse(lambda: load_gldv2(gldv2, 1), gldv2 / "train_clean.csv")


@FEW
@given(st.data())
def test_lists_of_the_grocery_set(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "good").exists():
        write_grocery(tmp_path / "good", pixels=False)
        write_grocery(tmp_path / "home", pixels=False)
    name = data.draw(st.sampled_from(["classes.csv", "train.txt", "test.txt"]))
    good = (tmp_path / "good" / "dataset" / name).read_bytes()
    path = tmp_path / "home" / "dataset" / name
    path.write_bytes(data.draw(damaged(good)))
    read_or_refuse(lambda: grocery_rows(tmp_path / "home"), path)
    read_or_refuse(lambda: read_labels(tmp_path / "home"), path, tmp_path / "home")
    path.write_bytes(good)


@FEW
@given(st.data())
def test_the_manifest(tmp_path: Path, data: st.DataObject) -> None:
    path, good = tmp_path / "manifest.json", json.loads(MANIFEST.read_text())
    path.write_text(as_json(data.draw(changed({**good, "sets": good["sets"][:3]}))))
    sets = read_or_refuse(lambda: read_manifest(path), path)
    for one in (sets or {}).values():
        assert (tmp_path / one.folder).resolve().is_relative_to(tmp_path)
        assert all(
            (tmp_path / file.into / file.file).resolve().is_relative_to(tmp_path)
            for file in one.files
        )
        read_or_refuse(lambda one=one: differences(one, tmp_path), tmp_path, path)  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["pipe", "endless", "huge", "folder"])
def test_a_list_without_end_is_not_read(photos: Path, kind: str) -> None:
    listing = photos.parent / "list.csv"
    for path in (photos / "labels.csv", listing):
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "endless":
            path.symlink_to("/dev/zero")
        elif kind == "huge":
            with path.open("wb") as stream:
                stream.truncate(20 * 2**30)  # of holes
        else:
            path.mkdir()
    said = "too many for a list" if kind == "huge" else "is no regular file: put a text file there"
    for read, path in (
        (lambda: read_labels(photos), photos / "labels.csv"), (lambda: load_folder(photos), photos / "labels.csv"),
        (lambda: convert(photos, listing, force=True), listing),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{path} .*{said}") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_ground_truth_that_is_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gnd_x.pkl")
    with pytest.raises(UserError, match=r"gnd_x\.pkl is no regular file"):
        load_ground_truth(tmp_path / "gnd_x.pkl")


def test_a_pickle_that_names_one_list_many_times_is_refused(tmp_path: Path) -> None:
    """A hundred kilobytes that would be ten thousand lists of ten thousand indices, or of the same image."""
    rows = list(range(10_000))
    path = tmp_path / "gnd.pkl"
    for entry in ({"ok": rows}, {"ok": rows, "junk": []}):
        names = [f"{row}.jpg" for row in rows]
        path.write_bytes(
            pickle.dumps({"imlist": names, "qimlist": names, "gnd": [entry] * 10_000}, 4)
        )
        assert path.stat().st_size < 500_000
        tracemalloc.start()
        with pytest.raises(UserError, match=r"gnd\.pkl: its gnd has more than \d+ labels"):
            from_ground_truth("some", tmp_path, load_ground_truth(path), path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
        tracemalloc.stop()


def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A list of itself, doubled, and doubled again: a few hundred bytes whose text is without end."""
    for body in (
        b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.",
        b"\x80\x02]q\x00(" + b"h\x00" * 200 + b"e.",
    ):
        path = tmp_path / "gnd.pkl"
        path.write_bytes(body)
        value = read_or_refuse(lambda path=path: load_ground_truth(path), path)  # type: ignore[misc]
        if value is not None:
            read_or_refuse(lambda value=value: from_ground_truth("some", tmp_path, value), "some")  # type: ignore[misc]
