"""The split of the Grocery Store data set: from its layout to the labels that were measured."""

import csv
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from dagf.datasets.folder import read_labels
from dagf.datasets.grocery import grocery_labels
from dagf.datasets.public import open_benchmark
from dagf.errors import UserError
from tests.datasets.sets import MANIFEST, write_grocery

PACKED = re.compile(r"images/(test_|val_|iconic_|)(.+)_(\d+|Iconic)\.jpg")


def test_a_small_copy(tmp_path: Path) -> None:
    write_grocery(tmp_path)
    roles = defaultdict(list)
    for _, file, name, role in grocery_labels(tmp_path).itertuples():
        assert (tmp_path / file).is_file()
        assert name in file
        roles[role].append(f"{file.split('/')[1]} {Path(file).stem}")
    assert list(roles) == ["train", "train-category", "query", "query-iconic", "database"]
    assert roles["query"] == [
        "test Bravo-Apple-Juice_001", "test Bravo-Apple-Juice_004",
        "test Tropicana-Juice-Smooth_001", "test Tropicana-Juice-Smooth_004",
    ]  # fmt: skip
    assert [row.split()[1] for row in roles["query-iconic"]] == [
        "Bravo-Apple-Juice_Iconic", "Tropicana-Juice-Smooth_Iconic",
    ]  # fmt: skip
    assert len(roles["database"]) == 3 + 4 + (4 - 2) + (5 - 2) + 1 + 1
    assert len(roles["train"]) == 2 + 1 + 1 + 2
    assert not any("Yoghurt" in row for some in roles.values() for row in some)
    assert roles["train-category"] == [
        "train Anjou_001",
        "train Anjou_003",
        "test Anjou_002",
        "test Anjou_004",
    ]


def test_the_rows_are_those_of_the_measured_labels(shared_data: Path, tmp_path: Path) -> None:
    """The real layout is built up from what labels.csv tells of it."""
    with (shared_data / "products" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    roles = {row["instance"]: row["role"] for row in rows}
    for row in rows:
        part, name, number = PACKED.fullmatch(row["file"]).groups()  # type: ignore[union-attr]
        assert name == row["instance"]
        if part != "iconic_":
            numbers[name][part].append(int(number))
    kinds = []
    for place, (name, parts) in enumerate(numbers.items()):
        # every second photograph, counted through the lists: where a list starts says whether the
        # last is missing
        counts = [max(parts.get(part, [0])) for part in ("", "test_", "val_")]
        if roles[name] == "train-category":
            for at, (this, following) in enumerate((("", "test_"), ("test_", "val_"))):
                before = sum(counts[:at])
                if following in parts and (before + counts[at] + parts[following][0]) % 2 == 0:
                    counts[at] += 1
                assert (before + parts[this][0]) % 2 == 1
        family = {"train": "Milk", "train-category": "Fruit"}.get(roles[name], "Juice")
        folder = "Fruit" if family == "Fruit" else f"Packages/{family}"
        kinds.append((name, place, family, 0, folder, tuple(counts)))
    write_grocery(tmp_path, kinds, pixels=False)

    def packed(file: str) -> str:
        part = file.split("/")[1]
        prefix = {"train": "", "iconic-images-and-descriptions": "iconic_"}.get(part, f"{part}_")
        return f"images/{prefix}{Path(file).name}"

    found = read_labels(tmp_path)
    found["file"] = found["file"].map(packed)
    assert found.to_dict("records") == rows
    home = tmp_path / "test" / "grocery"
    home.mkdir(parents=True)
    (tmp_path / "dataset").rename(home / "dataset")
    shutil.copy(MANIFEST, tmp_path)
    assert open_benchmark("grocery", tmp_path).settings[0].name == "Classic"  # the real counts hold
    (home / "dataset" / "val.txt").write_text("")
    with pytest.raises(
        UserError, match=r"grocery has 388 database \(expected 417\), 3508 ok \(expected 3761\)"
    ):
        open_benchmark("grocery", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("train.txt", "a.jpg, 28\n", "a photograph without its class"),
        ("val.txt", "\na.jpg, 99, 1\n", "a photograph without its class"),
        ("classes.csv", "a,b\n1,2\n", r"'Class ID \(int\)'"),
        ("test.txt", None, r"test\.txt"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, file: str, text: str | None, why: str) -> None:
    write_grocery(tmp_path, pixels=False)
    (tmp_path / "dataset" / file).unlink()
    if text is not None:
        (tmp_path / "dataset" / file).write_text(text)
    with pytest.raises(UserError, match=rf"dataset is no whole copy of .*{why}.*: get it again"):
        read_labels(tmp_path)
