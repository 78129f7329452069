"""The tables of the ablations: combinations of windows and masks, readings, whitening, the pyramid, costs, trials."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from dagf.analysis.contrasts import runs_of, summary
from dagf.analysis.grid import of_first_set
from dagf.analysis.tables import RUNS, benchmark_figures, traced
from dagf.console import progress
from dagf.model.network import MapEncoder
from dagf.model.variants import VARIANTS, variant
from dagf.retrieval.extract import extract
from dagf.retrieval.metrics import evaluate, mean_average_precision
from dagf.retrieval.search import similarities
from dagf.retrieval.statistics import t_interval
from dagf.retrieval.whitening import pca_whitening
from dagf.study.study import Study

LADDER = ("gem", "spatial", "channel", "attention", "scale-mask", "dagf")
READINGS = (
    *("spatial", "spatial-gram", "spatial-gate", "delf", "spatial-norm", "spatial-crow"),
    *(
        "spatial-softplus",
        "spatial-softmax",
        "spatial-residual",
        "attention",
        "channel-spatial",
        "parallel",
    ),
    *("dagf", "dagf-average", "dagf-spoc"),
)
SCHEMES = ("gem", "windows", "mask", "scale-mask", "scale-mask-average")


def trained_heads(study: Study, arms: Sequence[str]) -> list[str]:
    """Those of `arms` that the profile's sweep has, in their order; none where nothing is swept."""
    swept_at_all = study.profile.heads and study.training
    return [arm for arm in arms if arm in study.plan(heads=True).arms] if swept_at_all else []


def plain(arm: str) -> str:
    """The arm that has the same pooling, and neither attention nor windows and mask."""
    return "spoc" if VARIANTS[arm].pooling == "spoc" else "gem"


def grid_means(cells: pd.DataFrame) -> pd.DataFrame:
    """One row a (pooling, windows, mask) of `grid.grid`: mAP (%) over draws, queries (of the first set), seeds."""
    right = of_first_set(cells)
    means = 100 * right.groupby(["pooling", "windows", "mask"], sort=False)["AP"].mean()
    return means.rename("mAP").reset_index()


def draw_table(cells: pd.DataFrame, pooling: str = "GeM") -> pd.DataFrame:
    """The MAX-Mask's mAP (per cent, mean over seeds) beside the least, mean and most of the random mask's draws."""
    right = of_first_set(cells[cells["pooling"] == pooling])
    by_draw = 100 * right.groupby(["windows", "mask", "draw"])["AP"].mean()
    rows = []
    for windows in dict.fromkeys(right["windows"]):
        random = by_draw[windows, "random"]
        row = {"windows": windows, "no mask": by_draw[windows, "none"].iloc[0]}
        row |= {"MAX-Mask": by_draw[windows, "max"].iloc[0], "random: least": random.min()}
        rows.append(row | {"random: mean": random.mean(), "random: most": random.max()})
    return pd.DataFrame(rows)


def pyramid_table(
    study: Study, arms: Sequence[str], scales: tuple[float, ...], distractors: int = 500
) -> pd.DataFrame:
    """End-to-end arms at one image size and with a pyramid: as `summary`, on two seeds and fewer distractors, for it
    is costly."""
    small, seeds = study.smaller(distractors), study.profile.seeds[:2]
    parts = []
    for name, chosen in (("one size", (1.0,)), ("pyramid", scales)):
        part = summary(
            replace(small, profile=replace(small.profile, scales=chosen)).table(arms, seeds)
        )
        parts.append(part.assign(images=name))
    return pd.concat(parts, ignore_index=True).drop(columns="query set")


def whitening_table(
    study: Study, arms: Sequence[str], setting: str, sizes: Sequence[int] = ()
) -> pd.DataFrame:
    """mAP (mean over seeds [95 % t-interval]) of swept heads as they are, and after PCA whitening to each size.

    The whitening is learned on the training images' descriptors under the same head. sizes: the dimensions kept
    (default: all that so many images can whiten, and half of them). A head without parameters is used as it is.
    """
    chosen = [one for one in study.test.settings if one.name == setting]
    rows = []
    for arm in progress(trained_heads(study, arms), "whitening", unit="head"):
        found: dict[str, list[float]] = {}
        for seed in study.profile.seeds:
            trained = variant(arm).trainable
            net = (
                study.run(arm, seed, heads=True).network()
                if trained
                else study.untrained(arm, seed)
            )
            encode, maps, learn = (
                MapEncoder(net.head),
                study.seed_maps(seed),
                study.training_maps(seed),
            )
            database, queries = maps.extract(encode)
            known = extract(encode, learn.batches(), learn.count)
            plain = evaluate(study.test, similarities(database, queries), chosen)
            found.setdefault("as it is", []).append(mean_average_precision(plain, setting))
            most = min(net.dimensions, learn.count - 1)
            for size in sizes or (most, most // 2):
                whiten = pca_whitening(known, size)
                per_query = evaluate(
                    study.test, similarities(whiten(database), whiten(queries)), chosen
                )
                found.setdefault(f"whitened, {size}", []).append(
                    mean_average_precision(per_query, setting)
                )
        cells = {name: str(t_interval(values)) for name, values in found.items()}
        runs = runs_of(study, arm, heads=True)
        rows.append(
            {"method": VARIANTS[arm].title, "seeds": len(study.profile.seeds), **cells, RUNS: runs}
        )
    return traced(rows)


def head_costs(arms: Sequence[str]) -> pd.DataFrame:
    """The forward pass of each head as a multiple of GeM's, from the record that `make bench` keeps (empty: none)."""
    ratios = {one["head"]: one["ratio"] for one in benchmark_figures() if "head" in one}
    rows = [{"head": VARIANTS[arm].title, "cost": ratios[arm]} for arm in arms if arm in ratios]
    return pd.DataFrame(rows, columns=["head", "cost"])


def trial_table(trials: pd.DataFrame) -> pd.DataFrame:
    """`Study.trials` with a column a rate."""
    if trials.empty:
        return trials
    wide = trials.pivot(index="method", columns="rate", values="validation mAP")
    wide.columns = pd.Index([f"rate {rate:g}" for rate in wide.columns])
    best = trials[trials["chosen"]].set_index("method")["rate"]
    return (
        wide.loc[list(dict.fromkeys(trials["method"]))]
        .assign(chosen=best.map("{:g}".format))
        .reset_index()
    )
