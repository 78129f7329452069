"""Ground truth, lists, archives and manifests that are damaged: a valid result, or one line."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.convert import convert
from dagf.datasets.unpack import unpack
from tests.datasets.test_unpack import MAKERS, Entry
from tests.hostile import FEW, damaged, read_or_refuse, tree

LABELS = (
    "file,instance,role\nq.jpg,one,query\nd.jpg,one,database\nsub/e.jpg,two,database\n"
    "x.jpg,,distractor\nt.jpg,three,train\n"
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
    made = {"list.csv", "photos/labels.csv", "photos/ground_truth.json"}
    assert tree(photos.parent) - before <= made
    (photos / "ground_truth.json").unlink(missing_ok=True)


@pytest.mark.parametrize("kind", MAKERS)
@FEW
@given(st.data())
def test_archives(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    entries: list[Entry] = [("d/a.jpg", b"photo" * 40, ""), ("d/b.txt", bytes(900), "")]
    archive = tmp_path / "a"
    good = MAKERS[kind](archive, entries).read_bytes()
    archive.write_bytes(data.draw(damaged(good)))
    out = tmp_path / "out" / os.urandom(4).hex()
    out.mkdir(parents=True)
    before = tree(tmp_path)
    read_or_refuse(lambda: unpack(archive, out), archive)
    assert all(name.startswith(f"out/{out.name}/") for name in tree(tmp_path) - before)
