import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagf.datasets.benchmark import CLASSIC
from dagf.datasets.checks import check
from dagf.datasets.folder import (
    folder_distractors,
    load_folder,
    read_labels,
    training_images,
    validation_split,
)
from dagf.errors import UserError
from tests.fixtures import photograph

HEADER = "file,instance,role"
GOOD = ["q1.jpg,one,query", "q2.jpg,two,query-studio", "q3.jpg,three,query", "d1.jpg,one,database"]
GOOD += ["d2.jpg,two,database", "d3.jpg,one,database", "d4.jpg,,database", "x.jpg,,distractor"]
TRAIN = [f"t/{name}{number}.jpg,{name},train" for name in "abcd" for number in range(8)]


def make(folder: Path, lines: list[str], header: str = HEADER, files: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    for line in lines if files else []:
        name = line.split(",")[0].strip()
        if name and "\0" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    return folder


def test_a_folder_becomes_a_benchmark(tmp_path: Path) -> None:
    other = make(tmp_path / "other", ["sub/y.jpg,,distractor", "q.jpg,one,query"])
    made = load_folder(make(tmp_path / "mine", GOOD))
    assert folder_distractors(other) == [other / "sub" / "y.jpg"]
    assert made.name == "mine"
    assert made.database == ("d1.jpg", "d2.jpg", "d3.jpg", "d4.jpg")
    assert [query.relevance(CLASSIC)[0].tolist() for query in made.queries] == [[0, 2], [1], []]
    assert made.query_sets == {"query": [0, 2], "query-studio": [1]}
    assert made.settings == (CLASSIC,)
    assert made.database_paths[-1] == tmp_path / "mine" / "x.jpg"
    assert all(path.is_file() for path in made.database_paths)
    assert load_folder(tmp_path / "mine", "named").name == "named"


def test_spreadsheets_habits_are_accepted(tmp_path: Path) -> None:
    lines = [' q.jpg , one ,query,"a note, quoted"', "./d.jpg,one,database,", ""]
    folder = make(tmp_path, lines, header="\ufefffile, instance, role, note")
    assert [row.file for row in read_labels(folder)] == ["q.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([], "lists no image"),
        (["a.jpg,one,databse"], r"line 2: unknown role 'databse': did you mean 'database'\?"),
        ([*GOOD, "a.jpg,one,query-"], "line 10: unknown role 'query-': did you mean 'query'"),
        (["a.jpg,one"], "line 2: too many or too few cells"),
        (["a.jpg,one,query,more"], "line 2: too many or too few cells"),
        ([",one,query"], "line 2: the file is empty"),
        ([".,one,query"], "line 2: the file is empty"),
        (["../a.jpg,one,query"], r"line 2: \.\./a\.jpg leaves the folder"),
        (["b/../../a.jpg,one,query"], "leaves the folder"),
        (["b\\..\\..\\a.jpg,one,query"], "leaves the folder"),
        (["/etc/hostname,one,query"], "leaves the folder"),
        (["C:\\a.jpg,one,query"], "leaves the folder"),
        (["a.jpg,,query"], "line 2: a query image needs an instance"),
        (["a.jpg,,train"], "line 2: a train image needs an instance"),
        (
            ["a.jpg,one,query", "b.jpg,one,database", "./a.jpg,one,database"],
            "line 4: a.jpg is already the query image",
        ),
        (["a.jpg,one,query", "a.jpg,one,query"], "line 3: a.jpg is already the query image"),
        (["a.jpg,one,query"], r"labels\.csv lists 1 files that do not exist, as a\.jpg"),
        (
            [f"{i}.jpg,one,query" for i in range(5)],
            r"lists 5 files that do not exist, as 0\.jpg, 1\.jpg, 2\.jpg:",
        ),
        (["a" * 5000 + ".jpg,one,query"], "lists 1 files that do not exist"),
        (['"a.jpg,one,query'], "line 2: .*mend this line"),
        (["a" * 200_000 + ",one,query"], "line 2: .*mend this line"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: list[str], match: str) -> None:
    make(tmp_path, lines, files=False)
    with pytest.raises(UserError, match=match) as caught:
        load_folder(tmp_path)
    assert str(tmp_path / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty: its first line must be file,instance,role"),
        (b"file;instance;role\n", "has the columns file;instance;role: its first line"),
        (b"file,role\na.jpg,query\n", "has the columns file, role: its first line"),
        (
            b"file,instance,role,role\na.jpg,one,query,train\n",
            "has the column role 2 times; give it once, and others",
        ),
        (
            b"file,instance,Role\na.jpg,one,query\n",
            "has the columns file, instance, Role: its first line must be",
        ),
        (b"file,instance,role\na.jpg,caf\xe9,query\n", "is not UTF-8"),
        (None, "does not exist: write one line"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, data: bytes | None, match: str) -> None:
    if data is not None:
        (tmp_path / "labels.csv").write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        load_folder(tmp_path)
    assert str(tmp_path / "labels.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["a.jpg,one,query"], "has no database image"),
        (["a.jpg,one,database"], "has no query image"),
        (
            ["a.jpg,one,query", "b.jpg,two,database"],
            "no query has a database image of its instance",
        ),
    ],
)
def test_a_benchmark_needs_queries_with_answers(
    tmp_path: Path, lines: list[str], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        load_folder(make(tmp_path, lines))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"qimlist": [], "gnd": []}, "has no query image: name some in its qimlist"),
        (
            {"imlist": [], "gnd": [{"ok": [], "junk": []}]},
            "has no database image: name some in its imlist",
        ),
        (
            {"gnd": [{"ok": [], "junk": [0]}]},
            "no query has a database image of its instance: give some in its gnd",
        ),
        (
            {"gnd": [{"easy": [], "hard": [], "junk": [0]}]},
            "no query has a database image of its instance",
        ),
        ({"gnd": [{"Ok": [0], "junk": []}]}, "has the keys"),
    ],
)
def test_a_ground_truth_needs_queries_with_answers(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for view, name in enumerate(("q.jpg", "d.jpg")):
        photograph(0, view).save(home / name)
    truth: dict[str, Any] = {"imlist": ["d"], "qimlist": ["q"], "gnd": [{"ok": [0], "junk": []}]}
    path = home / "ground_truth.json"
    path.write_text(json.dumps(truth))
    assert check(str(home), tmp_path) == ["a benchmark: 1 queries, 1 database images"]
    path.write_text(json.dumps(truth | change))
    for refused in (lambda: load_folder(home), lambda: check(str(home), tmp_path)):
        with pytest.raises(UserError, match=match) as caught:
            refused()
        assert home.name in str(caught.value)


def test_an_image_that_a_ground_truth_lists_twice_is_named(tmp_path: Path) -> None:
    for name in ("q.jpg", "d.jpg"):
        (tmp_path / name).touch()
    truth = {"imlist": ["d", "d.jpg"], "qimlist": ["q"], "gnd": [{"ok": [0], "junk": []}]}
    (tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    with pytest.raises(
        UserError,
        match=r"ground_truth\.json names 1 images twice in its imlist, as d\.jpg: once each",
    ):
        load_folder(tmp_path)


def test_a_broken_ground_truth_is_to_be_mended_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "ground_truth.json").write_text("{")
    with pytest.raises(
        UserError, match=r"ground_truth\.json is not valid JSON .*; mend it, or get"
    ) as caught:
        load_folder(tmp_path)
    assert "delete" not in str(caught.value)


def test_a_distractor_folder_needs_distractors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image of the role distractor"):
        folder_distractors(make(tmp_path / "b", GOOD[:4]))


def test_training_roles(tmp_path: Path) -> None:
    folder = make(
        tmp_path, [*GOOD, "t1.jpg,one,train", "t2.jpg,two,train-sorts", "t3.jpg,three,train"]
    )
    found = training_images(folder)
    assert (found.files, found.instances) == (
        [folder / "t1.jpg", folder / "t3.jpg"],
        ["one", "three"],
    )
    assert training_images(folder, "train-sorts").instances == ["two"]
    for role in ("train-sort", "query"):
        with pytest.raises(
            UserError, match=f"no training role '{role}': it has train, train-sorts"
        ):
            training_images(folder, role)


def test_validation_holds_whole_instances_out(tmp_path: Path) -> None:
    kept, held = validation_split(make(tmp_path, [*GOOD, *TRAIN]), 2, seed=1, queries=3)
    left_out = set("abcd") - set(kept.instances)
    assert len(left_out) == 2
    assert len(kept.files) == 16
    assert len(held.queries) == 6
    assert len(held.database) == 10
    first = min(left_out)
    assert [query.file for query in held.queries[:3]] == [
        f"t/{first}{number}.jpg" for number in (0, 2, 5)
    ]
    for query in held.queries:
        assert {held.database[row][2] for row in query.labels["ok"]} == {query.file[2]}
        assert len(query.labels["ok"]) == 5
    assert set(held.query_sets) == {"query"}


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(st.permutations(TRAIN), st.integers(1, 3), st.integers(0, 9), st.integers(1, 9))
def test_validation_is_deterministic_and_disjoint(
    tmp_path: Path, lines: list[str], held_out: int, seed: int, queries: int
) -> None:
    make(tmp_path, TRAIN)
    expected, benchmark = validation_split(tmp_path, held_out, seed, queries=queries)
    make(tmp_path, lines, files=False)
    kept, again = validation_split(tmp_path, held_out, seed, queries=queries)
    assert kept == expected
    assert again.database == benchmark.database
    assert [query.file for query in again.queries] == [query.file for query in benchmark.queries]
    files = [*(str(path.relative_to(tmp_path)) for path in kept.files), *again.database]
    assert sorted(files + [query.file for query in again.queries]) == sorted(
        line.split(",")[0] for line in TRAIN
    )
    assert len(again.queries) == held_out * min(queries, 4)


def test_the_seed_matters(tmp_path: Path) -> None:
    make(tmp_path, TRAIN)
    assert len({validation_split(tmp_path, 1, seed)[1].database for seed in range(20)}) == 4


@pytest.mark.parametrize("held_out", [-1, 0, 4, 5])
def test_too_many_held_out(tmp_path: Path, held_out: int) -> None:
    with pytest.raises(UserError, match=f"cannot hold {held_out} of the 4 instances"):
        validation_split(make(tmp_path, TRAIN), held_out, seed=0)


def test_an_instance_with_one_image_is_not_held_out(tmp_path: Path) -> None:
    folder = make(tmp_path, ["a1.jpg,a,train", "a2.jpg,a,train", "b1.jpg,b,train"])
    for seed in range(10):
        kept, held = validation_split(folder, 1, seed)
        assert (kept.instances, held.database, held.queries[0].file) == (
            ["b"],
            ("a2.jpg",),
            "a1.jpg",
        )


@pytest.mark.parametrize("name", ["products", "landmarks"])
def test_real_photographs(shared_data: Path, name: str) -> None:
    made = load_folder(shared_data / name)
    counts = {key: len(rows) for key, rows in made.query_sets.items()}
    if name == "products":
        assert (counts, len(made.database)) == ({"query": 78, "query-iconic": 10}, 417)
        assert len(set(made.clusters())) == 10
        assert len(training_images(shared_data / name).files) == 877
        assert len(set(training_images(shared_data / name, "train-category").instances)) == 50
    else:
        assert (counts, len(made.database)) == ({"query": 55}, 213)
    assert len(folder_distractors(shared_data / "distractors")) == 500
    assert all(len(query.labels["ok"]) for query in made.queries)
