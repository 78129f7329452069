"""What others published on the public benchmarks (data/published.csv): read, and laid out for reading.

None of it was measured here, and nothing of it may stand in one column with what was.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dagf import paths
from dagf.errors import UserError

COLUMNS = (
    "method",
    "dim",
    "dataset",
    "protocol",
    "metric",
    "value",
    "training_set",
    "source",
    "caveat",
    "note",
)
ABOUT = {
    "method": "method",
    "dim": "dim",
    "training_set": "trained on",
    "source": "source",
    "caveat": "caveats",
}


def read_published(path: Path | None = None) -> pd.DataFrame:
    """The rows of data/published.csv (or of `path`), one a figure, in the columns `COLUMNS`.

    `value` is a number in per cent; all else is text, empty where the source does not say. Raises `UserError` for a
    file that is missing or has other columns, and for a value that is no number.
    """
    path = path or paths.data() / "published.csv"
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        if tuple(found.columns) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        return found.assign(value=found["value"].map(float))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; it comes with the project, get it again"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path} is no table of published figures ({error}): get it again with the project"
        ) from error


def published_table(
    published: pd.DataFrame, datasets: Sequence[str], protocols: Sequence[str]
) -> pd.DataFrame:
    """mAP, one row a method, one column a data set and protocol (a data set, where there is one protocol); file order.

    Beside the figures (NaN where none was published) stand what it was trained on, the source and the caveats.
    """
    chosen = published[
        published["dataset"].isin(datasets)
        & published["protocol"].isin(protocols)
        & (published["metric"] == "mAP")
    ]
    places = [(dataset, protocol) for dataset in datasets for protocol in protocols]
    rows = []
    for about, part in chosen.groupby(list(ABOUT), sort=False):
        figures = part.set_index(["dataset", "protocol"])["value"]
        row = dict(zip(ABOUT.values(), about, strict=True))
        for place in places:
            row[" ".join(place) if len(protocols) > 1 else place[0]] = figures.get(
                place, float("nan")
            )
        rows.append(row)
    table = pd.DataFrame(rows)
    told = ["trained on", "caveats", "source"]
    return table[[*(column for column in table if column not in told), *told]]
