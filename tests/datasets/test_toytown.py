"""Toytown as a data set: masks, records, ground truth, and files that are missing."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dagf.datasets.benchmark import EASY, HARD, MEDIUM
from dagf.datasets.contents import Contents
from dagf.datasets.toytown import (
    check_toytown,
    load_mask,
    load_toytown,
    open_toytown,
    toytown_records,
    toytown_spec,
    toytown_training,
)
from dagf.errors import UserError
from tests.toytown.version import SMALL as TINY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_toytown(TINY, tmp_path_factory.mktemp("toytown"))


def test_layout_and_training_labels(root: Path) -> None:
    assert root.name == f"toytown-{TINY.id}"
    assert toytown_spec(root) == TINY
    training = toytown_training(root)
    files, labels = training.files, training.labels
    assert labels == (0, 0, 1, 1, 2, 2)
    assert training.validation.name == "toytown-validation"
    assert all(cv2.imread(str(file)).shape == (64, 64, 3) for file in files)
    assert not list((root / "test" / "masks").glob("*query*"))
    assert len(list((root / "test" / "masks").glob("*.png"))) == 2 * 4


@pytest.mark.parametrize("split", ["train", "validation"])
def test_masks_agree_with_the_records(root: Path, split: str) -> None:
    records = toytown_records(root, split)
    rows = records[records.role.isin(["train", "database"])]
    assert len(rows) > 5
    for row in rows.itertuples():
        mask = load_mask(root, split, row.file)
        assert mask.shape == (64, 64)
        assert mask.mean() == pytest.approx(row.scale, abs=1e-4)
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (row.x1, row.y1, row.x2, row.y2)


def test_ground_truth_is_the_records_as_a_benchmark(root: Path) -> None:
    benchmark = load_toytown(root, "validation")
    records = toytown_records(root, "validation")
    database = records[records.role == "database"].reset_index(drop=True)
    assert list(benchmark.database) == database.file.tolist()
    assert benchmark.settings == (EASY, MEDIUM, HARD)
    for number, query in enumerate(benchmark.queries):
        for label in ("easy", "hard", "junk"):
            mine = database[(database.landmark == number) & (database.difficulty == label)]
            assert query.labels[label].tolist() == mine.index.tolist()
        row = records[records.file == query.file].iloc[0]
        assert row.role == "query"
        assert query.box == (row.x1, row.y1, row.x2, row.y2)
    assert query.file not in benchmark.database
    assert all(path.is_file() for path in benchmark.database_paths)
    assert all((benchmark.root / query.file).is_file() for query in benchmark.queries)
    assert len(benchmark.distractors) == 3
    assert len(load_toytown(root, "test").distractors) == 5
    assert all(path.is_file() for path in benchmark.distractors)


def test_a_missing_file_is_named_with_the_remedy(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / root.name
    shutil.copytree(root, broken)
    (broken / "test" / "jpg" / "00001_003.jpg").unlink()
    with pytest.raises(
        UserError, match=r"lacks test/jpg/00001_003.jpg: delete .* `dagf data make`"
    ):
        check_toytown(broken, Contents())
    with pytest.raises(UserError, match="00001_003"):
        open_toytown(TINY, tmp_path)
    shutil.rmtree(broken / "distractors" / "test" / "jpg")
    with pytest.raises(UserError, match="and 5 more files"):
        check_toytown(broken, Contents())


def test_mistakes_are_explained(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not describe a Toytown.*dagf data make"):
        load_toytown(tmp_path, "test")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        load_toytown(root, "validatoin")
    with pytest.raises(UserError, match="unknown Toytown split 'train'"):
        load_toytown(root, "train")
    with pytest.raises(UserError, match=r"00000_query.png is no readable PNG"):
        load_mask(root, "test", "00000_query.jpg")
    (tmp_path / "spec.json").write_text("{}")
    with pytest.raises(UserError, match="does not describe a Toytown"):
        toytown_spec(tmp_path)
