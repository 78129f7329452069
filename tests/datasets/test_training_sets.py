"""retrieval-SfM and Google Landmarks v2 as miniature copies of their real files, and what may be wrong with them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagf.datasets import revisited, training_sets
from dagf.datasets.manifest import read_manifest
from dagf.datasets.training_sets import (
    TRAINING_SETS,
    image_path,
    load_gldv2,
    load_sfm,
    load_whitening_split,
)
from dagf.errors import UserError
from tests.training_copies import write_gldv2, write_sfm

NAME = "retrieval-SfM-120k"
MANIFEST = Path(__file__).parents[2] / "data" / "manifest.json"


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_sets, "COUNTS", {})


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The list in `folder` after a change."""
    value = pickle.loads((folder / f"{NAME}.pkl").read_bytes())
    change(value)
    (folder / f"{NAME}.pkl").write_bytes(pickle.dumps(value, 2))
    return folder


def test_where_a_photograph_lies() -> None:
    assert image_path("0123456789abcdef") == "ef/cd/ab/0123456789abcdef"


def test_the_folders_are_those_of_the_manifest() -> None:
    sets = read_manifest(MANIFEST)
    assert {name: one.folder for name, one in TRAINING_SETS.items()} == {
        name: sets[name].folder for name in TRAINING_SETS
    }


@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_sfm(tmp_path: Path, suffix: str) -> None:
    parts = write_sfm(tmp_path)
    if suffix == ".json":
        (tmp_path / f"{NAME}.pkl").unlink()
        (tmp_path / f"{NAME}.json").write_text(json.dumps(parts))
    found = load_sfm(tmp_path)
    assert len(found.files) == 20
    assert all(file.is_file() for file in found.files)
    assert [file.name for file in found.files] == parts["train"]["cids"]
    assert found.labels == tuple(np.repeat(range(5), 4))
    assert found.pairs == tuple(zip(parts["train"]["qidxs"], parts["train"]["pidxs"], strict=True))
    kept = found.validation
    assert [Path(file).name for file in kept.database] == parts["val"]["cids"]
    assert [kept.database.index(query.file) for query in kept.queries] == [0, 1, 2, 4, 5, 6]
    second = kept.queries[
        1
    ]  # of its cluster 0..3, the next is its positive; itself and the others are junk
    assert second.labels["ok"].tolist() == [2]
    assert second.labels["junk"].tolist() == [0, 1, 3]


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
    parts = write_sfm(tmp_path)
    files, pairs = load_whitening_split(tmp_path)
    assert [file.name for file in files] == parts["train"]["cids"]
    once = [
        list(pair) for pair in zip(parts["train"]["qidxs"], parts["train"]["pidxs"], strict=True)
    ]
    assert pairs.tolist() == once * 10
    with pytest.raises(UserError, match=r"retrieval-SfM-30k-whiten\.pkl does not exist"):
        load_whitening_split(tmp_path, "retrieval-SfM-30k")


