"""Windows x masks x pooling without any training, on the frozen maps of each seed's backbone.

A mask and a pooling are cheap beside reading the maps, so each batch is filtered once and pooled
under all masks. The poolings here are means of powers (SPoC: p = 1, GeM: p = 3, as before
training), for which the masked mean of `dagf.model.pooling` is one matrix product.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dagf.model.scale_mask import MASKS, ScaleFilters
from dagf.retrieval.extract import FeatureMaps
from dagf.retrieval.metrics import evaluate
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
NAMES = ("none", "max", "sum", *["random"] * DRAWS)  # the masks, in the order of `masks_of`
Filter = tuple[str, int]  # kind and size of a window; one cell is the "max" of itself
Pooled = dict[tuple[Filter, str], NDArray[np.float32]]


def grid(study: Study) -> pd.DataFrame:
    """Return the AP of every combination on the middle setting: a row a draw, seed and test query.

    Columns: windows, mask, draw (of the random masks, 0 for others), pooling, seed, query_set,
    query, positives, AP (0..1). Needs the backbones only; kept in the cache. Where all seeds share
    one backbone their rows are alike: nothing here depends on a seed.
    """
    own, every = study.profile.own_backbones, study.profile.seeds
    seeds = every if own else every[:1]
    study.prepare(seeds)
    decides = study.test_id, study.profile.evaluation.image, code_hash("dagf.analysis.grid")
    files = {
        seed: table_file(study.cache, "grid", study.bare(seed).backbone_id, seed, *decides)
        for seed in seeds
    }
    found = cached_tables(files, partial(_evaluate, study), "windows x masks")
    rows = [found[seed if own else seeds[0]].assign(seed=seed) for seed in every]
    return pd.concat(rows, ignore_index=True)


def of_first_set(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `grid` for the first query set, those with positives alone."""
    return cells[(cells["query_set"] == cells["query_set"].iloc[0]) & (cells["positives"] > 0)]


def filters_of(windows: str) -> list[Filter]:
    """Return the window filters of one of `WINDOW_SETS`."""
    kind, sizes = WINDOW_SETS[windows]
    return [(kind if size > 1 else "max", size) for size in sizes]


FILTERS = list(dict.fromkeys(one for windows in WINDOW_SETS for one in filters_of(windows)))


def _evaluate(study: Study, seed: int) -> pd.DataFrame:
    maps, found = study.test_maps(study.bare(seed)), []
    torch.manual_seed(seed)  # of the random masks
    pooled_rows, pooled_queries = pooled(maps.database), pooled(maps.queries)
    for windows in WINDOW_SETS:
        for pooling in POWERS:
            for place, mask in enumerate(NAMES):
                database, queries = (
                    summed([part[one, pooling][:, place] for one in filters_of(windows)])
                    for part in (pooled_rows, pooled_queries)
                )
                per_query = evaluate(study.test, queries @ database.T, [study.test.middle])
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
    return total / np.maximum(length, 1e-12)


@torch.inference_mode()
def pooled(maps: FeatureMaps) -> Pooled:
    """Return (filter, pooling) -> unit vectors (images, masks, C), for every mask of `NAMES`.

    The random ones are drawn from torch's global generator.
    """
    out: Pooled = {}
    for rows, batch in maps.batches():
        rectified = torch.relu(batch)
        for kind, size in FILTERS:
            (scaled,) = ScaleFilters((size,), kind)(rectified)
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


def kept_fractions(study: Study, seed: int) -> pd.DataFrame:
    """Return the mean share of cells (per cent) that MAX- and SUM-mask keep, a row a window.

    The mean is over the test database, distractors included.
    """
    maps, rows = study.test_maps(study.bare(seed)).database, []
    for kind, size in FILTERS:
        filters, shares = ScaleFilters((size,), kind), []
        for _, batch in maps.batches():
            (scaled,) = filters(torch.relu(batch))
            kept = [MASKS[name]()(scaled).float().mean((1, 2, 3)) for name in ("max", "sum")]
            shares.append(torch.stack(kept, 1))
        most, total = (100 * torch.cat(shares).mean(0)).tolist()
        window = f"{kind} {size}" if size > 1 else "1"
        rows.append({"window": window, "MAX-Mask": most, "SUM-mask": total})
    return pd.DataFrame(rows)
