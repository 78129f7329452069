"""Windows x masks x pooling without any training, on the frozen maps of each seed's backbone.

A mask and a pooling are cheap beside reading the maps, so each batch is filtered once and pooled
under all masks. The poolings here are means of powers (SPoC: p = 1, GeM: p = 3, as before
training), for which the masked mean of `dagf.model.pooling` is one matrix product.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dagf.model.scale_mask import MASKS, ScaleFilters
from dagf.retrieval.feature_maps import FeatureMaps
from dagf.retrieval.metrics import evaluate
from dagf.retrieval.statistics import paired_bootstrap
from dagf.study.cache import cached_tables, table_file
from dagf.study.provenance import code_hash
from dagf.study.study import Study

DRAWS = 10  # random masks: the null has a spread of its own
POWERS = {"SPoC": 1.0, "GeM": 3.0}
WINDOW_SETS: dict[str, tuple[str, tuple[int, ...]]] = {
    "1": ("max", (1,)),
    "max 1, 2": ("max", (1, 2)),
    "max 1, 2, 3": ("max", (1, 2, 3)),
    "max 3": ("max", (3,)),
    "average 1, 2": ("average", (1, 2)),
    "average 1, 2, 3": ("average", (1, 2, 3)),
    "average 3": ("average", (3,)),
}
CUT_WINDOWS = ("1", "max 1, 2, 3", "average 1, 2, 3")  # of `cut_table`
EARLIER = {"mobilenet_v2": "features.13"}  # fewer channels and more cells than the default cut
NAMES = ("none", "max", "sum", *["random"] * DRAWS)  # the masks, in the order of `masks_of`
Filter = tuple[str, int]  # kind and size of a window; one cell is the "max" of itself
Pooled = dict[tuple[Filter, str], NDArray[np.float32]]


def grid(study: Study, setting: str = "Medium") -> pd.DataFrame:
    """Return the AP of every combination: a row a combination, draw, seed and test query.

    Columns: windows, mask, draw (of the random masks, 0 for others), pooling, seed, query_set,
    query, positives, AP (0..1). Needs the backbones only; kept in the cache.
    """
    # one backbone, one seed
    seeds = study.profile.seeds if study.profile.backbone_training else study.profile.seeds[:1]
    study.prepare(seeds)
    decides = (
        study.test_id,
        study.profile.evaluation.image,
        setting,
        code_hash("dagf.analysis.grid"),
    )
    files = {
        seed: table_file(study.cache, "grid", study.bare(seed).backbone_id, seed, *decides)
        for seed in seeds
    }
    found = cached_tables(files, partial(_evaluate, study, setting), "windows x masks")
    return pd.concat([table.assign(seed=seed) for seed, table in found.items()], ignore_index=True)


def of_first_set(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `grid` for the first query set, those with positives alone."""
    return cells[(cells["query_set"] == cells["query_set"].iloc[0]) & (cells["positives"] > 0)]


def filters_of(windows: str) -> list[Filter]:
    """Return the window filters of one of `WINDOW_SETS`."""
    kind, sizes = WINDOW_SETS[windows]
    return [(kind if size > 1 else "max", size) for size in sizes]


FILTERS = list(dict.fromkeys(one for windows in WINDOW_SETS for one in filters_of(windows)))


def _evaluate(study: Study, setting: str, seed: int) -> pd.DataFrame:
    chosen = [one for one in study.test.settings if one.name == setting]
    maps, found = study.test_maps(study.bare(seed)), []
    torch.manual_seed(seed)  # of the random masks
    rows, asked = pooled(maps.database), pooled(maps.queries)
    for windows in WINDOW_SETS:
        for pooling in POWERS:
            for place, mask in enumerate(NAMES):
                database, queries = (
                    summed([part[one, pooling][:, place] for one in filters_of(windows)])
                    for part in (rows, asked)
                )
                per_query = evaluate(study.test, queries @ database.T, chosen)
                frame = per_query[["query_set", "query", "positives", "AP"]]
                draw = max(0, place - NAMES.index("random"))
                found.append(frame.assign(windows=windows, mask=mask, draw=draw, pooling=pooling))
    return pd.concat(found)


