"""Results: collapsed networks and arms that are one are named; a table is made once, and read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.datasets.decode import ImageSpec
from dagf.retrieval.extract import benchmark_scores
from dagf.retrieval.metrics import evaluate, positions
from dagf.study.cache import cached_arrays, cached_table, cached_tables, table_file
from dagf.study.evaluation import ranked
from dagf.study.study import Study
from tests.fixtures import fails

pytestmark = pytest.mark.usefixtures("one_process")


def test_results_are_the_ranks_of_a_networks_own_scores(toy: Study) -> None:
    run = toy.run("dagf")
    results = toy.results(run)
    scores = benchmark_scores(run.network(), toy.test, toy.profile.image)[0]
    pd.testing.assert_frame_equal(results.positions, positions(toy.test, scores))
    pd.testing.assert_frame_equal(results.per_query, evaluate(toy.test, scores))
    assert results.run == run.id


def test_a_collapsed_network(toy: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, run = replace(toy, cache=tmp_path), toy.run("gem")
    counts = len(toy.test.database_paths), len(toy.test.queries)
    rows, queries = (np.full((count, 4), 0.5, np.float32) for count in counts)
    monkeypatch.setattr(Study, "descriptors", lambda self, of: (rows, queries))
    said = f"{run.id}: every image has the same descriptor, the network has collapsed"
    fails(said, study.results, run)
    assert not study.has_results(run)
    assert len(ranked("some", toy.test, rows, queries + np.float32(1e-4)))  # differs a little


def made(key: int) -> pd.DataFrame:
    names = {"name": ["NA", "", "b"], "value": [0.1 * key, float("nan"), 3]}
    return pd.DataFrame(names).astype({"value": float})


def test_a_table_is_made_once(tmp_path: Path) -> None:
    file = table_file(tmp_path / "cache", "some", 1, "two", ImageSpec(3))
    assert file.name.startswith("some-")
    assert file != table_file(tmp_path / "cache", "some", 1, "two", ImageSpec(4))
    found = cached_table(file, lambda: made(1))
    assert found["name"].tolist()[::2] == ["NA", "b"]  # a name is no missing value
    assert found["value"].isna().tolist() == [False, True, False]
    assert found.equals(cached_table(file, lambda: pytest.fail("it is there")))


def test_arrays_are_made_once(tmp_path: Path) -> None:
    files = [tmp_path / "cache" / name for name in ("one", "two")]
    rows = [np.arange(6).reshape(2, 3), np.ones(4, np.float32)]
    for make in (lambda: rows, lambda: pytest.fail("they are there")):
        found = cached_arrays(files, make)
        assert all(map(np.array_equal, found, rows))
    files = {key: table_file(tmp_path, "some", key) for key in (1, 2, 3)}  # of several, two
    cached_table(files[2], lambda: made(20))
    found = cached_tables(files, made, "tables")
    assert [found[key]["value"][0] for key in (1, 2, 3)] == pytest.approx([0.1, 2.0, 0.3])
