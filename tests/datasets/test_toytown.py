"""Toytown as a data set: masks, records and ground truth."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dagf.datasets import toytown
from dagf.datasets.benchmark import EASY, HARD, MEDIUM
from dagf.datasets.images import exact_mask
from tests.toytown.version import SMALL as TINY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toytown.open_toytown(TINY, tmp_path_factory.mktemp("toytown"))


def test_layout_and_training_labels(root: Path) -> None:
    assert root.name == f"toytown-{TINY.id}"
    training = toytown.toytown_training(root)
    assert training.labels == (0, 0, 1, 1, 2, 2)
    assert training.validation.name == "toytown-validation"
    tested_on = {"test_landmarks": 1, "test_seed": 7, "distractors": 2}
    other, more = replace(TINY, **tested_on), replace(TINY, train_landmarks=4)
    for spec, same in (other, True), (more, False):
        again = toytown.open_toytown(spec, root.parent)
        assert again != root and (toytown.toytown_training(again).id == training.id) == same
    assert all(cv2.imread(str(file)).shape == (64, 64, 3) for file in training.files)
    assert not list((root / "test" / "masks").glob("*query*"))
    assert len(list((root / "test" / "masks").glob("*.png"))) == 2 * 4


@pytest.mark.parametrize("split", ["train", "validation"])
def test_masks_agree_with_the_records(root: Path, split: str) -> None:
    records = toytown.toytown_records(root, split)
    rows = records[records.role.isin(["train", "database"])]
    assert len(rows) > 5
    for row in rows.itertuples():
        mask = np.asarray(exact_mask(root / split / "jpg" / row.file)) > 127
        assert mask.shape == (64, 64)
        assert mask.mean() == pytest.approx(row.scale, abs=1e-4)
        ys, xs = np.nonzero(mask)
        assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (row.x1, row.y1, row.x2, row.y2)


def test_ground_truth_is_the_records_as_a_benchmark(root: Path) -> None:
    benchmark = toytown.load_toytown(root, "validation")
    records = toytown.toytown_records(root, "validation")
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
    files = [benchmark.root / query.file for query in benchmark.queries]
    assert all(path.is_file() for path in (*files, *benchmark.database_paths))
    assert len(benchmark.distractors) == 3
    assert len(toytown.load_toytown(root, "test").distractors) == 5
