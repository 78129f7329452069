"""The report runner: papermill runs each notebook whose report is not fresh; its page and results replace the old.

    run_reports({"profile": "cpu"})                       # -> reports/*.html
    check_reports({"profile": "cpu"})                     # -> what of it is stale, and why

Nothing of an earlier report is touched before its notebook has run to the end.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TextIO

import filelock

import dagf
from dagf import paths
from dagf.console import HEADLESS, cores
from dagf.errors import UserError
from dagf.files import read_json, slug, write_json
from dagf.reports.freshness import (
    Output,
    Project,
    Stale,
    claim_pages,
    output_for,
    records,
    staleness,
)
from dagf.reports.plans import Plan, plan
from dagf.reports.publish import publish, write_index
from dagf.study.provenance import machine, thread_limits

POLL = 0.2  # seconds between two looks at the running notebooks


def run_reports(
    parameters: Mapping[str, Any],
    only: Sequence[str] = (),
    force: bool = False,
    jobs: int | None = None,
    *,
    output: Path | None = None,
    project: Project | None = None,
    stream: TextIO | None = None,
) -> Path:
    """Bring the reports up to date, those of all notebooks or of those named in `only`; the path of their index.

    `force` runs fresh ones too. `jobs` notebooks run side by side (default: 2 where there are two cores), each with
    its share of the cores. `output` is the folder of the reports (default: see `output_for`). A notebook that fails
    leaves its earlier report as it was; a `UserError` says what failed, once those that were running are done.
    """
    project = project or Project.here()
    plans = plan(project, parameters, only)
    out = output_for(parameters, project.root / "reports", output)
    board = Board(stream or sys.stdout, max(len(one.name) for one in plans))
    stages = (
        project.root
        / "data"
        / "scratch"
        / "reports"
        / slug(os.path.relpath(out.pages, project.root))
    )
    with _alone(stages):
        claim_pages(out, parameters, project)
        todo = [one for one in plans if force or staleness(out, one.name, one.parts)]
        for one in plans:
            if one not in todo:
                shutil.rmtree(
                    stages / one.name, ignore_errors=True
                )  # of a run that was killed when it had published
                board.say(one.name, "fresh, kept")
        failures = (
            Runner(project, out, stages, board, _jobs(jobs, len(todo))).run(todo) if todo else []
        )
        write_index(out, records(out, project.names()))
    if failures:
        raise UserError("\n\n".join(failures))
    board.total(len(todo), len(plans) - len(todo))
    return out.pages / "index.html"


def check_reports(
    parameters: Mapping[str, Any],
    only: Sequence[str] = (),
    *,
    output: Path | None = None,
    project: Project | None = None,
) -> list[Stale]:
    """The reports that are missing, or are not what their sources would give now."""
    project = project or Project.here()
    out = output_for(parameters, project.root / "reports", output)
    reasons = {
        one.name: staleness(out, one.name, one.parts) for one in plan(project, parameters, only)
    }
    return [Stale(name, reason) for name, reason in reasons.items() if reason]


@dataclass
class Running:
    """A notebook at work in a process of its own."""

    plan: Plan
    stage: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began


@dataclass
class Runner:
    """Runs notebooks, several side by side, and publishes what they give."""

    project: Project
    output: Output
    stages: Path
    board: "Board"
    jobs: int

    @property
    def threads(self) -> int:
        """The share of the cores that each notebook gets."""
        return max(1, cores() // self.jobs)

    def run(self, todo: Sequence[Plan]) -> list[str]:
        """Run `todo`, each after those that it needs; what failed. After a failure none is started any more."""
        waiting, running, failures = list(todo), list[Running](), list[str]()
        try:
            while running or (waiting and not failures):
                while (
                    not failures
                    and len(running) < self.jobs
                    and (ready := self._ready(waiting, running))
                ):
                    waiting.remove(ready)
                    running.append(self._start(ready))
                self.board.show({one.plan.name: one.seconds for one in running})
                time.sleep(POLL)
                for done in [one for one in running if one.process.poll() is not None]:
                    running.remove(done)
                    failures += self._finish(done)
        finally:
            _stop(running)
        for left in waiting:
            self.board.say(left.name, "not run")
        return failures

    def _ready(self, waiting: Sequence[Plan], running: Sequence[Running]) -> Plan | None:
        unfinished = {one.name for one in waiting} | {one.plan.name for one in running}
        free = (
            one for one in waiting if not unfinished & set(self.project.order.get(one.name, ()))
        )
        return next(free, None)

    def _start(self, one: Plan) -> Running:
        stage = self.stages / one.name
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "results").mkdir(parents=True)
        path, folder = self.project.path(one.name), self.project.notebooks
        write_json(
            stage / "job.json",
            {"notebook": str(path), "folder": str(folder), "parameters": one.parameters},
        )
        log = (stage / "log.txt").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "dagf.reports.worker", str(stage)],
            env=self._environment(stage),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self.board.say(one.name, "started", plain_only=True)
        return Running(one, stage, process, log, time.monotonic())

    def _environment(self, stage: Path) -> dict[str, str]:
        package = str(Path(dagf.__file__).resolve().parents[1])
        search = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            **os.environ,
            **thread_limits(self.threads),
            HEADLESS: "1",
            paths.ROOT: str(self.project.root),
            paths.RESULTS: str(stage / "results"),
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(search),
            "IPYTHONDIR": str(
                stage / "ipython"
            ),  # the start-up files of the person at the keyboard stay out
            "JUPYTER_RUNTIME_DIR": str(stage / "runtime"),
        }

    def _finish(self, one: Running) -> list[str]:
        """Publish what a notebook gave; its failure, if it failed."""
        one.log.close()
        outcome_file = one.stage / "outcome.json"
        outcome = (
            read_json(outcome_file)
            if outcome_file.is_file()
            else {"error": _lost(one.process.returncode)}
        )
        if "error" in outcome:
            self.board.say(one.plan.name, f"FAILED {clock(one.seconds)}")
            return [f"{one.plan.name}.ipynb: {outcome['error']}{self._remains(one.stage)}"]
        self.board.show({one.plan.name: one.seconds})
        publish(self.output, one.plan, self.project, one.stage, self._run_record(one, outcome))
        shutil.rmtree(one.stage, ignore_errors=True)
        warned = (
            f", {outcome['warning_lines']} lines of warnings" if outcome["warning_lines"] else ""
        )
        self.board.say(one.plan.name, f"done {clock(one.seconds)}{warned}")
        return []

    def _run_record(self, one: Running, outcome: Mapping[str, Any]) -> dict[str, Any]:
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return {"seconds": round(one.seconds, 1), "date": date, **outcome, **machine(self.threads)}

    def _remains(self, stage: Path) -> str:
        executed = stage / "executed.ipynb"
        where = executed if executed.is_file() else stage / "log.txt"
        return f"\n(the whole error is in {Path(os.path.relpath(where, self.project.root)).as_posix()})"


def _jobs(jobs: int | None, todo: int) -> int:
    if jobs is not None and jobs < 1:
        raise UserError(f"jobs must be 1 or more, not {jobs}")
    return max(1, min(jobs or min(2, cores()), todo))


def _lost(status: int) -> str:
    reason = (
        f"was killed by signal {-status}; most often the memory was not enough"
        if status < 0
        else "ended early"
    )
    return f"its process {reason}"


def _stop(running: Sequence[Running]) -> None:
    for one in running:
        one.process.terminate()
    for one in running:
        try:
            one.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        one.log.close()


def _alone(stages: Path) -> AbstractContextManager[Any]:
    """A lock, so that two runs do not write the same reports at the same time."""
    stages.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{stages}.lock")
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(
            "these reports are being made by another run: wait for it, or name another --output"
        ) from error


def clock(seconds: float) -> str:
    """Seconds as 00:31 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class Board:
    """The progress of a run: one line a notebook, the running ones kept up to date in the last line of a terminal."""

    def __init__(self, stream: TextIO, width: int) -> None:
        self.stream, self.width, self.tty, self.began = (
            stream,
            width,
            stream.isatty(),
            time.monotonic(),
        )

    def say(self, name: str, what: str, plain_only: bool = False) -> None:
        """A line that stays."""
        if not (plain_only and self.tty):
            self._write(f"{name:<{self.width}}  {what}\n")

    def show(self, running: Mapping[str, float]) -> None:
        """The line that is written over: what runs now."""
        if self.tty and running:
            line = "   ".join(
                f"{name:<{self.width}}  running {clock(seconds)}"
                for name, seconds in running.items()
            )
            self._write(line[: shutil.get_terminal_size().columns - 1])

    def total(self, ran: int, kept: int) -> None:
        """The last line."""
        self._write(
            f"{'total':<{self.width}}  {clock(time.monotonic() - self.began)}, {ran} run, {kept} kept\n"
        )

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}" if self.tty else text)
        self.stream.flush()
