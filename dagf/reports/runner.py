"""Run notebooks, each whose report is not fresh in a process of its own, and publish their pages.

    run_reports({"profile": "cpu"})                       # -> reports/*.html
    check_reports({"profile": "cpu"})                     # -> what of it is stale, and why

Nothing of an earlier report is touched before its notebook has run to the end. Then its page and
its results are put in their places, each at once or not at all, and the record, which says that
they are there, last.
"""

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import indent
from typing import Any, TextIO

import filelock
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

import dagf
from dagf import paths
from dagf.console import HEADLESS, cores, end_with
from dagf.errors import UserError, choose
from dagf.files import atomic_path, content_hash, read_json, slug, write_json, write_text
from dagf.reports.freshness import ORDER, OUTPUT, OVERVIEW, Report, notebook_path, notebooks, plan
from dagf.reports.page import render_page
from dagf.study.provenance import PACKAGE, machine, thread_limits

EXECUTED, ERROR = "executed.ipynb", "error.txt"  # what a run leaves in its stage
CONTEXT = multiprocessing.get_context("spawn")
POLL = 0.2  # seconds between two looks at the running notebooks
# What a table on photographs says of its run: the page stays on the machine, the table does not.
MEASURED = ("notebook", "parameters", "content", "date", "cpu", "threads", "gpus", "versions")


