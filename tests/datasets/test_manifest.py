"""data/manifest.json is of its form, says what the protocols say, and a set is counted by it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dagf.datasets.benchmark import from_ground_truth
from dagf.datasets.manifest import Counts, count_differences, differences, read_manifest
from dagf.datasets.public import DISTRACTORS, LOADERS
from dagf.datasets.revisited import load_ground_truth
from dagf.datasets.training_sets import TRAINING_SETS
from dagf.errors import UserError
from dagf.files import file_sha256
from tests.datasets.sets import MANIFEST, REVISITED

SETS = read_manifest(MANIFEST)


def test_the_manifest() -> None:
    raw = json.loads(MANIFEST.read_text(encoding="utf-8"))
    assert list(SETS) == [one["name"] for one in raw["sets"]]
    folders = [one.folder for one in SETS.values()]
    assert len(set(folders)) == len(folders)
    for one in SETS.values():
        assert one.title
        assert set(one.needs) <= SETS.keys()
        assert one.expected.files or one.expected.benchmark
        unchecked = any(not file.sha256 and not file.md5_from for file in one.files)
        assert bool(one.unmeasured) == unchecked, one.name
        for file in one.files:
            assert all(address.endswith(f"/{file.file}") for address in file.mirrors)
    assert [len(SETS[name].files) for name in ("r1m", "gldv2", "oxford100k")] == [101, 502, 40]
    md5 = "https://s3.amazonaws.com/google-landmark/md5sum/train/md5.images_007.txt"
    assert SETS["gldv2"].files[7].md5_from == md5
    assert SETS["oxford100k"].files[0].file == "oxc1_100k.part01.rar"


def test_the_counts_are_those_of_the_protocols() -> None:
    """Philbin et al. 2007, 2008; Radenovic et al. 2018; Jegou et al. 2008; Nister 2006."""
    counts = {name: one.expected.benchmark for name, one in SETS.items() if one.expected.benchmark}
    cropped = {"boxes": True}
    assert counts == {
        "oxford5k": Counts(queries=55, database=5063, ok=2840, junk=1495, own="ok", **cropped),
        "paris6k": Counts(queries=55, database=6392, ok=8955, junk=8245, own="ok", **cropped),
        "roxford5k": Counts(
            queries=70, database=4993, easy=3029, hard=2497, junk=1356, without={"easy": (11, 66)},
            **cropped,
        ),
        "rparis6k": Counts(
            queries=70, database=6322, easy=6874, hard=10350, junk=7153,
            without={"junk": (25, 26, 27, 28, 29)}, **cropped,
        ),
        "holidays": Counts(queries=500, database=1491, ok=991, junk=500, own="junk"),
        "ukbench": Counts(queries=10200, database=10200, ok=40800, own="ok"),
        "grocery": Counts(queries=88, database=417, ok=3761),
    }  # fmt: skip
    files = {name: one.expected.files for name, one in SETS.items()}
    assert files["oxford5k"]["jpg/*.jpg"] == 5063
    assert files["paris6k"]["jpg/*.jpg"] == 6392 + 20  # the corrupt ones
    assert files["r1m"] == {DISTRACTORS["r1m"][1]: 1_001_001}
    assert files["holidays"] == {"jpg/*.jpg": 1491, "jpg/*00.jpg": 500}
    assert SETS["gldv2"].expected.lists == {"train_clean.csv": {"rows": 81313, "items": 1580470}}
    parts = {"train": 91642, "val": 6403}  # as its author counts them
    assert SETS["sfm120k"].expected.lists == {"retrieval-SfM-120k.pkl": parts}


def test_each_set_lands_where_it_is_looked_for() -> None:
    for name in LOADERS:
        assert name == "holidays-upright" or SETS[name].folder == f"test/{name}"
    for name, one in TRAINING_SETS.items():
        assert one.folder == SETS[name].folder
    for name, (folder, _) in DISTRACTORS.items():
        assert folder == SETS[name].folder


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_published_ground_truth_is_accepted(shared_data: Path, name: str) -> None:
    (file,) = SETS[name].files
    path = shared_data / "ground_truth" / file.file
    assert (path.stat().st_size, file_sha256(path)) == (file.bytes, file.sha256)
    assert differences(SETS[name], path.parent) == []


@pytest.mark.parametrize(
    ("name", "label", "index"), [("roxford5k", "easy", 11), ("rparis6k", "junk", 25)]
)
def test_which_queries_lack_a_label_is_checked(
    shared_data: Path, name: str, label: str, index: int
) -> None:
    truth = load_ground_truth(shared_data / "ground_truth" / f"gnd_{name}.pkl")
    for part in ("gnd", "qimlist"):  # two queries change places: every sum stays
        truth[part][0], truth[part][index] = truth[part][index], truth[part][0]
    counts = SETS[name].expected.benchmark
    assert counts
    (wrong,) = count_differences(from_ground_truth(name, shared_data, truth), counts)
    assert re.match(rf"2 other queries without {label}, as number 0 .*, number {index} ", wrong)


def test_a_query_without_a_box_and_one_in_the_database_are_named(tmp_path: Path) -> None:
    counts = Counts(queries=1, database=6, easy=1, hard=1, junk=1, boxes=True)

    def wrong(**changes: Any) -> list[str]:
        truth = {**REVISITED, **changes}
        return count_differences(from_ground_truth("roxford5k", tmp_path, truth), counts)

    assert wrong() == []
    whole = {key: value for key, value in REVISITED["gnd"][0].items() if key != "bbx"}
    assert wrong(gnd=[whole]) == ["1 queries without a box, as number 0 (all_souls_000000.jpg)"]
    inside = {"qimlist": REVISITED["imlist"][:1]}
    assert wrong(**inside) == [
        "1 queries that are not outside the database, as number 0 (all_souls_000001.jpg)"
    ]


def test_a_list_is_counted(tmp_path: Path) -> None:
    one = SETS["gldv2"].model_copy(
        update={"expected": SETS["gldv2"].expected.model_copy(update={"files": {}})}
    )
    path = tmp_path / "train_clean.csv"
    path.write_text("landmark_id,images\n1,a b\n2,c\n")
    assert differences(one, tmp_path) == [
        "train_clean.csv: 2 rows (expected 81313)",
        "train_clean.csv: 3 items (expected 1580470)",
    ]
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*train_clean\.csv"):
        differences(one, tmp_path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"format": 1}, "format"),
        ({"sets": [{}]}, "name"),
        ({"name": "../x"}, "name"),
        ({"folder": "/etc"}, "folder"),
        ({"folder": "a/../../b"}, "folder"),
        ({"file": "../evil"}, "file"),
        ({"into": ".."}, "into"),
        ({"mirrors": ["file:///etc/passwd"]}, "mirrors"),
        ({"mirrors": []}, "mirrors"),
        ({"sha256": "abc"}, "sha256"),
        ({"archive": "exe"}, "archive"),
        ({"shell": "rm"}, "shell"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    file: dict[str, Any] = {"file": "a", "mirrors": ["https://host/a"]}
    one = {"name": "x", "title": "x", "folder": "x", "files": [file], "expected": {"files": {}}}
    whole: dict[str, Any] = {"format": 2, "sets": [one]}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(whole))
    assert list(read_manifest(path)) == ["x"]
    for key, value in change.items():
        next((level for level in (whole, one) if key in level), file)[key] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(
        UserError, match=rf"manifest\.json is no manifest .*\(.*{where}.*: "
    ) as said:
        read_manifest(path)
    assert "\n" not in str(said.value)
