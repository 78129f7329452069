"""Toytown: the same bytes from the same seed, and labels that follow from the records."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.toytown import toytown_records
from dagf.toytown import generate
from tests.fixtures import fails
from tests.toytown.version import FILE, hashes
from tests.toytown.version import SMALL as TINY


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.make_toytown(TINY, tmp_path_factory.mktemp("toytown"), workers=1)


IMAGES = (".jpg", ".png")


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


def test_records_hold_what_the_difficulty_was_made_from(root: Path) -> None:
    records = toytown_records(root, "validation")
    assert records.role.value_counts().to_dict() == {"database": 36, "query": 9, "distractor": 3}
    assert records[records.role == "distractor"].landmark.eq(-1).all()
    query = records[records.role == "query"].set_index("landmark").azimuth
    database = records[records.role == "database"]
    turns = (database.azimuth - database.landmark.map(query)).abs()
    assert np.allclose(turns, database.turn, atol=0.01)
    found = [generate.difficulty(row) for row in database.to_dict("records")]
    assert found == database.difficulty.tolist()
    assert set(records.columns) == set(generate.COLUMNS)


def test_twins_are_named_only_where_the_split_holds_both(root: Path) -> None:
    records = toytown_records(root, "validation").query("landmark >= 0")
    twins = records.groupby("landmark").twin.first().to_dict()
    assert twins == {0: 1, 1: 0, **dict.fromkeys(range(2, 9), -1)}  # 8's twin would be 9


def test_the_distractors_of_the_splits_are_disjoint_and_unlimited(root: Path) -> None:
    files = sorted((root / "distractors").rglob("*.jpg"))
    assert len({file.read_bytes() for file in files}) == len(files) == 8
    far = dataclasses.replace(TINY, distractors=200_000)
    shot = generate.draw(generate.Job(far, "test", 123_456, 1), "distractor", 123_456)
    assert shot.image.shape == (64, 64, 3)
    drawn = generate.draw(generate.Job(TINY, "test", 0, 5), "distractor", 4).image
    stored = cv2.imread(str(root / "distractors/test/jpg/distractor_0000004.jpg"))
    # The same picture but for the JPEG.
    assert np.abs(drawn.astype(int) - stored[..., ::-1]).mean() < 12


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


RANK = {"easy": 0, "hard": 1, "junk": 2}


WORSE = {"visible": -1, "scale": -1, "turn": 180, "clutter": 1}
SHARES = st.floats(0, 1)


@given(st.fixed_dictionaries(dict.fromkeys(WORSE, SHARES)), st.sampled_from([*WORSE]), SHARES)
def test_a_worse_view_is_never_easier(view: dict[str, float], name: str, step: float) -> None:
    view["turn"] *= 180
    worse = view | {name: view[name] + step * WORSE[name]}
    assert RANK[generate.difficulty(worse)] >= RANK[generate.difficulty(view)]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(job: generate.Job, root: Path) -> list[generate.Record]:
        calls.append(job)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(job, root)

    write = generate.write_images
    monkeypatch.setattr(generate, "write_images", fail)
    with pytest.raises(KeyboardInterrupt):
        generate.make_toytown(TINY, tmp_path, workers=1)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_values_that_cannot_be_drawn_are_explained() -> None:
    fails("size is 20 pixels", generate.ToytownSpec, size=20)
    fails("Toytown: views is 0, expected at least 1", generate.ToytownSpec, views=0)
    fails("distractors is -1", generate.ToytownSpec, distractors=-1)


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
