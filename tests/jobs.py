"""What processes of `tests.forks` do: each step of the study, on the smallest data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

from dagf.analysis.tables import keep_table
from dagf.collections.index import Collection, build, open_encoder
from dagf.datasets import download as downloads
from dagf.datasets.download import get
from dagf.datasets.public import DataSet
from dagf.errors import UserError, place_fault
from dagf.files import write_json
from dagf.paths import ROOT
from dagf.reports import runner
from dagf.reports.freshness import OVERVIEW, Report
from dagf.retrieval import extract as extraction
from dagf.study import parallel
from dagf.study.study import open_study
from tests.fixtures import Workshop, configured, training_set
from tests.reports.notebooks import KERNEL, write_notebook

PAGE = nbformat.v4.new_markdown_cell("# A page\n\nWhat it says.")
EXECUTED = nbformat.v4.new_notebook(cells=[PAGE], metadata=KERNEL)
FIRST_PHOTOS = 30  # of which there is a collection before


def download(folder: Path, port: int, sums: dict[str, str]) -> None:
    """Get a set of two archives and a plain file, and the set that it needs."""
    downloads.PAUSE = 0.001

    def file(name: str, **more: Any) -> dict[str, Any]:
        mirrors = [f"http://127.0.0.1:{port}/{name}"]
        return {"file": name, "mirrors": mirrors, "sha256": sums[name], **more}

    archives = [file(name, members="(.+)", into="jpg") for name in ("a.tgz", "b.zip")]
    photos = {"needs": ["truth"], "files": [*archives, file("list.csv")]}
    photos["holds"] = {"jpg/*": 5, "list.csv": 1}
    truth = {"files": [file("gnd.json")], "holds": {"gnd.json": 1}}
    sets = [
        DataSet(name=name, title=name, folder=f"test/{name}", **one)
        for name, one in (("photos", photos), ("truth", truth))
    ]
    get(["photos"], {one.name: one for one in sets}, folder, lambda line: None)


def train(folder: Path, photographs: str, **changes: Any) -> None:
    """Train a run."""
    Workshop(folder, training_set(Path(photographs))).train(configured(epochs=3, **changes))


def extract(folder: Path, home: str, run: str, photos: str) -> None:
    """Bring a collection that knows the first of the photographs up to all of them."""
    os.environ[ROOT] = home
    extraction.SHARD = 8
    build(sorted(Path(photos).glob("*.jpg")), open_encoder(run), folder / "index")


def index(folder: Path, home: str, photos: str) -> None:
    """Build the FAISS index of a collection, and ask it."""
    os.environ[ROOT] = home
    photo = sorted(Path(photos).glob("*.jpg"))[5]
    found = Collection.load(folder / "index").search(photo, 4, approximate=True)
    write_json(folder / "found.json", found)


def study(folder: Path, profile: str) -> None:
    """Draw, train, judge, and keep the table."""
    os.environ[ROOT] = str(folder)
    parallel.cores = lambda: 1  # no processes of its own: they take seconds to start
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "pyproject.toml").touch()
    table = open_study(profile).table()
    keep_table("main", table.round(6), "Main", "What was measured.")


async def _told(report: Report, stage: Path, threads: int) -> dict[str, Any]:
    """A notebook that has run at once: what is made of it is tried here."""
    nbformat.write(EXECUTED, stage / "executed.ipynb")
    results = (("tables", "main.json"), ("figures", "main.svg"))
    for kind, name in results if report.name != OVERVIEW else ():
        (stage / "results" / kind).mkdir()
        result = stage / "results" / kind / name
        result.write_text('{"columns": ["a"], "rows": [[2]], "alt": ""}')
    record = {"notebook": report.name, "parts": report.parts(), "content": "c0ffee"}
    return record | {"parameters": report.parameters, "dagf": "1", "warning_lines": 0}


def report(folder: Path) -> None:
    """Make the report of a notebook that has changed since the last report."""
    os.environ[ROOT] = str(folder)
    runner.execute = _told
    runner.run_reports({"profile": "cpu"}, jobs=1)


def make_project(folder: Path) -> None:
    """A project with two notebooks and the overview."""
    (folder / "data").mkdir(parents=True)
    for name in ("00_overview", "01_data_and_protocol", "02_training"):
        write_notebook(folder / "notebooks" / f"{name}.ipynb", "1 + 1")


JOBS: dict[str, Callable[..., None]] = {
    "downloading": download,
    "training": train,
    "extraction": extract,
    "indexing": index,
    "study": study,
    "reporting": report,
}


def told(error: BaseException) -> str:
    """What the command line says of an error; '' where it is a traceback."""
    if isinstance(error, UserError):
        return str(error)
    return place_fault(error) if isinstance(error, OSError) else ""
