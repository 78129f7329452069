"""A study without images, and methods: the APs of their queries are given."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from dagf.analysis.methods import NONE, Method
from dagf.study.study import Results


class Pretended:
    """A study of two seeds whose arms have these APs a query, of each seed (0.5 if not named).

    NaN: a query without positives. GeM has no runs, as if it had nothing to train.
    """

    def __init__(self, clusters: Sequence[int] = (0, 1), **values: Sequence[Any]) -> None:
        self.values, self.half = values, [[0.5] * len(clusters)] * 2
        self.evaluated: set[tuple[tuple[str, ...], bool]] = set()
        plan = SimpleNamespace(arms=("dagf", "gem", "spoc", "se"))
        self.profile = SimpleNamespace(seeds=(0, 1), plan=lambda heads: plan)
        self.test = SimpleNamespace(
            clusters=lambda: np.array(clusters), middle=SimpleNamespace(name="Medium"),
            first_set="query", query_sets={"query": [0, 1], "query-2": [5, 6]},
        )  # fmt: skip

    def run(self, arm: str, seed: int) -> Any:
        return SimpleNamespace(id=f"{arm}-{seed}")

    def backbone_run(self, seed: int) -> Any:
        return SimpleNamespace(id=f"backbone-{seed}")

    def evaluate(self, arms: Sequence[str], heads: bool = False) -> dict[tuple[str, int], Results]:
        self.evaluated.add((tuple(arms), heads))
        return {
            (arm, seed): Results(
                per_query(aps), pd.DataFrame(), "" if arm == "gem" else f"{arm}-{seed}"
            )
            for arm in arms
            for seed, aps in enumerate(self.values.get(arm, self.half))
        }


def per_query(aps: Sequence[float]) -> pd.DataFrame:
    """Medium as given; other values under Hard and in another query set."""
    frame = {"query": range(len(aps)), "AP": aps, "setting": "Medium", "query_set": "query"}
    right = pd.DataFrame(frame)
    right["positives"] = right["AP"].notna().astype(int)
    others = [right.assign(setting="Hard", AP=9.0), right.assign(query_set="query-2", AP=7.0)]
    return pd.concat([right, *others])


def method(title: str, points: Mapping[int, Sequence[float]]) -> Method:
    """A method by the APs (0..1) of each query under two seeds."""
    rows = [
        {"positives": 1, "query": query, "seed": seed, "AP": value}
        for query, seeds in points.items()
        for seed, value in enumerate(seeds)
    ]
    return Method(title, NONE, {}, 50.0, pd.DataFrame(rows))
