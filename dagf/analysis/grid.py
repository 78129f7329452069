"""Windows x masks x pooling without any training: every combination at once, on the frozen maps of each seed's backbone.

A mask and a pooling are cheap beside reading the maps, so each batch is filtered once and pooled under all masks.
The poolings here are means of powers (SPoC: p = 1, GeM: p = 3, as before training), for which the masked mean of
`dagf.model.pooling` is one matrix product.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as fn

from dagf.files import atomic_path, content_hash
from dagf.model.scale_mask import MASKS, ScaleFilters
from dagf.retrieval.feature_maps import FeatureMaps
from dagf.retrieval.metrics import evaluate
from dagf.study.cache import read_table
from dagf.study.parallel import side_by_side
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
Pooled = dict[tuple[str, int, str], NDArray[np.float32]]


def grid(study: Study, setting: str = "Medium") -> pd.DataFrame:
    """Every combination judged on the test queries: windows, mask, draw, pooling, seed, query_set, query, AP (0..1).

    `draw` numbers the random masks (0 for the others). Needs the backbones only; kept in the cache.
    """
    seeds = (
        study.profile.seeds if study.profile.backbone_training else study.profile.seeds[:1]
    )  # one backbone, one seed
    study.prepare(seeds)
    missing = [seed for seed in seeds if not _file(study, seed, setting).exists()]
    side_by_side(partial(_answer, study, setting), missing, "windows x masks")
    kept = [read_table(_file(study, seed, setting)) for seed in seeds]
    return pd.concat(
        [table.assign(seed=seed) for seed, table in zip(seeds, kept, strict=True)],
        ignore_index=True,
    )


def of_first_set(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows of `grid` for the first query set, those with positives alone."""
    return cells[(cells["query_set"] == cells["query_set"].iloc[0]) & (cells["positives"] > 0)]


def kept_fractions(study: Study, seed: int) -> pd.DataFrame:
    """The mean share of cells (per cent) that MAX- and SUM-mask keep, by window and kind, over the test database."""
    maps = study.seed_maps(seed).database
    rows = []
    for kind, window in _filters():
        shares = []
        for _, batch in maps.batches():
            scaled = _filtered(batch, kind, window)
            shares.append(
                [MASKS[name]()(scaled).float().mean((1, 2, 3)) for name in ("max", "sum")]
            )
        means = [float(torch.cat(part).mean()) for part in zip(*shares, strict=True)]
        name = f"{kind} {window}" if window > 1 else "1"
        rows.append({"window": name, "MAX-Mask": 100 * means[0], "SUM-mask": 100 * means[1]})
    return pd.DataFrame(rows)


def _filters() -> list[tuple[str, int]]:
    found = [
        (kind if window > 1 else "max", window)
        for kind, windows in WINDOW_SETS.values()
        for window in windows
    ]
    return list(dict.fromkeys(found))


def _file(study: Study, seed: int, setting: str) -> Path:
    own = code_hash("dagf.analysis.grid")
    asked = [
        study.backbone_id(seed),
        seed,
        study.test_id,
        asdict(study.profile.evaluation_image),
        setting,
        own,
    ]
    return study.cache / f"grid-{content_hash(asked)}.csv"


def _answer(study: Study, setting: str, seed: int) -> None:
    chosen = next(one for one in study.test.settings if one.name == setting)
    maps = study.seed_maps(seed)
    torch.manual_seed(seed)  # of the random masks
    rows, asked = pooled(maps.database), pooled(maps.queries)
    found = []
    for name, (kind, windows) in WINDOW_SETS.items():
        keys = [(kind if window > 1 else "max", window) for window in windows]
        for pooling in POWERS:
            for place, mask in enumerate(NAMES):
                database, queries = (
                    _summed([part[*key, pooling][:, place] for key in keys])
                    for part in (rows, asked)
                )
                per_query = evaluate(study.test, queries @ database.T, [chosen])
                draw = max(0, place - NAMES.index("random"))
                frame = per_query[["query_set", "query", "positives", "AP"]]
                found.append(frame.assign(windows=name, mask=mask, draw=draw, pooling=pooling))
    path = _file(study, seed, setting)
    with atomic_path(path) as temporary:
        pd.concat(found).to_csv(temporary, index=False)


def _summed(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Unit vectors of each window, (n, C) each -> their sum, normalised again.

    A random mask may keep dead cells only: such an image has a zero vector, which resembles nothing.
    """
    total = np.sum(parts, axis=0)
    unit: NDArray[np.float32] = total / np.maximum(
        np.linalg.norm(total, axis=1, keepdims=True), 1e-12
    )
    return unit


@torch.inference_mode()
def pooled(maps: FeatureMaps) -> Pooled:
    """(kind, window, pooling) -> unit vectors (images, masks, C), for every mask of `NAMES`.

    The random ones are drawn from torch's global generator.
    """
    out: Pooled = {}
    for rows, batch in maps.batches():
        for kind, window in _filters():
            scaled = _filtered(batch, kind, window)
            masks = masks_of(scaled)
            for name, power in POWERS.items():
                vectors = masked_means(scaled, masks, power).numpy()
                whole = out.setdefault(
                    (kind, window, name), np.empty((maps.count, *vectors.shape[1:]), np.float32)
                )
                whole[rows] = vectors
    return out


def _filtered(maps: Tensor, kind: str, window: int) -> Tensor:
    (scaled,) = ScaleFilters((window,), kind)(maps)
    return scaled


def masks_of(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> the kept cells under every mask of `NAMES`, (B, masks, H * W), 0 or 1."""
    kept = [
        torch.ones_like(maps[:, :1]) if name == "none" else MASKS[name]()(maps).float()
        for name in NAMES
    ]
    return torch.cat(kept, dim=1).flatten(2)


def masked_means(maps: Tensor, masks: Tensor, power: float, eps: float = 1e-6) -> Tensor:
    """(mean over the kept cells of max(F, eps)^p)^{1/p}, as unit vectors (B, masks, C)."""
    powers = maps.flatten(2) if power == 1 else maps.flatten(2).clamp(min=eps).pow(power)
    means = torch.einsum("bcn,bmn->bmc", powers, masks) / masks.sum(2, keepdim=True)
    return fn.normalize(means if power == 1 else means.pow(1 / power), dim=2)
