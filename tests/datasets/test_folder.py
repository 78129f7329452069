"""Labels, ground truth and held-out instances of a folder of one's own photographs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagf.datasets.benchmark import CLASSIC
from dagf.datasets.folder import hold_out, load_folder, numbered, read_boxes, read_labels
from tests.fixtures import fails

HEADER = "file,instance,role"
GOOD = ["q1.jpg,one,query", "q2.jpg,two,query-studio", "q3.jpg,three,query", "d1.jpg,one,database"]
GOOD += ["d2.jpg,two,database", "d3.jpg,one,database", "d4.jpg,,database", "x.jpg,,distractor"]
TRAIN = [f"t/{name}{number}.jpg,{name},train" for name in "abcd" for number in range(12)]


def make(folder: Path, lines: list[str], header: str = HEADER, files: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    for name in [line.split(",")[0].strip() for line in lines if files and line]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_becomes_a_benchmark(tmp_path: Path) -> None:
    made = load_folder(make(tmp_path / "mine", GOOD))
    assert made.name == "mine"
    assert made.database == ("d1.jpg", "d2.jpg", "d3.jpg", "d4.jpg")
    assert [query.relevance(CLASSIC)[0].tolist() for query in made.queries] == [[0, 2], [1], []]
    assert made.query_sets == {"query": [0, 2], "query-studio": [1]}
    assert made.settings == (CLASSIC,)
    assert made.distractors == (tmp_path / "mine" / "x.jpg",)


def test_spreadsheets_habits_are_accepted(tmp_path: Path) -> None:
    lines = [' q.jpg , one ,query,"a note, quoted"', "./d.jpg,one,database,", ""]
    folder = make(tmp_path, lines, header="\ufefffile, instance, role, note")
    assert read_labels(folder)["file"].tolist() == ["q.jpg", "d.jpg"]


def test_names_of_other_systems_are_found(tmp_path: Path) -> None:
    """Backslashes, another Unicode form, other capitals: in labels, boxes and a ground truth."""
    stored = ["jpg/Ze\u0301ro 1.JPG", "jpg/b.jpg", "jpg/c.jpg", "jpg/C.jpg"]
    make(tmp_path / "a", [f"{name},one,database" for name in stored])
    odd = (".\\JPG\\Z\u00e9ro 1.jpg", ".\\jpg\\.\\b.jpg")
    lines = [f"{odd[0]},one,query", f"{odd[1]},one,database", "jpg/C.jpg,,distractor"]
    make(tmp_path / "a", lines, files=False)
    made = load_folder(tmp_path / "a")
    assert [made.queries[0].file, *made.database] == stored[:2]
    assert made.distractors == (tmp_path / "a" / stored[3],)
    text = "file,instance,x1,y1,x2,y2\n" + "".join(f"{one},one,0,0,1,1\n" for one in odd)
    (tmp_path / "a" / "boxes.csv").write_text(text)
    assert read_boxes(tmp_path / "a")["file"].tolist() == stored[:2]
    make(tmp_path / "a", [*lines, "jpg/B.jpg,one,database"], files=False)
    fails(r"lists jpg/b\.jpg twice", read_labels, tmp_path / "a")
    make(tmp_path / "a", [*lines, "JPG/C.JPG,one,database"], files=False)  # which of the two?
    fails(r"names 1 images that are not in .*, as JPG/C\.JPG", read_labels, tmp_path / "a")
    (tmp_path / "a" / "labels.csv").unlink()
    truth = {"imlist": [odd[1]], "qimlist": [odd[0]], "gnd": [{"ok": [0]}]}
    (tmp_path / "a" / "ground_truth.json").write_text(json.dumps(truth))
    made = load_folder(tmp_path / "a")
    assert [made.queries[0].file, *made.database] == stored[:2]


def test_the_nearest_name_is_told_for_a_missing_one(tmp_path: Path) -> None:
    make(tmp_path, ["jpg/IMG_1.jpeg,one,query", "jpg/IMG_2.jpg,one,query", "jpg/a,one,query"])
    make(tmp_path, [f"jpg\\{name}.jpg,one,query" for name in ("IMG_1", "b")], files=False)
    says = r"as jpg\\IMG_1.jpg \(did you mean 'IMG_1.jpeg'\?\), jpg\\b.jpg: mend the names"
    fails(says, read_labels, tmp_path)
    (tmp_path / "boxes.csv").write_text("file,instance,x1,y1,x2,y2\njpg/IMG_3.jpg,one,0,0,1,1\n")
    fails(r"did you mean 'IMG_2.jpg'\?\): mend the name", read_boxes, tmp_path)


WRONG: list[tuple[list[str] | bytes, str]] = [
    ([], "lists no image"),
    ([*GOOD, "a.jpg,one,databse"], r"role in .*, line 10: 'databse': did you mean 'database'"),
    (["a.jpg,one,query-"], "line 2: 'query-': did you mean 'query'"),
    (["a.jpg,one,query,more"], "more cells than columns, and commas in names need quotes"),
    (["a.jpg,one,query", "b.jpg,one,query,more"], "Expected 3 fields in line 3, saw 4"),
    ([",one,query"], "line 2: '' is no image in the folder"),
    ([".a.jpg,one,query"], "line 2: '.a.jpg' is no image in the folder, or is hidden there"),
    (["t/@Recycle/a.jpg,one,query"], "or is hidden there"),  # `walk` does not see its changes
    (["b/../../a.jpg,one,query"], "line 2: .*a.jpg' is no image in the folder"),
    (["C:\\a.jpg,one,query"], "is no image in the folder"),
    (["a.jpg,,train-b"], "line 2: a train-b image needs an instance"),
    (["a.jpg,one,query", "./a.jpg,one,database"], "lists a.jpg twice: each file has one"),
    ([f"{i}.jpg,one,query" for i in range(5)], r"names 5 images .*, as 0\.jpg, 1\.jpg, 2\.jpg"),
    (b"file,role\na.jpg,query\n", "it has the columns file, role.* columns file,instance,role"),
    (b"file,instance,role\na.jpg,caf\xe9,query\n", "give a CSV in UTF-8"),
]


@pytest.mark.parametrize(("content", "match"), WRONG)
def test_a_wrong_line_is_named(tmp_path: Path, content: list[str] | bytes, match: str) -> None:
    fails("No such file or directory", load_folder, tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "labels.csv").write_bytes(content)
    else:
        make(tmp_path, content, files=False)
    fails(rf"^(?=.*labels\.csv).*{match}", load_folder, tmp_path)


def test_a_benchmark_needs_queries_that_find_something(tmp_path: Path) -> None:
    query, other = "a.jpg,one,query", "b.jpg,two,database"
    for lines in [query], [other], [query, other]:
        fails(r"labels\.csv has no query with a positive", load_folder, make(tmp_path, lines))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gnd": [{"easy": [], "hard": [], "junk": [0]}]}, "json has no query with a positive"),
        ({"imlist": ["e"]}, r"json names 1 images that are not in .*, as e\.jpg: mend the names"),
    ],
)
def test_a_ground_truth_is_read_instead(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    """Its images lie in jpg/ or beside it."""
    truth = {"imlist": ["d"], "qimlist": ["q.jpg"], "gnd": [{"ok": [0], "junk": []}]}
    (path := tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    for home in tmp_path / "jpg", tmp_path:
        home.mkdir(exist_ok=True)
        for name in ("q.jpg", "d.jpg"):
            (home / name).touch()
        assert load_folder(tmp_path).root == home
    assert load_folder(tmp_path).queries[0].labels["ok"].tolist() == [0]
    path.write_text(json.dumps(truth | change))
    fails(match, load_folder, tmp_path)
    make(tmp_path, GOOD)
    fails(r"both labels\.csv and ground_truth\.json", load_folder, tmp_path)


def test_training_roles(tmp_path: Path) -> None:
    train = ["t1.jpg,one,train", "t2.jpg,two,train-sorts", "t3.jpg,a,train"]
    folder = make(tmp_path, [*GOOD, *train])
    rows = read_labels(folder)
    found = numbered(folder, rows[rows["role"] == "train"])
    assert found == ([folder / "t1.jpg", folder / "t3.jpg"], [1, 0])
    assert numbered(folder, rows[rows["role"] == "train-sorts"]) == ([folder / "t2.jpg"], [0])


def rows_of(lines: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame([line.split(",") for line in lines], columns=HEADER.split(","))


def test_validation_holds_whole_instances_out() -> None:
    lines = [line for line in TRAIN if "c1" not in line]  # of c there are c0, c2 ... c9
    kept, held = hold_out("x", Path(), rows_of(lines), 3, seed=0)  # c is one
    (left,) = set(kept["instance"])
    assert kept["file"].tolist() == [line.split(",")[0] for line in lines if f",{left}," in line]
    assert (held.name, set(held.query_sets)) == ("x", {"query"})
    for name in set("abcd") - {left}:
        its = sorted(line.split(",")[0] for line in lines if f",{name}," in line)
        places = (0, 2, 4, 7, 9) if name != "c" else (0, 2, 4, 6)
        queries = [query for query in held.queries if query.file[2] == name]
        assert [query.file for query in queries] == [its[place] for place in places]
        rest = [file for number, file in enumerate(its) if number not in places]
        for query in queries:
            assert [held.database[row] for row in query.labels["ok"]] == rest


@settings(max_examples=25)
@given(st.permutations(TRAIN), st.integers(1, 3), st.integers(0, 9))
def test_validation_repeats_and_is_disjoint(lines: list[str], held_out: int, seed: int) -> None:
    kept, held = hold_out("x", Path(), rows_of(TRAIN), held_out, seed)
    other, again = hold_out("x", Path(), rows_of(lines), held_out, seed)
    assert sorted(other["file"]) == sorted(kept["file"])
    assert again.files == held.files
    assert sorted([*kept["file"], *held.files]) == sorted(rows_of(TRAIN)["file"])
    assert len(held.queries) == held_out * 5


def test_the_seed_matters() -> None:
    found = {hold_out("x", Path(), rows_of(TRAIN), 1, seed)[1].database for seed in range(20)}
    assert len(found) == 4


def test_what_cannot_be_held_out() -> None:
    """None, all, and an instance with one image."""
    for held_out in (0, 4, 5):
        says = f"cannot hold {held_out} of the 4 training instances"
        fails(says, hold_out, "x", Path(), rows_of(TRAIN), held_out, seed=0)
    rows = rows_of(["a1.jpg,a,train", "a2.jpg,a,train", "b1.jpg,b,train"])
    for seed in range(10):
        kept, held = hold_out("x", Path(), rows, 1, seed)
        assert (kept["file"].tolist(), held.files) == (["b1.jpg"], ["a2.jpg", "a1.jpg"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("d1.jpg,one,5,2,3,4", r"line 3: 5,2,3,4 is no box: write x1,y1,x2,y2 in pixels"),
        ("d1.jpg,one,a,2,3,4", "line 3: a,2,3,4 is no box"),
        ("d9.jpg,one,1,2,3,4", r"line 3: 'd9\.jpg' is not in .*mine: mend the name, or take"),
        ("../d1.jpg,one,1,2,3,4", r"line 3: '\.\./d1\.jpg' is not in"),
    ],
)
def test_a_mistake_in_the_boxes(tmp_path: Path, line: str, says: str) -> None:
    folder = make(tmp_path / "mine", GOOD)
    head = "file,instance,x1,y1,x2,y2\nd1.jpg,one,0,0,1,1\n"
    (folder / "boxes.csv").write_text(head + line)
    fails(says, read_boxes, folder)
    (folder / "boxes.csv").write_text(head.replace("x1", "left"))
    fails("with the columns file,instance,x1,y1,x2,y2", read_boxes, folder)
