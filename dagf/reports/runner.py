"""Run notebooks, each whose report is not fresh in a kernel of its own, and publish their pages.

    run_reports({"profile": "cpu"})                       # -> reports/*.html
    check_reports({"profile": "cpu"})                     # -> what of it is stale, and why

Nothing of an earlier report is touched before its notebook has run to the end. Then its page and
its results are put in their places, each at once or not at all, and the record, which says that
they are there, last.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import indent
from typing import Any

import filelock
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook

import dagf
from dagf import paths
from dagf.console import HEADLESS, cores
from dagf.errors import UserError, choose
from dagf.files import atomic_path, content_hash, read_json, slug, write_json, write_text
from dagf.reports.freshness import OUTPUT, OVERVIEW, STAGES, Report, notebook_path, notebooks, plan
from dagf.reports.page import render_page
from dagf.study.provenance import PACKAGE, machine

EXECUTED = "executed.ipynb"  # what a run leaves in its stage
# What a table on photographs says of its run: the page stays on the machine, the table does not.
MEASURED = ("notebook", "parameters", "content", "date", "cpu", "threads", "gpus", "versions")


def run_reports(
    parameters: Mapping[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    jobs: int | None = None,
    output: Path | None = None,
) -> Path:
    """Bring the reports up to date, all or those named in `only`, then the index; return its page.

    `force` runs fresh ones too. `jobs` notebooks run side by side (2 where there are two cores),
    each with its share of the cores. output: the folder of the reports (see `output_for`). Where a
    notebook fails its earlier report stays as it was, later stages are not run but for the index,
    and a `UserError` says what failed.
    """
    began, reports = time.monotonic(), _planned(parameters, only, output)
    others = [one for one in reports if one.name != OVERVIEW]
    index = plan(OVERVIEW, parameters, output)
    stages = paths.scratch() / "reports" / slug(os.path.relpath(index.output.pages, paths.root()))
    stages.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{stages}.lock", timeout=0):
            todo = [one for one in others if force or one.staleness()]
            for one in others:
                if one not in todo:
                    say(one.name, "fresh, kept")
            jobs = max(1, min(jobs or min(2, cores()), len(todo)))
            failures = asyncio.run(_run(todo, stages, jobs))
            if force or index.staleness():  # it shows the records, which are new
                failures += asyncio.run(_run([index], stages, 1))
    except filelock.Timeout as error:
        raise UserError(
            "these reports are being made by another run: wait for it, or name another --output"
        ) from error
    if failures:
        raise UserError("\n\n".join(failures))
    say("total", f"{clock(began)}, {len(todo)} run, {len(others) - len(todo)} kept")
    return index.output.page(OVERVIEW)


def check_reports(
    parameters: Mapping[str, Any], only: Sequence[str] = (), output: Path | None = None
) -> dict[str, str]:
    """Return the reports that are missing or not what their sources would give now, and why."""
    reports = _planned(parameters, only, output)
    return {one.name: reason for one in reports if (reason := one.staleness())}


def _planned(given: Mapping[str, Any], only: Sequence[str], output: Path | None) -> list[Report]:
    known = notebooks()
    wanted = {choose("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in only}
    return [plan(name, given, output) for name in known if name in wanted or not wanted]


async def _run(reports: Sequence[Report], folder: Path, jobs: int) -> list[str]:
    """Run reports stage by stage, until one fails; return why, of each that failed."""
    failures, free = list[str](), asyncio.Semaphore(jobs)
    # What nbclient leaves behind after Ctrl-C has nobody to hear of it.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for stage in (*STAGES, (OVERVIEW,)):
        due = [one for one in reports if one.name in stage]
        threads = max(1, cores() // max(1, min(jobs, len(due))))  # 07 measures with all
        if failures:
            for one in due:
                say(one.name, "not run")
        else:
            made = (_make(one, folder / one.name, free, threads) for one in due)
            failures = [*filter(None, await asyncio.gather(*made))]
    return failures


async def _make(report: Report, stage: Path, free: asyncio.Semaphore, threads: int) -> str:
    """Run the notebook of a report and publish it; return why it failed, "" where it did not."""
    name = report.name
    async with free:
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "results").mkdir(parents=True)
        say(name, f"started at {datetime.now():%H:%M}")
        began = time.monotonic()
        try:
            record = await execute(report, stage, threads)
        except UserError as error:
            say(name, f"FAILED {clock(began)}")
            return f"{name}.ipynb: {error}\n(the whole error is in {paths.relative(stage)})"
        publish(report, stage, record)
        lines = record["warning_lines"]
        say(name, f"done {clock(began)}" + f", {lines} lines of warnings" * (lines > 0))
        shutil.rmtree(stage, ignore_errors=True)
    return ""


def say(name: str, what: str) -> None:
    print(f"{name:<26}  {what}", flush=True)  # as wide as the longest name


def clock(began: float) -> timedelta:
    return timedelta(seconds=round(time.monotonic() - began))


async def execute(report: Report, stage: Path, threads: int) -> dict[str, Any]:
    """Run the notebook of a report; return the record of its run.

    It leaves the notebook, as far as it ran, and what its kernel printed in the folder `stage`.
    Raise `UserError` where it fails: with the cell, or the words of a mistake, and no traceback.
    """
    began, parts = time.monotonic(), report.parts()
    kernel = {"kernel_name": "python3", "language": "python"}  # the named one may be lacking here
    loaded = load_notebook_node(str(notebook_path(report.name)))
    notebook = parameterize_notebook(loaded, report.parameters, **kernel)
    del notebook.metadata["papermill"]  # the parameters again, and a folder's name may be no text
    package = str(PACKAGE.parent)
    environment = {
        **os.environ,
        **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
        HEADLESS: "1",
        paths.ROOT: str(paths.root()),
        paths.RESULTS: str(stage / "results"),
        OUTPUT: str(report.output.root.resolve()),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", package)]),
        "IPYTHONDIR": str(stage / "ipython"),  # the person's own start-up files stay out
        "PYTHONSTARTUP": "",
        "MATPLOTLIBRC": os.devnull,
        "MPLBACKEND": "",  # the kernel has its own
    }
    client = NotebookClient(notebook, timeout=None, startup_timeout=300, kernel_name="python3")
    client.km = client.create_kernel_manager()
    # This interpreter's kernel, whatever is installed by the name.
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    client.km.connection_file = str(stage / "kernel.json")
    try:
        with (stage / "log.txt").open("w") as log:
            folder = str(paths.root() / "notebooks")
            await client.async_start_new_kernel(env=environment, cwd=folder, stdout=log, stderr=log)
        await client.async_start_new_kernel_client()
        for number, cell in enumerate(notebook.cells):
            await client.async_execute_cell(cell, number)
        memory = peak_memory_mb(client.km)
    except CellExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from error
        source = indent(cell.source.strip(), "    ")
        raise UserError(
            f"cell [{cell.execution_count}]\n{source}\n{error.ename}: {error.evalue}"
        ) from error
    except DeadKernelError as error:
        raise UserError("it was killed; most often memory was not enough") from error
    except RuntimeError as error:  # nbclient's, which has cleaned up
        raise UserError(f"its kernel did not start: {error}") from error
    finally:
        if client.km:
            await client._async_cleanup_kernel()
        write_ipynb(notebook, str(stage / EXECUTED))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    warned = [output.text for output in outputs if output.get("name") == "stderr"]
    return {
        "notebook": report.name,
        "dagf": dagf.__version__,
        "parameters": report.shown_parameters,
        "content": content_hash(parts),
        "parts": parts,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "peak_memory_mb": memory,
        "warning_lines": "".join(warned).count("\n"),
        **machine(threads),
    }


def publish(report: Report, stage: Path, record: dict[str, Any]) -> None:
    """Publish what a notebook left in `stage`; take away what it no longer makes."""
    output, name = report.output, report.name
    files = sorted(stage.glob("results/*/*.*"))
    results = {file: output.result(file.parent.name, file.name) for file in files}
    record["files"] = [output.link(place) for place in results.values()]
    siblings = [one for one in notebooks() if one != OVERVIEW]
    there = [one for one in siblings if output.page(one).is_file()]
    about = {**record, "siblings": there if name == OVERVIEW else siblings}
    page, record["title"], record["summary"] = render_page(stage / EXECUTED, about, paths.root())
    for file, place in results.items():
        if output.photographs and file.suffix == ".json":
            measured = {key: record[key] for key in MEASURED}
            words = {"measured": {"photographs": output.photographs, **measured}}
            write_json(place, read_json(file) | words)
        else:
            with atomic_path(place) as temporary:
                shutil.copyfile(file, temporary)
    write_text(output.page(name), page)
    earlier = set(output.record(name).get("files", ()))
    write_json(output.record_file(name), record)
    for link in earlier.difference(*(one["files"] for one in output.records())):
        (output.pages / link).unlink(missing_ok=True)


def peak_memory_mb(kernel: Any) -> int | None:
    """Return the most memory that a kernel held; None where the system has no such files."""
    file = Path(f"/proc/{kernel.provisioner.pid}/status")
    found = re.search(r"VmHWM:\s+(\d+)", file.read_text()) if file.is_file() else None
    return round(int(found[1]) / 2**10) if found else None
