"""Does our evaluator give the figures of the protocol's authors on their own descriptors?

revisitop publishes example descriptors of ROxford5k and RParis6k and, in its README, what its
evaluator makes of them. Those golden figures are rows of data/published.csv.
"""

from pathlib import Path

import pandas as pd
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
KEYS = ["dataset", "protocol", "metric"]


def check_golden() -> pd.DataFrame:
    """Return our figures beside the golden ones, and whether they are equal at two decimals.

    Columns: dataset, protocol, metric, ours, golden, equal. Raises `UserError` where the files are
    not here, or are not those of the set.
    """
    golden, folder = read_published().query("note == @NOTE"), paths.data() / "features"
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
    rows = golden[[*KEYS, "value"]].rename(columns={"value": "golden"})
    rows = rows.merge(pd.concat(parts), on=KEYS, how="left")[[*KEYS, "ours", "golden"]]
    return rows.assign(equal=(rows["ours"] - rows["golden"]).abs() <= TOLERANCE + 1e-9)


def measured(benchmark: Benchmark, path: Path) -> pd.DataFrame:
    """Return protocol, metric and ours (per cent) of a .mat file.

    Its Q and X hold the descriptors of queries and database as columns.
    """
    try:
        held = loadmat(path, variable_names=["Q", "X"])
        scores = held["Q"].T @ held["X"]
    except Exception as error:  # scipy raises nearly anything on broken bytes
        raise UserError(f"{path} does not hold descriptors Q and X: get it again") from error
    found = means(evaluate(benchmark, scores)).drop(columns="queries")
    table = found.droplevel("query_set").rename_axis("protocol").reset_index()
    return table.melt("protocol", var_name="metric", value_name="ours")
