"""Where does a method help: its gain on the landmarks that are cluttered, occluded, small, or none of it.

Each positive of a query carries the exact record of its image, so the average precision of the positives of one bin
(the others taken out as junk) says how well *those* are found. The negatives are the same in every bin.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast_of, runs_of
from dagf.datasets.toytown import toytown_records
from dagf.errors import UserError
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import subset_ap
from dagf.study.study import Study

# Upper edges of three bins, from the most benign to the worst; values beyond the last edge do not occur.
BINS: Mapping[str, tuple[tuple[str, float, float], ...]] = {
    "clutter": (("below 5 %", 0.0, 0.05), ("5 to 20 %", 0.05, 0.20), ("above 20 %", 0.20, 1.01)),
    "occlusion": (("below 5 %", 0.0, 0.05), ("5 to 25 %", 0.05, 0.25), ("above 25 %", 0.25, 1.01)),
    "scale": (("above 30 %", 0.30, 1.01), ("15 to 30 %", 0.15, 0.30), ("below 15 %", 0.0, 0.15)),
}


def records(study: Study) -> pd.DataFrame:
    """The records of the test database, row by row, with `occlusion` = 1 - visible; only Toytown has them."""
    if study.toytown is None:
        raise UserError("only Toytown's images come with records of clutter, occlusion and scale")
    found = toytown_records(study.toytown, "test")
    found = found[found["role"] == "database"].set_index("file").loc[list(study.test.database)]
    return found.assign(occlusion=1 - found["visible"]).reset_index()


def points_by_bin(study: Study, positions: pd.DataFrame, nuisance: str) -> pd.DataFrame:
    """AP in points of each query's easy and hard positives in each bin: queries x bins, NaN where there is none."""
    right = positions[positions["label"].isin(("easy", "hard"))]
    values = records(study)[nuisance].to_numpy()[right["row"]]
    columns = {}
    for name, low, high in BINS[nuisance]:
        part = right[(values >= low) & (values < high)]
        found = part.groupby("query")["above"].apply(
            lambda above: 100 * subset_ap(above.to_numpy())
        )
        columns[name] = found.reindex(range(len(study.test.queries)))
    return pd.DataFrame(columns)


def gains(
    study: Study, arm: str, baseline: str, nuisance: str, heads: bool = False
) -> list[Contrast]:
    """`arm` minus `baseline` in each bin, and last the growth: the gain in the worst bin minus that in the mildest."""
    results = study.evaluate([arm, baseline], heads=heads)
    by_seed = {
        seed: points_by_bin(study, results[arm, seed].positions, nuisance)
        - points_by_bin(study, results[baseline, seed].positions, nuisance)
        for seed in study.profile.seeds
    }
    names = [name for name, _, _ in BINS[nuisance]]
    gained = {
        name: pd.DataFrame({seed: frame[name] for seed, frame in by_seed.items()}) for name in names
    }
    gained["worst minus mildest"] = gained[names[-1]] - gained[names[0]]
    clusters, titles = study.test.clusters(), (VARIANTS[arm].title, VARIANTS[baseline].title)
    runs = runs_of(study, arm, baseline, heads=heads)
    return [
        contrast_of(frame, clusters, *titles, f"{nuisance}: {name}", runs=runs)
        for name, frame in gained.items()
    ]


def bin_counts(study: Study) -> pd.DataFrame:
    """How many positives of Medium are in each bin."""
    table = records(study)
    right = np.unique(
        np.concatenate([query.relevance(study.test.middle)[0] for query in study.test.queries])
    )
    return pd.DataFrame(
        [
            {
                "nuisance": nuisance,
                "bin": name,
                "positives": int(((value >= low) & (value < high)).sum()),
            }
            for nuisance, bins in BINS.items()
            for value in [table[nuisance].to_numpy()[right]]
            for name, low, high in bins
        ]
    )
