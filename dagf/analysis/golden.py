"""Does our evaluator give the figures of the protocol's authors on their own descriptors?

revisitop publishes example descriptors of ROxford5k and RParis6k and, in its README, what its evaluator makes of them.
Those golden figures are rows of data/published.csv.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from dagf import paths
from dagf.analysis.tables import read_published
from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.datasets.manifest import DataSet, check_counts, read_manifest
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError
from dagf.retrieval.metrics import evaluate, means

SET = "revisited-features"  # of data/manifest.json
NOTE = "golden figure of the evaluator"  # of data/published.csv
TOLERANCE = 0.005  # the figures are published with two decimals
TIES = "equal scores: ours rank negatives first, revisitop leaves their order to its sort, so a tie may make ours lower"


def check_golden(sets: Mapping[str, DataSet], data: Path, published: pd.DataFrame) -> pd.DataFrame:
    """Our figures beside the golden ones: dataset, protocol, metric, ours, golden, equal (at two decimals).

    sets: the manifest; published: as `read_published` gives it. Raises `UserError` where the files are not here, or
    are not those of the set.
    """
    folder = data / sets[SET].folder
    golden = published[published["note"] == NOTE]
    if golden.empty:
        raise UserError(
            f"the published figures hold none that are noted as '{NOTE}': get published.csv again"
        )
    ours: dict[tuple[str, str, str], float] = {}
    for dataset in golden["dataset"].unique():
        name = dataset.lower()
        files = folder / f"{name}_resnet_rsfm120k_gem.mat", plain_file(folder, f"gnd_{name}")
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"{', '.join(missing)} not in {folder}: get the files with `dagf data get {SET}`"
            )
        benchmark = from_ground_truth(name, folder, load_ground_truth(files[1]), files[1])
        check_counts(benchmark, sets)
        ours |= {(dataset, *key): value for key, value in measured(benchmark, files[0]).items()}
    rows = golden[["dataset", "protocol", "metric"]].assign(
        ours=[
            ours[key]
            for key in zip(golden["dataset"], golden["protocol"], golden["metric"], strict=True)
        ],
        golden=golden["value"],
    )
    return rows.assign(equal=(rows["ours"] - rows["golden"]).abs() <= TOLERANCE + 1e-9).reset_index(
        drop=True
    )


def measured(benchmark: Benchmark, path: Path) -> dict[tuple[str, str], float]:
    """(setting, measure) -> per cent, of the descriptors in a .mat file; similarity is the inner product, as theirs."""
    queries, database = read_descriptors(path)
    expected = len(benchmark.queries), len(benchmark.database)
    if (len(queries), len(database)) != expected:
        raise UserError(
            f"{path} holds {len(queries)} queries and {len(database)} images, but {benchmark.name} has "
            f"{expected[0]} and {expected[1]}: it belongs to another set, get it again"
        )
    table = (
        means(evaluate(benchmark, queries @ database.T))
        .drop(columns="queries")
        .droplevel("query_set")
    )
    return {
        (str(setting), str(measure)): float(table[measure][setting])
        for setting in table.index
        for measure in table
    }


def read_descriptors(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The queries (Q, D) and the database (N, D) in a .mat file, where they are columns of Q and X."""
    try:
        held: dict[str, Any] = loadmat(path, variable_names=["Q", "X"])
        queries, database = (np.asarray(held[key]).T for key in ("Q", "X"))
        if (
            queries.ndim != 2
            or queries.shape[1:] != database.shape[1:]
            or queries.dtype.kind + database.dtype.kind != "ff"
        ):
            raise ValueError(
                f"Q is {queries.dtype} {queries.T.shape}, X {database.dtype} {database.T.shape}"
            )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; get it again") from error
    except Exception as error:  # scipy raises nearly anything on broken bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} does not hold descriptors as columns of Q and X ({reason}): get it again"
        ) from error
    for name, rows in (("Q", queries), ("X", database)):
        if not np.isfinite(rows).all():
            raise UserError(f"{path}, {name}: it holds NaN or infinity; get it again")
    return queries, database


def verdict(checked: pd.DataFrame) -> str:
    """The line below the table: pass, or what differs."""
    wrong = checked[~checked["equal"]]
    if wrong.empty:
        return f"pass: all {len(checked)} figures are equal at two decimals"
    named = ", ".join(f"{one.dataset} {one.protocol} {one.metric}" for one in wrong.itertuples())
    return f"FAIL: {len(wrong)} of {len(checked)} figures differ: {named}"


def report_golden(as_json: bool, say: Callable[[str], Any]) -> int:
    """Say how the check of the project's own files ends, as a table or as JSON; the exit status, 1 on a mismatch."""
    checked = check_golden(read_manifest(paths.manifest()), paths.data(), read_published())
    if as_json:
        say(checked.to_json(orient="records", indent=1))
    else:
        say(checked.to_string(index=False, float_format="{:.2f}".format))
        say(f"({TIES})")
        say(verdict(checked))
    return int(not checked["equal"].all())