def run_reports(
    parameters: Mapping[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    jobs: int | None = None,
    *,
    output: Path | None = None,
    stream: TextIO | None = None,
) -> Path:
    """Bring the reports up to date, all or those named in `only`, then the index; return its path.

    `force` runs fresh ones too. `jobs` notebooks run side by side (2 where there are two cores),
    each with its share of the cores. output: the folder of the reports (see `output_for`). Where a
    notebook fails its earlier report stays as it was, those that build on it are not run, and a
    `UserError` says what failed once all others are done.
    """
    began, overview = time.monotonic(), plan(OVERVIEW, parameters, output)
    reports = [one for one in _planned(parameters, only, output) if one.name != OVERVIEW]
    pages = os.path.relpath(overview.output.pages, paths.root())
    stages = paths.scratch() / "reports" / slug(pages)
    stages.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{stages}.lock", timeout=0):
            todo = [one for one in reports if force or one.staleness()]
            side_by_side = max(1, min(jobs or min(2, cores()), len(todo)))
            runner = Runner(stages, side_by_side, stream or sys.stdout)
            for one in reports:
                if one not in todo:
                    runner.say(one.name, "fresh, kept")
            runner.run(todo)
            runner.run([overview] if force or overview.staleness() else [])
    except filelock.Timeout as error:
        raise UserError(
            "these reports are being made by another run: wait for it, or name another --output"
        ) from error
    if runner.failures:
        raise UserError("\n\n".join(filter(None, runner.failures.values())))
    kept = len(reports) - len(todo)
    runner.say("total", f"{clock(began)}, {len(todo)} run, {kept} kept")
    return overview.output.page(OVERVIEW)


def check_reports(
    parameters: Mapping[str, Any], only: Sequence[str] = (), *, output: Path | None = None
) -> dict[str, str]:
    """Return the reports that are missing or not what their sources would give now, and why."""
    reports = _planned(parameters, only, output)
    return {one.name: reason for one in reports if (reason := one.staleness())}


def _planned(given: Mapping[str, Any], only: Sequence[str], output: Path | None) -> list[Report]:
    known = notebooks()
    if not known:
        raise UserError(f"no notebook of the study is in {paths.root() / 'notebooks'}")
    wanted = {choose("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in only}
    return [plan(name, given, output) for name in known if name in wanted or not wanted]


@dataclass
class Runner:
    """Runs notebooks, several side by side, and says how they end."""

    stages: Path
    jobs: int
    stream: TextIO
    running: dict[str, tuple[Any, float]] = field(default_factory=dict)  # its process, its start
    failures: dict[str, str] = field(default_factory=dict)  # why; "" if it was not run for another

    def say(self, name: str, what: str) -> None:
        """Write a line that stays."""
        tqdm.write(f"{name:<{max(map(len, ORDER))}}  {what}", self.stream)

    def run(self, todo: Sequence[Report]) -> None:
        """Run each of `todo` after those that it needs, unless one of these failed.

        On a terminal the last line shows what runs now, and since when.
        """
        made, terminal = dict[str, Future[None]](), self.stream.isatty()
        with (
            tqdm(bar_format="{desc}", file=self.stream, leave=False, disable=not terminal) as line,
            ThreadPoolExecutor(self.jobs) as pool,
        ):
            for report in todo:  # what waits for another cannot block it: that one began before it
                needs = [made[one] for one in ORDER.get(report.name, ()) if one in made]
                made[report.name] = pool.submit(self._make, report, needs)
            try:
                while wait(made.values(), POLL).not_done:
                    running = [(name, began) for name, (_, began) in [*self.running.items()]]
                    words = [f"{name}  running {clock(began)}" for name, began in running]
                    width = shutil.get_terminal_size().columns - 1
                    line.set_description_str("   ".join(words)[:width])
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process, _ in list(self.running.values()):
                    process.terminate()  # its kernel ends with it
        for one in made.values():
            one.result()

    def _make(self, report: Report, needs: Sequence[Future[None]]) -> None:
        name, stage = report.name, self.stages / report.name
        wait(needs)
        if self.failures.keys() & ORDER.get(name, ()):
            self.failures[name] = ""
            self.say(name, "not run")
            return
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "results").mkdir(parents=True)
        arguments = (report, stage, max(1, cores() // self.jobs), os.getpid())
        process, began = CONTEXT.Process(target=make_report, args=arguments), time.monotonic()
        self.say(name, "started")
        process.start()
        self.running[name] = process, began
        process.join()
        del self.running[name]
        if process.exitcode == 0:
            lines = report.output.record(name)["warning_lines"]
            self.say(name, f"done {clock(began)}" + f", {lines} lines of warnings" * (lines > 0))
            shutil.rmtree(stage, ignore_errors=True)
            return
        self.say(name, f"FAILED {clock(began)}")
        reason = f"it was killed ({process.exitcode}); most often memory was not enough"
        if (stage / ERROR).is_file():
            reason = (stage / ERROR).read_text(encoding="utf-8")
        whole = f"(the whole error is in {paths.relative(stage)})"
        self.failures[name] = f"{name}.ipynb: {reason}\n{whole}"


def clock(began: float) -> timedelta:
    """Return the time since `began`, in whole seconds."""
    return timedelta(seconds=round(time.monotonic() - began))


def make_report(report: Report, stage: Path, threads: int, parent: int) -> None:
    """Run a notebook in this process, which ends with its `parent`, and publish its report.

    It leaves the notebook as it ran, what it printed, and why it failed in the folder `stage`.
    """
    log = os.open(stage / "log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    end_with(parent)
    package = str(PACKAGE.parent)
    os.environ |= {
        **thread_limits(threads),
        HEADLESS: "1",
        paths.ROOT: str(paths.root()),
        paths.RESULTS: str(stage / "results"),
        OUTPUT: str(report.output.root.resolve()),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", package)]),
        # The start-up files of the person at the keyboard stay out.
        "IPYTHONDIR": str(stage / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(stage / "runtime"),
    }
    try:
        publish(report, stage, execute(report, stage, threads))
    except Exception as error:  # whatever it was, the runner has to print it
        write_text(stage / ERROR, describe(error))
        sys.exit(1)


def execute(report: Report, stage: Path, threads: int) -> dict[str, Any]:
    """Run the notebook of a report; return the record of its run."""
    began, parts = time.monotonic(), report.parts()
    notebook = papermill.execute_notebook(
        str(notebook_path(report.name)),
        str(stage / EXECUTED),
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
    return {
        "notebook": report.name,
        "dagf": dagf.__version__,
        "parameters": report.shown_parameters,
        "place": report.place,
        "content": content_hash(parts),
        "parts": parts,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "peak_memory_mb": peak_memory_mb(),
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
    if name == OVERVIEW:  # it leads to those that are there
        siblings = [one for one in siblings if output.page(one).is_file()]
    about = {**record, "siblings": siblings}
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


def describe(error: Exception) -> str:
    """Return what went wrong in a notebook for the person who ran it, without a traceback."""
    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}"
    if error.ename == "UserError":  # written for people already
        return str(error.evalue)
    source = indent(error.source.strip(), "    ")
    return f"cell [{error.exec_count}]\n{source}\n{error.ename}: {error.evalue}"


def peak_memory_mb() -> int | None:
    """Return the most memory that the kernel, or one of its own children, held."""
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
