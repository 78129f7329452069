"""The tables of the ablations: windows and masks, the pyramid, bins of the nuisances, floors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dagf.analysis.contrasts import Contrast, contrast_of, runs_of, summary
from dagf.analysis.grid import filters_of, grid, kept_fractions, of_first_set
from dagf.analysis.tables import benchmark_figures, one_set
from dagf.datasets.benchmark import Benchmark
from dagf.datasets.toytown import toytown_records
from dagf.devices import on_device
from dagf.errors import UserError
from dagf.model.variants import VARIANTS
from dagf.retrieval.metrics import average_precision, evaluate, means, ranks_of
from dagf.retrieval.statistics import paired_bootstrap
from dagf.study.evaluation import evaluation_descriptors
from dagf.study.study import Study

LADDER = ("gem", "spatial", "channel", "attention", "scale-mask", "dagf")
READINGS = (
    *("spatial", "spatial-gram", "spatial-gate", "delf", "spatial-norm", "spatial-crow"),
    *("spatial-softplus", "spatial-softmax", "spatial-residual"),
    *("attention", "channel-spatial", "parallel", "dagf", "dagf-average", "dagf-spoc"),
)
SCHEMES = ("gem", "windows", "mask", "scale-mask", "scale-mask-average")
# Three bins of each nuisance, from the most benign to the worst; no value lies beyond the last one.
BINS: Mapping[str, tuple[tuple[str, float, float], ...]] = {
    "clutter": (("below 5 %", 0.0, 0.05), ("5 to 20 %", 0.05, 0.20), ("above 20 %", 0.20, 1.01)),
    "occlusion": (("below 5 %", 0.0, 0.05), ("5 to 25 %", 0.05, 0.25), ("above 25 %", 0.25, 1.01)),
    "scale": (("above 30 %", 0.30, 1.01), ("15 to 30 %", 0.15, 0.30), ("below 15 %", 0.0, 0.15)),
}
GROWTH = "worst minus mildest"
CUT_WINDOWS = ("1", "max 1, 2, 3", "average 1, 2, 3")  # of `cut_table`
EARLIER = {"mobilenet_v2": "features.13"}  # fewer channels and more cells than the default cut


def trained_heads(study: Study, arms: Sequence[str]) -> list[str]:
    """Return those of `arms` that the profile trains as heads, in their order."""
    if not study.profile.heads or not study.training:
        return []
    return [arm for arm in arms if arm in study.plan(heads=True).arms]


def plain(arm: str) -> str:
    """Return the arm that has the same pooling, and neither attention nor windows and mask."""
    return "spoc" if VARIANTS[arm].pooling == "spoc" else "gem"


def grid_means(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the mAP (%) of each (pooling, windows, mask) of `grid`: over draws, queries, seeds."""
    right = of_first_set(cells)
    found = 100 * right.groupby(["pooling", "windows", "mask"], sort=False)["AP"].mean()
    return found.rename("mAP").reset_index()


