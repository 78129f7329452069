"""Does our evaluator give the figures of the protocol's authors on their own descriptors?

revisitop publishes example descriptors of ROxford5k and RParis6k and, in its README, what its
evaluator makes of them. Those golden figures are rows of data/published.csv.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from dagf import paths
from dagf.analysis.tables import read_published
from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.datasets.public import check_counts
from dagf.errors import UserError
from dagf.retrieval.metrics import evaluate, means

SET = "revisited-features"  # of data/manifest.json
NOTE = "golden figure of the evaluator"  # of data/published.csv
TOLERANCE = 0.005  # the figures are published with two decimals
TIES = (
    "equal scores: ours rank negatives first, revisitop leaves their order to its sort, so a tie "
    "may make ours lower"
)


def check_golden() -> pd.DataFrame:
    """Return our figures beside the golden ones, and whether they are equal at two decimals.

    Columns: dataset, protocol, metric, ours, golden, equal. Raises `UserError` where the files are
    not here, or are not those of the set.
    """
    published, folder = read_published(), paths.data() / "features"
    golden = published[published["note"] == NOTE]
    if golden.empty:
        raise UserError(f"no published figure is noted as '{NOTE}': get published.csv again")
    parts = []
    for dataset in golden["dataset"].unique():
        name = dataset.lower()
        files = folder / f"{name}_resnet_rsfm120k_gem.mat", folder / f"gnd_{name}.json"
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"{', '.join(missing)} not in {folder}: get the files with `dagf data get {SET}`"
            )
        benchmark = from_ground_truth(name, folder, files[1])
        check_counts(name, benchmark.counts, paths.data())
        parts.append(measured(benchmark, files[0]).assign(dataset=dataset))
    keys = ["dataset", "protocol", "metric"]
    golden = golden[[*keys, "value"]].rename(columns={"value": "golden"})
    rows = golden.merge(pd.concat(parts), on=keys, how="left")[[*keys, "ours", "golden"]]
    return rows.assign(equal=(rows["ours"] - rows["golden"]).abs() <= TOLERANCE + 1e-9)


def measured(benchmark: Benchmark, path: Path) -> pd.DataFrame:
    """Return protocol, metric and ours (per cent) of the descriptors in a .mat file."""
    queries, database = read_descriptors(path)
    expected = len(benchmark.queries), len(benchmark.database)
    if (len(queries), len(database)) != expected:
        raise UserError(
            f"{path} holds {len(queries)} queries and {len(database)} images, but {benchmark.name} "
            f"has {expected[0]} and {expected[1]}: it belongs to another set, get it again"
        )
    found = means(evaluate(benchmark, queries @ database.T)).drop(columns="queries")
    table = found.droplevel("query_set").rename_axis("protocol").reset_index()
    return table.melt("protocol", var_name="metric", value_name="ours")


def read_descriptors(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the queries (Q, D) and the database (N, D) in a .mat file, columns of its Q and X."""
    try:
        held: dict[str, Any] = loadmat(path, variable_names=["Q", "X"])
        queries, database = held["Q"].T, held["X"].T
        queries @ database[:0].T  # two matrices of equally long columns
    except Exception as error:  # scipy raises nearly anything on broken bytes
        raise UserError(f"{path} does not hold descriptors Q and X: get it again") from error
    return queries, database


def verdict(checked: pd.DataFrame) -> str:
    """Return the line below the table: pass, or what differs."""
    wrong = checked[~checked["equal"]]
    if wrong.empty:
        return f"pass: all {len(checked)} figures are equal at two decimals"
    named = ", ".join(wrong["dataset"] + " " + wrong["protocol"] + " " + wrong["metric"])
    return f"FAIL: {len(wrong)} of {len(checked)} figures differ: {named}"