def test_a_list_larger_than_a_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sfm(tmp_path)
    monkeypatch.setattr(revisited, "MAX_BYTES", 10)
    load_sfm(tmp_path)
    monkeypatch.setattr(training_sets, "LIST_BYTES", 10)
    with pytest.raises(UserError, match=rf"{NAME}\.pkl has \d+ bytes, too many"):
        load_sfm(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("val"), "its part 'val' .*'val' is missing"),
        (lambda v: v["train"].pop("cluster"), "its part 'train' .*'cluster' is missing"),
        (lambda v: v["train"]["cluster"].pop(), "20 images, but 19 clusters"),
        (lambda v: v["train"]["qidxs"].pop(), "14 queries, but 15 positives"),
        (lambda v: v["val"].update(qidxs=[], pidxs=[]), "0 queries"),
        (lambda v: v["train"]["pidxs"].__setitem__(0, 20), "a pair outside its 20 images"),
        (lambda v: v["train"]["pidxs"].__setitem__(0, -1), "a pair outside"),
        (lambda v: v["train"]["pidxs"].__setitem__(0, 2**70), "its part 'train'"),
        (lambda v: v["train"]["pidxs"].__setitem__(0, 1.5), "its part 'train'"),
        (lambda v: v["val"]["cids"].__setitem__(0, "../../../../etc/passwd"), "no name of a file"),
        (lambda v: v["val"]["cids"].__setitem__(0, "0123456789"), r"lists 1 photographs that .* in .*ims, as 89/67"),
        (lambda v: v.update(train=3), "its part 'train'"),
    ],
)  # fmt: skip
def test_a_broken_list_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    write_sfm(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_sfm(rewritten(tmp_path, change))
    assert f"{NAME}.pkl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_more_than_plain_data_is_refused(tmp_path: Path) -> None:
    parts = write_sfm(tmp_path)
    with pytest.raises(
        UserError, match=r"is refused: its opcode \w+ .* or save the same as \.json"
    ):
        load_sfm(rewritten(tmp_path, lambda value: value["train"].update(cluster=np.arange(20))))
    (tmp_path / f"{NAME}.json").write_text(
        json.dumps(parts)
    )  # as the message says, with the pickle still there
    assert len(load_sfm(tmp_path).files) == 20


def test_gldv2(tmp_path: Path) -> None:
    write_gldv2(tmp_path)
    found = load_gldv2(tmp_path, held_out=2)
    assert found.labels == tuple(
        np.repeat(range(4), 4)
    )  # without gaps: 81,313 classes are as many weights
    assert found.pairs == ()
    files = [*found.files, *found.validation.database_paths]
    files += [tmp_path / "train" / query.file for query in found.validation.queries]
    assert sorted(files) == sorted((tmp_path / "train").rglob("*.jpg"))
    assert len(found.validation.queries) == len(found.validation.database) == 4
    assert all(len(query.labels["ok"]) == 2 for query in found.validation.queries)
    assert load_gldv2(tmp_path, held_out=2).id == found.id
    assert load_gldv2(tmp_path, held_out=3).id != found.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines.__setitem__(0, "id,images"),
            "its first line must be landmark_id,images",
        ),
        (lambda lines: lines.append(lines[1]), r"train_clean\.csv, line 8"),
        (lambda lines: lines.append("99,"), "line 8"),
        (
            lambda lines: lines.append("99,0123456789abcdef,more"),
            "line 8: too many or too few cells; get it again",
        ),
        (
            lambda lines: lines.append("99," + lines[1].split()[-1]),
            "line 8: an image is listed twice",
        ),
        (lambda lines: lines.append("99,../../x"), "line 8: .* no id"),
        (
            lambda lines: lines.append("99,0123456789abcdef"),
            r"lists 1 photographs .* as 0/1/2/0123456789abcdef\.jpg",
        ),
    ],
)
def test_a_broken_clean_list_is_one_line(
    tmp_path: Path, change: Callable[[list[str]], object], message: str
) -> None:
    lines = write_gldv2(tmp_path)
    change(lines)
    (tmp_path / "train_clean.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_gldv2(tmp_path, held_out=2)
    assert "train_clean.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_clean_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train_clean\.csv does not exist: get it again with `dagf data get gldv2`"
    ):
        load_gldv2(tmp_path, held_out=2)


def test_too_many_held_out_and_another_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gldv2(tmp_path / "gldv2")
    write_sfm(tmp_path / "sfm")
    with pytest.raises(UserError, match=r"train_clean\.csv: cannot hold 6 of the 6"):
        load_gldv2(tmp_path / "gldv2", held_out=6)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"lists 6 and 24, expected 81313 and 1580470 \(landmarks and images\)"
    ):
        load_gldv2(tmp_path / "gldv2", held_out=2)
    with pytest.raises(
        UserError,
        match=r"\.pkl lists 20 and 8, expected 91642 and 6403 \(training and validation im",
    ):
        load_sfm(tmp_path / "sfm")
