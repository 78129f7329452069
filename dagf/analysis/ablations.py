"""The tables of the ablations: heads, the pyramid, bins of the nuisances, floors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast_of, runs_of
from dagf.analysis.tables import one_set
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.toytown import toytown_records
from dagf.errors import UserError
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import average_precision, evaluate, means, ranks_of
from dagf.study.study import Study

# Three bins of each nuisance, from the most benign to the worst; no value lies beyond the last one.
BINS: Mapping[str, tuple[tuple[str, float, float], ...]] = {
    "clutter": (("below 5 %", 0.0, 0.05), ("5 to 20 %", 0.05, 0.20), ("above 20 %", 0.20, 1.01)),
    "occlusion": (("below 5 %", 0.0, 0.05), ("5 to 25 %", 0.05, 0.25), ("above 25 %", 0.25, 1.01)),
    "scale": (("above 30 %", 0.30, 1.01), ("15 to 30 %", 0.15, 0.30), ("below 15 %", 0.0, 0.15)),
}
GROWTH = "worst minus mildest"
DRAWS = 5  # of random scores


def trained_heads(study: Study, arms: Sequence[str]) -> list[str]:
    """Return those of `arms` that the profile trains as heads, in their order."""
    if not study.profile.heads or not study.training:
        return []
    return [arm for arm in arms if arm in study.profile.plan(heads=True).arms]


def records(study: Study) -> pd.DataFrame:
    """Return the records of the test database, row by row, with `occlusion` = 1 - visible.

    Raises `UserError` for photographs.
    """
    if study.toytown is None:
        raise UserError("only Toytown's images come with records of clutter, occlusion and scale")
    found = toytown_records(study.toytown, "test").query("role == 'database'")
    found = found.set_index("file").loc[list(study.test.database)].reset_index()
    return found.assign(occlusion=1 - found["visible"])


def points_by_bin(study: Study, positions: pd.DataFrame, nuisance: str) -> pd.DataFrame:
    """Return the AP in points of each query's easy and hard positives in each bin of a nuisance.

    Queries x bins, NaN where there is none. The AP of the positives of one bin, the others taken
    out as junk, says how well *those* are found; the negatives are the same in every bin.
    """
    right = positions[positions["label"].isin(("easy", "hard"))]
    values = records(study)[nuisance].to_numpy()[right["row"]]
    columns = {}
    for name, low, high in BINS[nuisance]:
        above = right[(values >= low) & (values < high)].groupby("query")["above"]
        found = above.apply(lambda rows: 100 * average_precision(ranks_of(rows.to_numpy())))
        columns[name] = found.reindex(range(len(study.test.queries)))
    return pd.DataFrame(columns)


def gains(
    study: Study, arm: str, baseline: str, nuisance: str, heads: bool = False
) -> list[Contrast]:
    """Return `arm` minus `baseline` in each bin, and last its growth: worst bin minus mildest."""
    results = study.evaluate([arm, baseline], heads=heads)
    by_seed = {
        seed: points_by_bin(study, results[arm, seed].positions, nuisance)
        - points_by_bin(study, results[baseline, seed].positions, nuisance)
        for seed in study.profile.seeds
    }
    by_bin: Any = pd.concat(by_seed, axis=1).swaplevel(axis=1)  # (bin, seed)
    bins = [name for name, _, _ in BINS[nuisance]]
    gained = {name: by_bin[name] for name in bins}
    gained[GROWTH] = by_bin[bins[-1]] - by_bin[bins[0]]
    clusters, titles = study.test.clusters(), (VARIANTS[arm].title, VARIANTS[baseline].title)
    runs = runs_of(study, arm, baseline, heads=heads)
    return [
        contrast_of(frame, clusters, *titles, f"{nuisance}: {name}", runs=runs)
        for name, frame in gained.items()
    ]


def chance(test: Benchmark) -> pd.DataFrame:
    """Return the mAP (%) of random scores, mean of `DRAWS`: one row a query set and setting."""
    rng, shape = np.random.default_rng(0), (len(test.queries), len(test.database_paths))
    found = [means(evaluate(test, rng.random(shape)))["mAP"] for _ in range(DRAWS)]
    return pd.concat(found, axis=1).mean(axis=1).rename("mAP").reset_index()


def floors(study: Study) -> pd.DataFrame:
    """Return what a trained arm must leave behind, as rows like those of `summary`.

    Random scores; and where the backbone is trained here, GeM on that of the first seed before its
    first step.
    """
    found = [chance(study.test).assign(method="random scores", seeds="")]
    if study.profile.own_backbones:
        random = replace(study.profile, backbone_training=None, kept_backbones=False)
        bare = replace(study, profile=random)
        table = means(bare.results(bare.untrained("gem")).per_query)["mAP"].reset_index()
        found.append(table.assign(method="GeM, untrained backbone", seeds=1))
    table = pd.concat(found).rename(columns={"query_set": "query set"})
    table["mAP"] = table["mAP"].map("{:.1f}".format)
    index = ["query set", "method", "seeds"]
    wide = table.pivot_table("mAP", index, "setting", "first", sort=False)
    return one_set(wide.rename_axis(columns=None).reset_index())
