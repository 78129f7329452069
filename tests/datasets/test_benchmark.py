"""Settings, ground truth in the field's layout, what may be wrong with it, and clusters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagf.datasets.benchmark import (
    CLASSIC,
    EASY,
    HARD,
    MEDIUM,
    Benchmark,
    Query,
    Setting,
    check_present,
    from_ground_truth,
)
from dagf.errors import UserError

ENTRY = {"bbx": [1, 2.5, 3, 4], "easy": [0], "hard": [2, 1], "junk": [3]}
TRUTH = {"imlist": ["a", "b", "c.png", "d", "e"], "qimlist": ["p", "q"], "gnd": [ENTRY, ENTRY]}
OK = {"ok": [0], "junk": []}


def benchmark(*labels: dict[str, list[int]]) -> Benchmark:
    queries = [
        Query(f"q{number}.jpg", {name: np.array(rows, np.int64) for name, rows in its.items()})
        for number, its in enumerate(labels)
    ]
    return Benchmark("made", Path("root"), tuple(f"{row}.jpg" for row in range(10)), tuple(queries))


@pytest.mark.parametrize(
    ("setting", "positive", "junk"),
    [(EASY, [0], [1, 2, 3]), (MEDIUM, [0, 1, 2], [3]), (HARD, [1, 2], [0, 3]), (CLASSIC, [], [3])],
)
def test_a_setting_says_what_is_positive_and_what_is_junk(
    setting: Setting, positive: list[int], junk: list[int]
) -> None:
    query = from_ground_truth("x", Path(), TRUTH).queries[0]
    found = query.relevance(setting)
    assert [rows.tolist() for rows in found] == [positive, junk]
    assert all(rows.dtype == np.int64 for rows in found)
    assert query.positives.tolist() == [0, 1, 2]
    assert query.labelled.tolist() == [0, 1, 2, 3]


def test_a_ground_truth_becomes_a_benchmark() -> None:
    made = from_ground_truth("x", Path("root"), TRUTH, Path("gnd.pkl"))
    assert made.truth == Path("gnd.pkl")
    assert made.database == ("a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg")
    assert made.database_paths[2] == Path("root/c.png")
    assert made.files == [*made.database, "p.jpg", "q.jpg"]
    assert made.queries[0].box == (1.0, 2.5, 3.0, 4.0)
    assert made.settings == (EASY, MEDIUM, HARD)


@pytest.mark.parametrize("entry", [{"easy": [], "hard": [], "junk": []}, {"ok": []}])
def test_a_query_may_have_nothing_to_find(entry: dict[str, Any]) -> None:
    """As some of the Revisited sets: what counts is that the key is there."""
    made = from_ground_truth("x", Path(), {"imlist": ["a"], "qimlist": ["q"], "gnd": [entry]})
    assert made.queries[0].positives.tolist() == []


@pytest.mark.parametrize("box", [(0, 3, 2, 5), (-1, -1, 1, 1), None])
def test_a_box_may_lie_anywhere(box: Any) -> None:
    truth = {"imlist": ["a"], "qimlist": ["q"], "gnd": [{**OK, "bbx": box}]}
    assert from_ground_truth("x", Path(), truth).queries[0].box == box


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"easy": [5]}, "lists easy image number 5, but the database has 5"),
        ({"easy": [0, 4, -1]}, "lists easy image number -1, but the database has 5"),
        ({"easy": [3]}, "gives one image two labels"),
        ({"easy": [0.5]}, "its easy is not a list of places in imlist, whole numbers from 0"),
        ({"easy": ["0"]}, "its easy is not a list of places"),
        ({"easy": [[0]]}, "its easy is not a list of places"),
        ({"easy": [True]}, "its easy is not a list of places"),
        ({"junk": None}, "its junk is not a list of places"),
        ({"junk": "3"}, "its junk is not a list of places"),
        ({"bbx": [1, 2, 3]}, "not enough values"),
        ({"bbx": [3, 2, 1, 4]}, "has the empty box"),
        ({"bbx": [1, 4, 3, 4]}, "has the empty box"),
        ({"bbx": [1, float("nan"), 3, 4]}, "has the empty box"),
        ({"bbox": [1, 2, 3, 4]}, "has the keys .*bbox; expected"),
        ({"jnuk": [3]}, "has the keys .*jnuk; expected ok and junk, or easy, hard and junk, and b"),
        ({"ok": []}, "has the keys .*ok; expected"),
    ],
    ids=repr,
)
def test_what_would_be_left_out_or_misread_is_refused(change: dict[str, Any], why: str) -> None:
    """The file, the query and the remedy are named: a misspelt box would be no box."""
    truth = {**TRUTH, "gnd": [ENTRY, {**ENTRY, **change}]}
    expected = rf"^mine\.json: query 'q': .*{why}.*; mend its ground truth$"
    with pytest.raises(UserError, match=expected):
        from_ground_truth("x", Path(), truth, Path("mine.json"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gnd": [ENTRY]}, "qimlist names 2 queries, gnd has 1"),
        ({"gnd": [ENTRY, 7]}, "query 'q': "),
        ({"gnd": None}, "not iterable"),
        ({"gnd": [ENTRY, {"junk": [0]}]}, "query 'q': has the keys junk"),
        ({"gnd": [ENTRY, {**OK, "bbx": [1, 2, 3, 4]}]}, "give all the same labels"),
        ({"gnd": [ENTRY, {**ENTRY, "bbx": None}]}, "some queries have no bbx; give each its box"),
        ({"imlist": ["a", "b", "c", "b.jpg", "d"]}, "imlist names an image twice"),
        ({"imlist": [1]}, "1 is no image in the folder"),
        ({"imlist": ["a", "../b", "c", "d", "e"]}, "'../b' is no image in the folder"),
        ({"qimlist": ["p", "/etc/hostname"]}, "'/etc/hostname' is no image in the folder"),
    ],
    ids=repr,
)
def test_a_ground_truth_of_another_form_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=f"^x: .*{why}"):
        from_ground_truth("x", Path(), {**TRUTH, **change})


@pytest.mark.parametrize("key", TRUTH)
def test_a_list_missing_from_a_ground_truth_is_named(key: str) -> None:
    truth = {name: value for name, value in TRUTH.items() if name != key}
    with pytest.raises(UserError, match=f"it has no list '{key}'"):
        from_ground_truth("x", Path(), truth)


def test_missing_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    files = [f"sub/{number}.jpg" for number in range(5)] + ["other/a.jpg"]
    (tmp_path / files[0]).touch()
    with pytest.raises(UserError) as caught:
        check_present("x.csv", tmp_path, files, "mend it")
    wrong = f"x.csv names 5 images that are not in {tmp_path}, as sub/1.jpg, sub/2.jpg, sub/3.jpg"
    assert str(caught.value) == f"{wrong}: mend it"
    check_present("x.csv", tmp_path, files[:1], "")


def joined_slowly(rows: list[set[int]]) -> list[list[bool]]:
    """Which queries are in one cluster, by the transitive closure of "they share a positive"."""
    together = np.array(
        [[a == b or bool(x & y) for b, y in enumerate(rows)] for a, x in enumerate(rows)], bool
    )
    for _ in rows:
        together = together @ together
    return [[bool(cell) for cell in row] for row in together]


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), max_size=8))
def test_clusters_join_queries_that_share_a_positive(rows: list[tuple[set[int], set[int]]]) -> None:
    made = benchmark(*({"easy": sorted(a), "hard": sorted(b - a)} for a, b in rows))
    ids = made.clusters()
    assert ids.shape == (len(rows),)
    assert (ids[:, None] == ids[None, :]).tolist() == joined_slowly([a | b for a, b in rows])


def test_shared_junk_joins_no_cluster() -> None:
    assert len(set(benchmark({"ok": [0], "junk": [5]}, {"ok": [1], "junk": [5]}).clusters())) == 2


def test_contrasts_use_medium_or_the_only_setting_and_the_first_query_set() -> None:
    graded = benchmark({"easy": [0], "hard": [1]})
    assert (graded.middle, graded.first_set) == (MEDIUM, "query")
    assert benchmark({"ok": [0], "junk": [5]}).middle == CLASSIC
    names = ("shop", "studio", "shop")
    several = tuple(replace(graded.queries[0], query_set=name) for name in names)
    sets = replace(graded, queries=several)
    assert (sets.query_sets, sets.first_set) == ({"shop": [0, 2], "studio": [1]}, "shop")