def summed(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the sum of unit vectors (n, C), one for each window, normalised again.

    A random mask may keep dead cells only: such an image has a zero vector, like nothing.
    """
    total = np.sum(parts, axis=0)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    unit: NDArray[np.float32] = total / np.maximum(length, 1e-12)
    return unit


@torch.inference_mode()
def pooled(maps: FeatureMaps) -> Pooled:
    """Return (filter, pooling) -> unit vectors (images, masks, C), for every mask of `NAMES`.

    The random ones are drawn from torch's global generator.
    """
    out: Pooled = {}
    for rows, batch in maps.batches():
        for kind, size in FILTERS:
            (scaled,) = ScaleFilters((size,), kind)(batch)
            masks = masks_of(scaled)
            for name, power in POWERS.items():
                vectors = masked_means(scaled, masks, power).numpy()
                shape = (maps.count, *vectors.shape[1:])
                whole = out.setdefault(((kind, size), name), np.empty(shape, np.float32))
                whole[rows] = vectors
    return out


def masks_of(maps: Tensor) -> Tensor:
    """Return the kept cells of maps (B, C, H, W) under every mask of `NAMES`: (B, masks, H * W)."""
    kept = [
        torch.ones_like(maps[:, :1]) if name == "none" else MASKS[name]()(maps).float()
        for name in NAMES
    ]
    return torch.cat(kept, dim=1).flatten(2)


def masked_means(maps: Tensor, masks: Tensor, power: float) -> Tensor:
    """Return (mean over the kept cells of max(F, 1e-6)^p)^{1/p} as unit vectors (B, masks, C)."""
    powers = maps.flatten(2) if power == 1 else maps.flatten(2).clamp(min=1e-6).pow(power)
    means = torch.einsum("bcn,bmn->bmc", powers, masks) / masks.sum(2, keepdim=True)
    return fn.normalize(means if power == 1 else means.pow(1 / power), dim=2)


def draw_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return GeM's mAP (%) under the MAX-Mask beside the range of the random mask's draws."""
    right = of_first_set(cells[cells["pooling"] == "GeM"])
    by_draw = 100 * right.groupby(["windows", "mask", "draw"], sort=False)["AP"].mean()
    found = by_draw.groupby(["windows", "mask"], sort=False).agg(["min", "mean", "max"])
    none, most, random = (found.xs(mask, level="mask") for mask in ("none", "max", "random"))
    columns = {"no mask": none["mean"], "MAX-Mask": most["mean"], "random: least": random["min"]}
    columns |= {"random: mean": random["mean"], "random: most": random["max"]}
    return pd.DataFrame(columns).loc[none.index].reset_index()


def kept_fractions(study: Study, seed: int) -> pd.DataFrame:
    """Return the mean share of cells (per cent) that MAX- and SUM-mask keep, a row a window.

    The mean is over the test database, distractors included.
    """
    maps, rows = study.test_maps(study.bare(seed)).database, []
    for kind, size in FILTERS:
        filters, shares = ScaleFilters((size,), kind), []
        for _, batch in maps.batches():
            (scaled,) = filters(batch)
            kept = [MASKS[name]()(scaled).float().mean((1, 2, 3)) for name in ("max", "sum")]
            shares.append(torch.stack(kept, 1))
        most, total = (100 * torch.cat(shares).mean(0)).tolist()
        window = f"{kind} {size}" if size > 1 else "1"
        rows.append({"window": window, "MAX-Mask": most, "SUM-mask": total})
    return pd.DataFrame(rows)


def cut_table(study: Study, cut: str) -> pd.DataFrame:
    """Return windows x masks on the study's backbone and on the same one cut earlier, at `cut`.

    There the MAX-Mask keeps fewer cells. Untrained; mAP (%) a query set and pooling, and kept, the
    share of cells, mean over the windows. In the row of the MAX-Mask the differences from no mask
    and from the random mask (mean of its draws), in GeM's points of the first query set, with the
    bootstrap interval over clusters of queries.
    """
    rows = []
    for node in dict.fromkeys((study.backbone.cut, cut)):
        backbone = replace(study.profile.backbone, cut=node)
        profile = replace(study.profile, backbone=backbone, seeds=study.profile.seeds[:1])
        one = replace(study, profile=profile, training=None)  # nothing is trained here
        cells, shares = grid(one, one.test.middle.name), kept_fractions(one, profile.seeds[0])
        cells = cells[cells["windows"].isin(CUT_WINDOWS) & (cells["positives"] > 0)]
        for key, part in cells.groupby(["windows", "mask"], sort=False):
            windows, mask = map(str, key)
            names = [f"{kind} {size}" if size > 1 else "1" for kind, size in filters_of(windows)]
            kept = shares[shares["window"].isin(names)].mean(numeric_only=True)
            share = {"none": 100.0, "sum": kept["SUM-mask"]}.get(mask, kept["MAX-Mask"])
            row = {"cut": node, "windows": windows, "mask": mask, "kept, %": round(share, 1)}
            for name, queries in study.test.query_sets.items():
                right = 100 * part[part["query"].isin(queries)].groupby("pooling")["AP"].mean()
                row |= {f"{name}, {pooling}": round(right[pooling], 1) for pooling in POWERS}
            for other in ("none", "random"):
                gain = _gain(study, cells, windows, other) if mask == "max" else ""
                row[f"− {other}"] = gain
            rows.append(row)
    return pd.DataFrame(rows)


def _gain(study: Study, cells: pd.DataFrame, windows: str, other: str) -> str:
    part = of_first_set(cells[(cells["windows"] == windows) & (cells["pooling"] == "GeM")])
    points = 100 * part.pivot_table("AP", "query", "mask")  # the mean over the draws
    clusters = study.test.clusters()[points.index]
    return paired_bootstrap(points["max"] - points[other], clusters).signed
