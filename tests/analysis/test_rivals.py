"""DAGF beside its rivals: who they are, and that both sides are chosen on validation alone."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dagf.analysis import rivals
from dagf.analysis.methods import NONE, Method, methods
from dagf.analysis.tables import HEAD, STAGE, UNTRAINED
from dagf.datasets.benchmark import CLASSIC
from dagf.model.variants import VARIANTS
from dagf.study.study import Study
from tests.analysis.pretended import method

pytestmark = pytest.mark.usefixtures("one_process")


def test_a_table_of_methods_and_their_rivals(study: Study) -> None:
    found, others = rivals.gems(study), rivals.rivals(study)
    assert [one.title for one in found] == ["GeM, untrained"] * 2 + ["GeM"] * 2
    assert found[0].runs == "" and found[2].runs.count("(seed ") == 2
    plain = [*found, *methods(study, rivals.PLAIN, UNTRAINED)]
    for name, every in ((rivals.CHOSEN, found), (rivals.CHOSEN_PLAIN, plain)):
        assert others[name].validation == max(one.validation for one in every)
    shown = [*found, *methods(study, ["mac"], UNTRAINED), *methods(study, ["dagf"])]
    table = rivals.method_table(study, shown)
    assert list(table["method"][4:]) == ["MAC, untrained"] * 2 + ["DAGF"] * 2
    assert list(table["whitening"][::2]) == [NONE] * 4
    names = {one.name for one in others.values()}
    assert list(table["rival"] == "yes") == [one.name in names for one in shown]
    for row, one in zip(table.to_dict("records"), shown, strict=True):
        assert row["validation"] == f"{one.validation:.1f}"
        for (name, other), part in product(others.items(), ("query", "query-plain")):
            assert row[f"{part} − {name}"] == one.minus(study, other, part)


def test_both_sides_are_chosen_on_validation(study: Study) -> None:
    table, others = rivals.against_rivals(study), rivals.rivals(study)
    arms = [arm for arm in rivals.MODULES if arm in study.profile.plan(heads=True).arms]
    own = {VARIANTS[arm].title: rivals.best(methods(study, [arm])) for arm in arms}
    rows = product(study.test.query_sets, own.items(), others.items())
    for row, (query_set, (what, one), (minus, other)) in zip(
        table.to_dict("records"), rows, strict=True
    ):
        assert [row[name] for name in ("what", "minus", "query set")] == [what, minus, query_set]
        assert (row["chosen"], row["rival"]) == (one.name, other.name)
        assert row["validation"] == f"{one.validation:.1f} − {other.validation:.1f}"
        queries = study.test.query_sets[query_set]
        levels = [side.points(queries).mean(axis=None) for side in (one, other)]
        assert row["mAP"] == "{:.1f} − {:.1f}".format(*levels)
        gain = float(row["difference [95 %]"].split()[0])
        assert gain == pytest.approx(levels[0] - levels[1], abs=0.01)


def test_rivals_are_trained_no_deeper(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"GeM" + UNTRAINED: 40.0, "GeM": 50.0, "GeM" + STAGE: 70.0, "R-MAC" + UNTRAINED: 60.0}
    held |= {"DAGF": 80.0, "DAGF" + STAGE: 75.0}

    def made(_: Study, arms: Sequence[str], how: str = HEAD, *_scales: object) -> list[Method]:
        titles = (VARIANTS[arm].title + how for arm in arms)
        points = {0: (0.5, 0.7), 1: (0.9, 0.8)}
        return [replace(method(one, points), validation=held.get(one, 0.0)) for one in titles]

    monkeypatch.setattr(rivals, "methods", made)
    monkeypatch.setattr(rivals, "trained_heads", lambda *_: ["dagf"])
    sets = {"query": [0, 1]}
    test = SimpleNamespace(query_sets=sets, clusters=lambda: np.arange(2), middle=CLASSIC)
    study: Any = SimpleNamespace(test=test, profile=SimpleNamespace(last_stage=True))
    names, shelf = [rivals.SHELF, rivals.CHOSEN, rivals.CHOSEN_PLAIN], "GeM" + UNTRAINED
    flat, deep = [shelf, "GeM", "R-MAC" + UNTRAINED], [shelf, "GeM" + STAGE, "GeM" + STAGE]
    sides = [("DAGF", "DAGF", flat), ("DAGF" + STAGE, "DAGF" + STAGE, deep)]
    sides.append(("chosen DAGF", "DAGF", deep))  # which stays as it was, where depth does not pay
    found = rivals.against_rivals(study)[["what", "chosen", "minus", "rival"]]
    assert found.to_numpy().tolist() == [
        [what, chosen, *pair]
        for what, chosen, others in sides
        for pair in zip(names, others, strict=True)
    ]
    (row,) = rivals.method_table(study, made(study, ["gem"], STAGE)).to_dict("records")
    assert row["rival"] == "yes"
