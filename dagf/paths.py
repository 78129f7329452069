"""Where everything lies. Notebooks and modules take every path from here, and write none into a result."""

import os
from pathlib import Path

from dagf.errors import UserError

ROOT = "DAGF_ROOT"  # names the project's folder when the current folder is not inside it
# Of the tables in reports/photographs/, in the order in which they are shown: those that are shown everywhere, then
# those that 06 shows, too.
PHOTOGRAPH_TABLES = ("against-gem", "shelf-ablation")
MORE_PHOTOGRAPH_TABLES = (
    *(
        "trained-ablation",
        "reranking",
        "reranking-trained",
        "learning-curve",
        "diversity",
        "masks-earlier-cut",
    ),
    *("duplicate-counts", "near-duplicates", "distractors"),
)
SPEED = Path(
    "benchmarks", "results.json"
)  # what `make bench` measured last, below the project's folder
RESULTS = "DAGF_RESULTS"  # set by the report runner: where a notebook leaves its tables and figures


def root() -> Path:
    """The project's folder: `DAGF_ROOT`, else the nearest folder upwards with pyproject.toml and notebooks/."""
    given = os.environ.get(ROOT)
    if given:
        folder = Path(given).resolve()
        if not folder.is_dir():
            raise UserError(f"{ROOT} names {given}, which is no folder")
        return folder
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise UserError(
        f"no project found from {here} upwards: change into the project's folder or set {ROOT}"
    )


def data() -> Path:
    """The folder of data sets and of everything that is generated or downloaded.

    Raises `UserError` where a file is in its place, or in that of the runs or of the cache.
    """
    folder = root() / "data"
    for one in (folder, folder / "runs", folder / "cache"):
        if one.exists() and not one.is_dir():
            raise UserError(
                f"{one} is a file where a folder is needed: move it away, the folder is made anew"
            )
    return folder


def runs() -> Path:
    """The run store: one folder a trained model."""
    return data() / "runs"


def scratch() -> Path:
    """Where notebooks leave their results when a person runs them, and the runner its unfinished work."""
    return data() / "scratch"


def notebooks() -> Path:
    """The folder of the notebooks."""
    return root() / "notebooks"


def reports() -> Path:
    """The folder of the reports of the default profile."""
    return root() / "reports"


def results() -> Path:
    """Where a notebook leaves its results: tables/ and figures/ in it become part of its report."""
    given = os.environ.get(RESULTS)
    return Path(given) if given else scratch()


def table(name: str) -> Path:
    """The path to write the result table `name` to ("main.json", "curves.csv"); its folder is made."""
    return _in(results() / "tables", name)


def figure(name: str) -> Path:
    """The path to write the result figure `name` to ("main.svg"); its folder is made."""
    return _in(results() / "figures", name)


def relative(path: Path) -> str:
    """`path` as seen from the project's folder, to print: only its last part when it lies outside."""
    path, base = path.resolve(), root()
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _in(folder: Path, name: str) -> Path:
    if Path(name).name != name:
        raise UserError(f"'{name}' must be a plain file name, without a folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
