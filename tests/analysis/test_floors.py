"""The floors under the main table: chance by its expectation, and an untrained backbone on drawings."""

from pathlib import Path

import numpy as np
import pytest

from dagf.analysis.floors import chance, floors
from dagf.datasets.benchmark import Benchmark, Query
from dagf.study.study import Study


def test_chance_is_the_mean_over_all_orders() -> None:
    """One positive among three images: ranks 0, 1, 2 are equally likely, and their APs 1, 1/4, 1/6."""
    query = Query("q.jpg", {"ok": np.array([0]), "junk": np.array([1])})
    test = Benchmark("made", Path(), ("a", "b", "c", "d"), (query,) * 300)
    (row,) = chance(test, draws=20).to_dict("records")
    assert (row["query_set"], row["setting"]) == ("query", "Classic")
    assert row["mAP"] == pytest.approx(100 * (1 + 1 / 4 + 1 / 6) / 3, abs=1.5)
    assert chance(test).equals(chance(test))


def test_the_floors_are_rows_of_the_main_table(toy: Study) -> None:
    table = floors(toy)
    assert list(table.columns) == ["query set", "method", "seeds", "Easy", "Medium", "Hard"]
    assert list(table["method"]) == ["random scores", "GeM, untrained backbone"]
    assert list(table["seeds"]) == ["", 1]
    assert (table[["Easy", "Medium", "Hard"]].astype(float) > 0).all(axis=None)
    assert floors(toy).equals(table)
