"""Make one report: `python -m dagf.reports.worker STAGE`, what STAGE/job.json says.

It is a process of its own, started by the runner, since papermill changes the current folder and
thread counts are read when a library is loaded. Only when the notebook has run to its end are its
page and its results put in their places, each at once or not at all, and the record, which says
that they are there, last.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

import dagf
from dagf import paths
from dagf.files import atomic_path, content_hash, read_json, write_json, write_text
from dagf.reports.freshness import OVERVIEW, Report, notebook_path, notebooks, plan
from dagf.reports.page import About, render_page
from dagf.study.provenance import machine

QUOTED = 6  # lines of a failing cell that its message quotes
# What a table on photographs says of its run: the page stays on the machine, the table does not.
MEASURED = ("notebook", "parameters", "content", "date", "cpu", "threads", "gpus", "versions")


def make_report(stage: Path) -> None:
    """Run the notebook of STAGE/job.json and publish its page, its results and its record."""
    began, job = time.monotonic(), read_json(stage / "job.json")
    report = plan(job["notebook"], job["parameters"])
    notebook = papermill.execute_notebook(
        str(notebook_path(report.name)),
        str(stage / "executed.ipynb"),
        parameters=report.parameters,
        kernel_name="python3",  # the notebook may name a kernel that this machine lacks
        language="python",
        cwd=str(paths.root() / "notebooks"),
        progress_bar=False,
        start_timeout=300,  # on a busy machine a kernel takes its time
        request_save_on_cell_execute=False,
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    record = {
        "notebook": report.name,
        "dagf": dagf.__version__,
        "parameters": report.shown_parameters,
        "place": report.place,
        "content": content_hash(job["parts"]),
        "parts": job["parts"],
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "peak_memory_mb": peak_memory_mb(),
        "warning_lines": "".join(warned).count("\n"),
        **machine(job["threads"]),
    }
    publish(report, stage, record)


def publish(report: Report, stage: Path, record: Mapping[str, Any]) -> None:
    """Publish what a notebook left in `stage`; take away what it no longer makes."""
    output, name = report.output, report.name
    files = [*stage.glob("results/tables/*.*"), *stage.glob("results/figures/*.*")]
    results = {file: output.result(file.parent.name, file.name) for file in sorted(files)}
    links = [output.link(place) for place in results.values()]
    pages = {one: output.page(one) for one in notebooks() if one != OVERVIEW}
    if name == OVERVIEW:  # it leads to those that are there
        pages = {one: page for one, page in pages.items() if page.is_file()}
    siblings = [(page.name, one.replace("_", " ")) for one, page in pages.items()]
    shown = (report.shown_parameters, report.helps, record["content"])
    about = About(name, *shown, siblings, links, str(paths.root()))
    page = render_page(stage / "executed.ipynb", about)
    for file, place in results.items():
        if output.photographs and file.suffix == ".json":
            measured = {key: record[key] for key in MEASURED}
            words = {"measured": {"photographs": output.photographs, **measured}}
            write_json(place, read_json(file) | words)
        else:
            with atomic_path(place) as temporary:
                shutil.copyfile(file, temporary)
    write_text(output.page(name), page.html)
    earlier = set(output.record(name).get("files", ()))
    found = {"title": page.title, "summary": page.summary, "files": links}
    write_json(output.record_file(name), {**record, **found})
    for link in earlier.difference(*(one["files"] for one in output.records())):
        (output.pages / link).unlink(missing_ok=True)


def describe(error: Exception) -> str:
    """Return what went wrong in a notebook for the person who ran it, without a traceback."""
    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}"
    if error.ename == "UserError":  # written for people already
        return str(error.evalue)
    lines = error.source.strip().splitlines()
    quoted = [f"    {line}" for line in lines[:QUOTED]] + ["    ..."] * (len(lines) > QUOTED)
    return "\n".join([f"cell [{error.exec_count}]", *quoted, f"{error.ename}: {error.evalue}"])


def peak_memory_mb() -> int | None:
    """Return the most memory that the kernel, or one of its own children, held."""
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def follow(parent: int) -> None:
    """End this process when its parent is gone: a killed run must not train on unseen."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # nbclient stops the kernel on this signal


def main(stage: Path) -> None:
    """Make the report of a stage, or leave in STAGE/error.txt why there is none."""
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    try:
        make_report(stage)
    except Exception as error:  # whatever it was, the runner has to print it
        write_text(stage / "error.txt", describe(error))
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
