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
    Box,
    Query,
    Setting,
    check_files,
    from_ground_truth,
)
from dagf.errors import UserError

ENTRY = {"bbx": [1, 2.5, 3, 4], "easy": [0], "hard": [2, 1], "junk": [3]}
TRUTH = {"imlist": ["a", "b", "c.png", "d", "e"], "qimlist": ["q"], "gnd": [ENTRY]}


def benchmark(
    *labels: dict[str, list[int]], database: int = 10, box: Box | None = None
) -> Benchmark:
    queries = [
        Query(f"q{number}.jpg", {name: np.array(rows, np.int64) for name, rows in its.items()}, box)
        for number, its in enumerate(labels)
    ]
    return Benchmark(
        "made", Path("root"), tuple(f"{row}.jpg" for row in range(database)), tuple(queries)
    )


@pytest.mark.parametrize(
    ("setting", "positive", "junk"),
    [(EASY, [0], [1, 2, 3]), (MEDIUM, [0, 1, 2], [3]), (HARD, [1, 2], [0, 3]), (CLASSIC, [], [3])],
)
def test_a_setting_says_what_is_positive_and_what_is_junk(
    setting: Setting, positive: list[int], junk: list[int]
) -> None:
    (query,) = from_ground_truth("x", Path(), TRUTH).queries
    found = query.relevance(setting)
    assert [rows.tolist() for rows in found] == [positive, junk]
    assert all(rows.dtype == np.int64 for rows in found)


def test_a_ground_truth_becomes_a_benchmark() -> None:
    made = from_ground_truth("x", Path("root"), TRUTH, Path("gnd.pkl"))
    assert made.truth == Path("gnd.pkl")
    assert made.database == ("a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg")
    assert made.database_paths[2] == Path("root/c.png")
    assert made.queries[0].file == "q.jpg"
    assert made.queries[0].box == (1.0, 2.5, 3.0, 4.0)
    assert made.settings == (EASY, MEDIUM, HARD)
    assert benchmark({"ok": [1], "junk": [2]}).settings == (CLASSIC,)


@pytest.mark.parametrize(
    "change",
    [
        {"gnd": [{**ENTRY, "easy": [5]}]},
        {"gnd": [{**ENTRY, "easy": [-1]}]},
        {"gnd": [{**ENTRY, "easy": [3]}]},
        {"gnd": [{**ENTRY, "easy": [0.5]}]},
        {"gnd": [{**ENTRY, "easy": ["0"]}]},
        {"gnd": [{**ENTRY, "easy": [[0]]}]},
        {"gnd": [{**ENTRY, "easy": [10**30]}]},
        {"gnd": [{**ENTRY, "easy": None}]},
        {"gnd": [{**ENTRY, "bbx": [1, 2, 3]}]},
        {"gnd": [{**ENTRY, "bbx": [3, 2, 1, 4]}]},
        {"gnd": [{**ENTRY, "bbx": [1, float("nan"), 3, 4]}]},
        {"gnd": [{**ENTRY, "bbx": [1, 2, 3, 10**400]}]},
        {"gnd": [ENTRY, ENTRY]},
        {"gnd": [7]},
        {"gnd": None},
        {"imlist": [1]},
        {"imlist": "abcde"},
        {"qimlist": "q"},
        {"gnd": [{**ENTRY, "easy": [0, 0]}]},
        {"gnd": [{**ENTRY, "easy": "0"}]},
        {"gnd": [{**ENTRY, "easy": list(range(6))}]},
    ],
    ids=repr,
)
def test_a_wrong_ground_truth_is_one_clear_line(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^x: .*\w{3}") as caught:
        from_ground_truth("x", Path(), {**TRUTH, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (
            [{"Ok": [0], "junk": []}],
            r"query 'q0' has the keys \['Ok', 'junk'\], expected ok and junk, or easy, hard and",
        ),
        ([{"junk": [0]}], r"query 'q0' has the keys \['junk'\]"),
        ([ENTRY, {}], r"query 'q1' has the keys \[\]"),
        ([{"easy": [0], "hrad": [1], "junk": []}], "query 'q0' has the keys .*'hrad'"),
        ([{**ENTRY, "ok": []}], "query 'q0' has the keys"),
        (
            [ENTRY, {"ok": [0], "junk": []}],
            "some queries have easy, hard and some ok: give all the same labels",
        ),
    ],
)
def test_labels_of_another_form_are_refused(entries: list[dict[str, Any]], why: str) -> None:
    truth = {
        "imlist": list("abcd"),
        "qimlist": [f"q{number}" for number in range(len(entries))],
        "gnd": entries,
    }
    with pytest.raises(UserError, match=f"^x: {why}") as caught:
        from_ground_truth("x", Path(), truth)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bbox": [1, 2, 3, 4]}, "unknown key 'bbox': did you mean 'bbx'"),
        ({"jnuk": [3]}, "unknown key 'jnuk': did you mean 'junk'"),
        (
            {"easy": [True]},
            r"wrong easy image number \(true and false are no numbers\), expected places in imlist",
        ),
        ({"junk": [3, 4, 3]}, "lists one image twice as junk"),
        ({"junk": [3] * 6}, "lists 6 junk images, but the database has 5"),
        ({"junk": {"3": 3}}, r"has \{'3': 3\} as junk, expected a list"),
        ({"bbx": "1234"}, "has the bbx '1234', expected four numbers"),
        ({"bbx": [True, 2, 3, 4]}, r"has the bbx \[True, 2, 3, 4\], expected four numbers"),
        ({"bbx": ["1", 2, 3, 4]}, r"has the bbx \['1', 2, 3, 4\], expected four numbers"),
        ({"bbx": None}, "has no bbx, but others have one: give each query its box"),
    ],
    ids=repr,
)
def test_what_would_be_left_out_or_misread_is_refused(change: dict[str, Any], why: str) -> None:
    """The file, the query and what to do are named: a box under another name would be no box, without a word."""
    truth = {**TRUTH, "qimlist": ["p", "q"], "gnd": [ENTRY, {**ENTRY, **change}]}
    with pytest.raises(
        UserError, match=rf"^mine\.json: query 'q'.*{why}.*mend its ground truth$"
    ) as caught:
        from_ground_truth("x", Path(), truth, Path("mine.json"))
    assert "\n" not in str(caught.value)


