"""Ground truth, archives, lists and manifests that are damaged or hostile: a valid result, or one line, and no more."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import from_ground_truth
from dagf.datasets.convert import convert
from dagf.datasets.manifest import differences, read_manifest
from dagf.datasets.revisited import load_ground_truth
from dagf.datasets.unpack import Limits, extract
from dagf.errors import UserError
from tests.datasets.test_download import MANIFEST
from tests.datasets.test_unpack import MAKERS, Entry
from tests.hostile import FEW, as_json, changed, damaged, read_or_refuse, tree

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


def test_a_ground_truth_that_is_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gnd_x.pkl")
    with pytest.raises(UserError, match=r"gnd_x\.pkl is no regular file"):
        load_ground_truth(tmp_path / "gnd_x.pkl")


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
