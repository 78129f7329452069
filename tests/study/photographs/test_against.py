"""DAGF against the GeMs: what is said where the held-out instances chose badly."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from dagf.study.photographs import against
from dagf.study.photographs.trials import Method


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