def test_a_list_that_every_query_names_is_not_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle of a megabyte may name one list of its own a hundred thousand times."""
    monkeypatch.setattr("dagf.datasets.benchmark.MOST_LABELS", 40)
    monkeypatch.setattr("dagf.datasets.benchmark._rows", None)  # nothing is built
    rows = list(range(10))
    truth = {
        "imlist": [f"{row}" for row in rows],
        "qimlist": list("abcde"),
        "gnd": [{"ok": rows}] * 5,
    }
    with pytest.raises(UserError, match=r"^x: its gnd has more than 40 labels"):
        from_ground_truth("x", Path(), truth)


def test_a_query_may_have_nothing_to_find() -> None:
    """As some of the Revisited sets: what counts is that the key is there."""
    for nothing in ({"easy": [], "hard": [], "junk": []}, {"ok": []}):
        made = from_ground_truth("x", Path(), {"imlist": ["a"], "qimlist": ["q"], "gnd": [nothing]})
        assert made.queries[0].positives.tolist() == []
    assert benchmark({"easy": [4], "hard": [2, 0], "junk": [1]}).queries[0].positives.tolist() == [
        0,
        2,
        4,
    ]


@pytest.mark.parametrize("key", ["imlist", "qimlist", "gnd"])
def test_a_part_missing_from_a_ground_truth_is_named(key: str) -> None:
    with pytest.raises(UserError, match=f"it has no list {key}"):
        from_ground_truth(
            "x", Path(), {name: value for name, value in TRUTH.items() if name != key}
        )


@pytest.mark.parametrize("wrong", [-2, 10, 12])
def test_the_index_named_is_the_one_that_is_wrong(wrong: int) -> None:
    with pytest.raises(
        UserError, match=f"query q0.jpg lists easy image number {wrong}, but the database has 10"
    ):
        benchmark({"easy": [0, 4, wrong]})
    assert benchmark({"easy": [0, 9]}).queries


@pytest.mark.parametrize("box", [(3, 1, 3, 4), (4, 1, 3, 4), (1, 4, 3, 4), (1, 5, 3, 4)])
def test_an_empty_box_is_refused(box: Box) -> None:
    with pytest.raises(UserError, match=r"query q0\.jpg has the empty box"):
        benchmark({"easy": [0]}, box=box)


@pytest.mark.parametrize("box", [(0, 3, 2, 5), (3, 0, 5, 2), (-1, -1, 1, 1)])
def test_a_box_may_lie_anywhere(box: Box) -> None:
    assert benchmark({"easy": [0]}, box=box).queries[0].box == box


def test_missing_photographs_are_counted_and_the_first_named(tmp_path: Path) -> None:
    made = replace(benchmark({"easy": [0]}, database=5), root=tmp_path)
    for name in ("0.jpg", "q0.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        check_files(made, "get them again")
    assert (
        str(caught.value)
        == f"4 of 6 images of made are not in {tmp_path}, as 1.jpg, 2.jpg, 3.jpg: get them again"
    )
    odd = replace(made, database=("x" * 300, "\0", "0.jpg"))
    with pytest.raises(UserError, match=r"^2 of 4 images of made are not in "):
        check_files(odd, "get them again")
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        (tmp_path / name).touch()
    check_files(made, "")


def test_query_sets_keep_the_order() -> None:
    none: dict[str, Any] = {}
    queries = tuple(Query(f"{i}", none, query_set=name) for i, name in enumerate(["b", "a", "b"]))
    assert Benchmark("x", Path(), (), queries).query_sets == {"b": [0, 2], "a": [1]}


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


def test_contrasts_ask_for_medium_or_the_only_setting_and_for_the_first_query_set() -> None:
    graded = benchmark({"easy": [0], "hard": [1]})
    assert (graded.middle, graded.first_set) == (MEDIUM, "query")
    assert benchmark({"ok": [0], "junk": [5]}).middle == CLASSIC
    several = tuple(
        replace(graded.queries[0], query_set=name) for name in ("shop", "studio", "shop")
    )
    assert replace(graded, queries=several).first_set == "shop"
