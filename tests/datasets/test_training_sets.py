"""retrieval-SfM and Google Landmarks v2 as miniature copies of their real files."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagf.datasets.training_sets import (
    image_path,
    load_gldv2,
    load_sfm,
    load_whitening_split,
)
from dagf.errors import UserError
from tests.training_copies import write_gldv2, write_sfm

NAME = "retrieval-SfM-120k"


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The list in `folder` after a change."""
    value = pickle.loads((folder / f"{NAME}.pkl").read_bytes())
    change(value)
    (folder / f"{NAME}.pkl").write_bytes(pickle.dumps(value, 2))
    return folder


def test_where_a_photograph_lies() -> None:
    assert image_path("0123456789abcdef") == "ef/cd/ab/0123456789abcdef"


@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_sfm(tmp_path: Path, suffix: str) -> None:
    parts = write_sfm(tmp_path)
    if suffix == ".json":
        (tmp_path / f"{NAME}.pkl").unlink()
        (tmp_path / f"{NAME}.json").write_text(json.dumps(parts))
    found = load_sfm(tmp_path)
    train, val = parts["train"], parts["val"]
    assert [file.name for file in found.files] == train["cids"]
    assert all(file.is_file() for file in found.files)
    assert found.labels == tuple(np.repeat(range(5), 4))
    assert found.landmarks == 5
    assert found.pairs == tuple(zip(train["qidxs"], train["pidxs"], strict=True))
    kept = found.validation
    assert [Path(file).name for file in kept.database] == val["cids"]
    assert [kept.database.index(query.file) for query in kept.queries] == [0, 1, 2, 4, 5, 6]
    # Of the second's cluster 0..3, the next is its positive; itself and the others are junk.
    labels = kept.queries[1].labels
    assert (labels["ok"].tolist(), labels["junk"].tolist()) == ([2], [0, 1, 3])


def test_a_pair_of_one_file_is_left_out(tmp_path: Path) -> None:
    write_sfm(tmp_path)
    before = load_sfm(tmp_path)

    def add(value: dict[str, Any]) -> None:
        value["train"]["qidxs"].append(3)
        value["train"]["pidxs"].append(3)

    after = load_sfm(rewritten(tmp_path, add))
    assert after.pairs == before.pairs
    assert after.id != before.id


def test_the_whitening_split(tmp_path: Path) -> None:
    train = write_sfm(tmp_path)["train"]
    files, pairs = load_whitening_split(tmp_path)
    assert [file.name for file in files] == train["cids"]
    assert pairs.tolist() == list(map(list, zip(train["qidxs"], train["pidxs"], strict=True))) * 10
    (tmp_path / f"{NAME}-whiten.pkl").unlink()
    with pytest.raises(UserError, match=r"retrieval-SfM-120k-whiten\.pkl does not exist: get it"):
        load_whitening_split(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("val"), r"is no list of images \('val'\)"),
        (
            lambda v: v["train"].pop("cluster"),
            r"is no list of images \('cluster'\)",
        ),
        (lambda v: v["train"]["cluster"].pop(), "clusters or pairs of other images"),
        (lambda v: v["train"]["qidxs"].pop(), "is no list of images .*inhomogeneous"),
        (lambda v: v["train"]["pidxs"].__setitem__(0, 20), "clusters or pairs of other images"),
        (lambda v: v["val"]["cids"].__setitem__(0, "0123456789"), r"names 1 images .*, as 89/67"),
        (lambda v: v["train"].update(cluster=np.arange(20)), ""),
    ],
)
def test_a_broken_list_names_the_file(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_sfm(tmp_path)
    with pytest.raises(UserError, match=rf"{NAME}\.pkl.*{message}"):
        load_sfm(rewritten(tmp_path, change))


def test_gldv2(tmp_path: Path) -> None:
    write_gldv2(tmp_path)
    found = load_gldv2(tmp_path, held_out=2)
    # Without gaps: 81,313 classes are as many weights.
    assert found.labels == tuple(np.repeat(range(4), 4))
    assert found.pairs == ()
    files = [*found.files, *(tmp_path / "train" / file for file in found.validation.files)]
    assert sorted(files) == sorted((tmp_path / "train").rglob("*.jpg"))
    assert len(found.validation.queries) == len(found.validation.database) == 4
    assert all(len(query.labels["ok"]) == 2 for query in found.validation.queries)
    assert load_gldv2(tmp_path, held_out=2).id == found.id
    assert load_gldv2(tmp_path, held_out=3).id != found.id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("id,images", "its first line must name landmark_id,images"),
        ("99,0123456789abcdef,more", "Expected 2 fields in line 8, saw 3"),
        ("99,0123456789abcdef", r"names 1 images .* as 0/1/2/0123456789abcdef\.jpg"),
    ],
)
def test_a_broken_clean_list_names_the_file(tmp_path: Path, line: str, message: str) -> None:
    lines = write_gldv2(tmp_path)
    lines = [line, *lines[1:]] if line.startswith("id") else [*lines, line]
    (tmp_path / "train_clean.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=rf"train_clean\.csv.*{message}"):
        load_gldv2(tmp_path, held_out=2)
