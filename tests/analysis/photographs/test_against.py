"""DAGF against the GeMs: which verdicts count, and what is said where the held-out instances chose badly."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dagf.analysis.photographs import against
from dagf.analysis.photographs.trials import Method


def method(title: str, points: dict[int, tuple[float, float]]) -> Method:
    """A method by the APs (0..1) of each query under two seeds."""
    rows = [
        {"part": "test", "positives": 1, "query": query, "seed": seed, "AP": value}
        for query, seeds in points.items()
        for seed, value in enumerate(seeds)
    ]
    return Method(title, "none", 50.0, pd.DataFrame(rows))


def test_a_best_gem_below_the_one_off_the_shelf_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = method("GeM, untrained", {0: (0.4, 0.4), 1: (0.6, 0.6), 2: (0.3, 0.3)})
    best = method("GeM", {0: (0.5, 0.7), 1: (0.4, 0.4), 2: (0.2, 0.2)})
    study: Any = SimpleNamespace(test=SimpleNamespace(query_sets={"query": [0], "studio": [1, 2]}))
    monkeypatch.setattr(against, "gem_candidates", lambda _: ([plain, best], best))
    said = against.badly_chosen(study)
    assert said == (
        " On studio the held-out instances chose badly: the GeM that they chose has 30.0 mAP there, GeM off the shelf "
        "45.0, so to be above the first is no win."
    )
    monkeypatch.setattr(against, "gem_candidates", lambda _: ([plain, best], plain))
    assert against.badly_chosen(study) == ""


def test_a_verdict_on_one_of_the_two_gems_says_that_it_is_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def around(level: float) -> dict[int, tuple[float, float]]:
        return {query: (level + 0.002 * query, level + 0.002 * query) for query in range(8)}

    plain, chosen = method("GeM, untrained", around(0.3)), method("GeM", around(0.5))
    middle, high = method("DAGF", around(0.4)), method("DAGF too", around(0.6))
    of_test = SimpleNamespace(
        query_sets={"query": list(range(8))},
        clusters=lambda: np.arange(8),
        middle=SimpleNamespace(name="Classic"),
    )
    study: Any = SimpleNamespace(test=of_test)
    monkeypatch.setattr(against, "gem_candidates", lambda _: ([plain, chosen], chosen))
    monkeypatch.setattr(against, "trained_methods", lambda *_: [(middle, high)])
    monkeypatch.setattr(against, "head_runs", lambda *_: {})
    table, words = against.against_gem(study)
    assert list(table["minus"]) == ["chosen GeM (GeM)", "GeM off the shelf"] * 2
    assert list(table["mAP"]) == ["40.7 − 50.7", "40.7 − 30.7", "60.7 − 50.7", "60.7 − 30.7"]
    assert list(table["verdict"]) == [
        "below this GeM alone",
        "above this GeM alone",
        "above",
        "above",
    ]
    assert words == "Above both GeMs: DAGF too on query. Below both GeMs: DAGF on no query set."
