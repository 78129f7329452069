"""Toytown: the same bytes from the same seed, and labels that follow from the records."""

import dataclasses
import json
from pathlib import Path

import pytest

from dagf.toytown import generate
from tests.fixtures import fails
from tests.toytown.version import FILE, hashes
from tests.toytown.version import SMALL as TINY

IMAGES = (".jpg", ".png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.make_toytown(TINY, tmp_path_factory.mktemp("toytown"), workers=1)


def contents(root: Path) -> dict[str, bytes]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_two_workers_write_the_same_bytes_as_one(root: Path, tmp_path: Path) -> None:
    assert contents(generate.make_toytown(TINY, tmp_path, workers=2)) == contents(root)


def test_an_image_does_not_depend_on_how_many_others_there_are(root: Path, tmp_path: Path) -> None:
    more = dataclasses.replace(TINY, validation_landmarks=2, views=6, train_views=3)
    more = dataclasses.replace(more, distractors=8, test_landmarks=4)
    other = contents(generate.make_toytown(more, tmp_path, workers=1))
    shared = [name for name in contents(root) if name in other and Path(name).suffix in IMAGES]
    assert len(shared) == 2 * (2 * 3 + 9 + 9 + 5 + 3)  # train; validation; test; distractors
    mine = contents(root)
    assert all(mine[name] == other[name] for name in shared)


def record(**changed: float) -> dict[str, float]:
    return {"visible": 1.0, "scale": 0.3, "turn": 10.0, "clutter": 0.1, **changed}


@pytest.mark.parametrize(
    ("label", "threshold", "worse"),
    [
        ("easy", "visible", -1), ("easy", "scale", -1), ("easy", "turn", 1), ("easy", "clutter", 1),
        ("junk", "visible_below", -1), ("junk", "scale_below", -1), ("junk", "turn_above", 1),
    ],
)  # fmt: skip
def test_difficulty_changes_at_its_thresholds(label: str, threshold: str, worse: int) -> None:
    before, after = ("easy", "hard") if label == "easy" else ("hard", "junk")
    name, edge = threshold.split("_")[0], generate.THRESHOLDS[label][threshold]
    assert generate.difficulty(record(**{name: edge})) == before
    assert generate.difficulty(record(**{name: edge + 0.001 * worse})) == after
    assert generate.difficulty(record()) == "easy"


def test_values_that_cannot_be_drawn_are_explained() -> None:
    for name, value in (("size", 20), ("views", 0), ("distractors", -1)):
        fails(f"{name} is {value}", generate.ToytownSpec, **{name: value})


def test_the_id_follows_every_value_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"nuisances": False}, {"distractors": 6}, {"seed": 12}
    assert len({TINY.id, *(dataclasses.replace(TINY, **one).id for one in changes)}) == 4
    before = TINY.id
    monkeypatch.setattr(generate, "VERSION", generate.VERSION + 1)
    assert TINY.id != before


def test_this_version_draws_what_it_always_drew() -> None:
    """Results of all sessions are compared: a changed pixel or record needs another `VERSION`.

    Then `python -m tests.toytown.version` writes the hashes anew.
    """
    assert {"version": generate.VERSION, **hashes()} == json.loads(FILE.read_text())
