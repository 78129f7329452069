"""A miniature folder of photographs, and heads to train on it."""

from pathlib import Path

import pytest

from dagf.study.study import Study
from tests.fixtures import Opened, photograph, write_photographs

TRAINING = {"epochs": 1, "steps": 2, "landmarks": 2, "views": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six instances to train on, three of the test, two of another role; two query sets."""
    made = write_photographs(tmp_path / "shots", train_instances=6)
    lines = (made / "labels.csv").read_text().splitlines()
    for number in range(4):
        photograph(50 + number // 2, number).save(made / f"jpg/sort-{number}.jpg")
        lines.append(f"jpg/sort-{number}.jpg,sort{number // 2},train-sorts")
    photograph(6, 9).save(made / "jpg/plain.jpg")
    lines.append("jpg/plain.jpg,i6,query-plain")
    (made / "labels.csv").write_text("\n".join(lines) + "\n")
    return made


@pytest.fixture
def study(heads_on: Opened, folder: Path, backbone_weights: str) -> Study:
    """Two instances held out and four trained on, under the small backbone."""
    return heads_on(folder, backbone_weights, heads={"training": TRAINING, "rates": [1e-3]})