def draw_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return GeM's mAP (%) under the MAX-Mask beside the range of the random mask's draws."""
    right = of_first_set(cells[cells["pooling"] == "GeM"])
    by_draw = 100 * right.groupby(["windows", "mask", "draw"])["AP"].mean()
    rows = []
    for windows in dict.fromkeys(right["windows"]):
        none, most = (by_draw[windows, mask].iloc[0] for mask in ("none", "max"))
        random = by_draw[windows, "random"]
        row = {"windows": windows, "no mask": none, "MAX-Mask": most, "random: least": random.min()}
        rows.append(row | {"random: mean": random.mean(), "random: most": random.max()})
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
        for (windows, mask), part in cells.groupby(["windows", "mask"], sort=False):
            windows, mask = str(windows), str(mask)
            names = [f"{kind} {size}" if size > 1 else "1" for kind, size in filters_of(windows)]
            kept = shares[shares["window"].isin(names)].mean(numeric_only=True)
            share = {"none": 100.0, "sum": kept["SUM-mask"]}.get(mask, kept["MAX-Mask"])
            row = {"cut": node, "windows": windows, "mask": mask, "kept, %": round(share, 1)}
            for name, asked in study.test.query_sets.items():
                right = 100 * part[part["query"].isin(asked)].groupby("pooling")["AP"].mean()
                row |= {
                    f"{name}, {pooling}": round(right[pooling], 1) for pooling in ("SPoC", "GeM")
                }
            row |= {"− none": "", "− random": ""}
            rows.append(row | (_mask_gains(study, cells, windows) if mask == "max" else {}))
    return pd.DataFrame(rows)


def _mask_gains(study: Study, cells: pd.DataFrame, windows: str) -> dict[str, str]:
    part = of_first_set(cells[(cells["windows"] == windows) & (cells["pooling"] == "GeM")])
    points = 100 * part.pivot_table("AP", "query", "mask")  # the mean over the draws
    gains, clusters = {}, study.test.clusters()[points.index]
    for other in ("none", "random"):
        gains[f"− {other}"] = paired_bootstrap(points["max"] - points[other], clusters).signed
    return gains


def pyramid_table(
    study: Study, arms: Sequence[str], scales: tuple[float, ...], distractors: int = 500
) -> pd.DataFrame:
    """Return `summary` of end-to-end arms at one image size and with an image pyramid.

    On two seeds and fewer distractors, for it is costly.
    """
    small, seeds, parts = study.smaller(distractors), study.profile.seeds[:2], []
    for name, chosen in (("one size", (1.0,)), ("pyramid", scales)):
        one = replace(small, profile=replace(small.profile, scales=chosen))
        parts.append(summary(one.table(arms, seeds)).assign(images=name))
    return pd.concat(parts, ignore_index=True)


def head_costs(arms: Sequence[str]) -> pd.DataFrame:
    """Return the cost of each head's forward pass as a multiple of GeM's, by `make bench`."""
    ratios = {one["head"]: one["ratio"] for one in benchmark_figures() if "head" in one}
    rows = [{"head": VARIANTS[arm].title, "cost": ratios[arm]} for arm in arms if arm in ratios]
    return pd.DataFrame(rows, columns=["head", "cost"])


def trial_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return `Study.trials` with a column a rate."""
    if trials.empty:
        return trials
    wide = trials.pivot(index="method", columns="rate", values="validation mAP")
    wide.columns = pd.Index([f"rate {rate:g}" for rate in wide.columns])
    best = trials[trials["chosen"]].set_index("method")["rate"].map("{:g}".format)
    return wide.loc[trials["method"].unique()].assign(chosen=best).reset_index()


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
    gained = {
        name: pd.DataFrame({seed: frame[name] for seed, frame in by_seed.items()})
        for name, _, _ in BINS[nuisance]
    }
    mildest, *_, worst = gained.values()
    gained[GROWTH] = worst - mildest
    clusters, titles = study.test.clusters(), (VARIANTS[arm].title, VARIANTS[baseline].title)
    runs = runs_of(study, arm, baseline, heads=heads)
    return [
        contrast_of(frame, clusters, *titles, f"{nuisance}: {name}", runs=runs)
        for name, frame in gained.items()
    ]


def bin_counts(study: Study) -> pd.DataFrame:
    """Return how many positives of Medium are in each bin."""
    positives = [query.relevance(study.test.middle)[0] for query in study.test.queries]
    table, rows = records(study).iloc[np.unique(np.concatenate(positives))], []
    for nuisance, bins in BINS.items():
        for name, low, high in bins:
            count = int(((table[nuisance] >= low) & (table[nuisance] < high)).sum())
            rows.append({"nuisance": nuisance, "bin": name, "positives": count})
    return pd.DataFrame(rows)


def chance(test: Benchmark, draws: int = 5) -> pd.DataFrame:
    """Return the mAP (%) of random scores, mean of `draws`: one row a query set and setting."""
    rng, shape = np.random.default_rng(0), (len(test.queries), len(test.database_paths))
    found = pd.DataFrame(
        {draw: means(evaluate(test, rng.random(shape)))["mAP"] for draw in range(draws)}
    )
    return found.mean(axis=1).rename("mAP").reset_index()


def untrained_backbone(study: Study) -> pd.DataFrame:
    """Return the same of GeM on the first seed's backbone before its first step."""
    gem = replace(study, profile=replace(study.profile, backbone_training=None)).untrained("gem")
    net, folder, spec = on_device(gem.network()), study.cache / "shards", study.profile.evaluation
    rows, queries = evaluation_descriptors(net, gem.weights_id, study.test, spec, folder)
    return means(evaluate(study.test, queries @ rows[:].T))["mAP"].reset_index()


def floors(study: Study) -> pd.DataFrame:
    """Return what a trained arm must leave behind, as rows like those of `summary`.

    Random scores, and GeM on an untrained backbone where the backbone is trained here.
    """
    found = [chance(study.test).assign(method="random scores", seeds="")]
    if study.profile.backbone_training:
        found.append(untrained_backbone(study).assign(method="GeM, untrained backbone", seeds=1))
    table = pd.concat(found).rename(columns={"query_set": "query set"})
    table["mAP"] = table["mAP"].map("{:.1f}".format)
    index = ["query set", "method", "seeds"]
    wide = table.pivot_table("mAP", index, "setting", "first", sort=False)
    return one_set(wide.rename_axis(columns=None).reset_index())
