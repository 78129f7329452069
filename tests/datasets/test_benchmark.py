"""Settings, ground truth in the field's layout, what may be wrong with it, and clusters."""

import json
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
    from_ground_truth,
)
from tests.fixtures import fails

ENTRY = {"bbx": [1, 2.5, 3, 4], "easy": [0], "hard": [2, 1], "junk": [3]}
TRUTH = {"imlist": ["a", "b", "c.png", "d", "e"], "qimlist": ["p", "q"], "gnd": [ENTRY, ENTRY]}


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
def test_positives_and_junk(setting: Setting, positive: list[int], junk: list[int]) -> None:
    query = from_ground_truth("x", Path(), TRUTH).queries[0]
    found = query.relevance(setting)
    assert [rows.tolist() for rows in found] == [positive, junk]
    assert all(rows.dtype == np.int64 for rows in found)
    assert query.positives.tolist() == [0, 1, 2]
    assert query.labelled.tolist() == [0, 1, 2, 3]


def test_a_ground_truth_becomes_a_benchmark(tmp_path: Path) -> None:
    (tmp_path / "gnd.json").write_text(json.dumps(TRUTH))
    made = from_ground_truth("x", Path("root"), tmp_path / "gnd.json")
    assert made.database == ("a.jpg", "b.jpg", "c.png", "d.jpg", "e.jpg")
    assert made.database_paths[2] == Path("root/c.png")
    assert made.files == [*made.database, "p.jpg", "q.jpg"]
    assert made.queries[0].box == (1.0, 2.5, 3.0, 4.0)
    assert made.settings == (EASY, MEDIUM, HARD)
    labels = {"easy": 2, "hard": 4, "ok": 0, "junk": 2}
    assert made.counts == {"queries": 2, "database": 5, "boxes": 2, **labels}
    (tmp_path / "gnd.json").write_text("{")
    file = tmp_path / "gnd.json"
    fails(r"gnd\.json is not valid JSON .*; mend it", from_ground_truth, "x", Path(), file)


@pytest.mark.parametrize("entry", [{"easy": [], "hard": [], "junk": []}, {"ok": []}])
@pytest.mark.parametrize("box", [(0, 3, 2, 5), (-1, -1, 1, 1), None])
def test_a_query_may_have_no_positives_and_any_box(entry: dict[str, Any], box: Any) -> None:
    """As some of the Revisited sets: what counts is that the key is there."""
    entry = {**entry, "bbx": box and [*box]}
    made = from_ground_truth("x", Path(), {"imlist": ["a"], "qimlist": ["q"], "gnd": [entry]})
    assert made.queries[0].positives.tolist() == []
    assert made.queries[0].box == box


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"easy": [5]}, r"query 'q\.jpg' lists image 5, but the database has 5"),
        ({"easy": [0, -1]}, r"gnd\.1\.easy\.1: .* greater than or equal to 0"),
        ({"easy": [3]}, "gives one image two labels"),
        ({"easy": [0.5]}, r"gnd\.1\.easy\.0: it should be a valid integer"),
        ({"easy": [True]}, "valid integer"),
        ({"bbx": [1, 2, 3]}, r"gnd\.1\.bbx: .* at least 4 items"),
        ({"bbx": [3, 2, 1, 4]}, "has the empty box"),
        ({"bbx": [1, float("nan"), 3, 4]}, "has the empty box"),
        ({"jnuk": [3]}, r"gnd\.1\.jnuk: Extra inputs are not permitted"),
        ({"ok": []}, "has easy, hard, ok, junk: expected ok, or easy and hard"),
        ({"bbx": None}, "have other labels than the first, or no box as it has"),
        ({"gnd": [ENTRY]}, "shorter"),
        ({"imlist": ["a", "b", "c", "b.jpg", "d"]}, "imlist names an image twice"),
        ({"imlist": ["a", "../b", "c", "d", "e"]}, "'../b' is no image in the folder"),
        ({"qimlist": ["p", "/etc/hostname"]}, "'/etc/hostname' is no image in the folder"),
    ],
    ids=repr,
)
def test_what_would_be_left_out_or_misread_is_refused(change: dict[str, Any], why: str) -> None:
    """A misspelt box, for instance, would be no box."""
    truth = {**TRUTH, "gnd": [ENTRY, {**ENTRY, **change}]}
    if change.keys() <= TRUTH.keys():
        truth = {**TRUTH, **change}
    fails(rf"^x: .*{why}.*; mend its ground truth$", from_ground_truth, "x", Path(), truth)


def joined_slowly(rows: list[set[int]]) -> list[list[bool]]:
    """Which queries are in one cluster, by the transitive closure of "they share a positive"."""
    share = [[a == b or bool(x & y) for b, y in enumerate(rows)] for a, x in enumerate(rows)]
    together = np.array(share, bool)
    for _ in rows:
        together = together @ together
    return [[bool(cell) for cell in row] for row in together]


@given(st.lists(st.tuples(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9))), max_size=8))
def test_clusters_join_queries_that_share_a_positive(rows: list[tuple[set[int], set[int]]]) -> None:
    labels = [{"easy": sorted(a), "hard": sorted(b - a), "junk": [3]} for a, b in rows]
    ids = benchmark(*labels).clusters()
    assert ids.shape == (len(rows),)
    assert (ids[:, None] == ids[None, :]).tolist() == joined_slowly([a | b for a, b in rows])


def test_contrasts_use_medium_or_the_only_setting_and_the_first_query_set() -> None:
    graded = benchmark({"easy": [0], "hard": [1]})
    assert (graded.middle, graded.first_set) == (MEDIUM, "query")
    assert benchmark({"ok": [0], "junk": [5]}).middle == CLASSIC
    names = ("shop", "studio", "shop")
    several = tuple(replace(graded.queries[0], query_set=name) for name in names)
    sets = replace(graded, queries=several)
    assert (sets.query_sets, sets.first_set) == ({"shop": [0, 2], "studio": [1]}, "shop")
