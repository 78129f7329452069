"""Windows and masks on photographs, on a backbone cut where the MAX-Mask has something to drop."""

from dataclasses import replace
from typing import Any

import pandas as pd

from dagf.analysis.grid import grid, kept_fractions
from dagf.retrieval.statistics import paired_bootstrap
from dagf.study.study import Study

WINDOWS = ("1", "max 1, 2, 3", "average 1, 2, 3")  # of `dagf.analysis.grid`
EARLIER = {
    "mobilenet_v2": "features.13"
}  # a node with fewer channels and more cells than the default cut


def mask_where_it_bites(study: Study, cut: str) -> pd.DataFrame:
    """Windows x masks on the study's backbone and on the same backbone cut earlier, where the MAX-Mask keeps fewer cells.

    Untrained, under both poolings. kept: the share of cells, mean over the windows. In the row of the MAX-Mask the
    differences from no mask and from the random mask (mean of 10 draws), in GeM's points of the first query set, with
    the bootstrap interval over test instances.
    """
    rows = []
    for node in dict.fromkeys((study.backbone.cut, cut)):
        backbone = replace(study.profile.backbone, cut=node)
        profile = replace(study.profile, backbone=backbone, seeds=study.profile.seeds[:1])
        one = replace(study, profile=profile, training=None)  # nothing is trained here
        table, kept = grid(one, one.test.middle.name), kept_fractions(one, profile.seeds[0])
        cells = table[table["windows"].isin(WINDOWS) & (table["positives"] > 0)]
        shares = kept.set_index("window")[["MAX-Mask", "SUM-mask"]]
        for (windows, mask), part in cells.groupby(["windows", "mask"], sort=False):
            share = shares.loc[_windows_of(str(windows))].mean()
            row: dict[str, Any] = {"cut": node, "windows": windows, "mask": mask}
            row["kept, %"] = {"none": 100.0, "sum": share["SUM-mask"]}.get(
                str(mask), share["MAX-Mask"]
            )
            for name, asked in study.test.query_sets.items():
                right = part[part["query"].isin(asked)]
                row |= {
                    f"{name}, {key}": value
                    for key, value in (100 * right.groupby("pooling")["AP"].mean()).items()
                }
            rows.append(
                {**row, **(_mask_gains(study, cells, str(windows)) if mask == "max" else {})}
            )
    columns = [
        f"{name}, {pooling}" for name in study.test.query_sets for pooling in ("SPoC", "GeM")
    ]
    found = pd.DataFrame(rows).round(dict.fromkeys(["kept, %", *columns], 1)).fillna("")
    return found[["cut", "windows", "mask", "kept, %", *columns, "− none", "− random"]]


def _windows_of(name: str) -> list[str]:
    kind, _, sizes = name.rpartition(" ") if "," not in name else name.partition(" ")
    return ["1" if size == "1" else f"{kind} {size}" for size in sizes.split(", ")]


def _mask_gains(study: Study, cells: pd.DataFrame, windows: str) -> dict[str, str]:
    first = study.test.query_sets[study.test.first_set]
    part = cells[
        (cells["windows"] == windows) & (cells["pooling"] == "GeM") & cells["query"].isin(first)
    ]
    points = 100 * part.pivot_table(
        index="query", columns="mask", values="AP"
    )  # the mean over the draws
    gains = {}
    for other in ("none", "random"):
        apart = points["max"] - points[other]
        gains[f"− {other}"] = paired_bootstrap(apart, study.test.clusters()[apart.index]).signed
    return gains
