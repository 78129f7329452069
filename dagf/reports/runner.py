"""The report runner: papermill runs each notebook whose report is not fresh, in its own process.

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import filelock

import dagf
from dagf import paths
from dagf.console import HEADLESS, cores
from dagf.errors import UserError, choose
from dagf.files import slug, write_json
from dagf.reports.freshness import (
    ORDER,
    OUTPUT,
    OVERVIEW,
    Report,
    notebooks,
    output_for,
    plan,
)
from dagf.study.provenance import thread_limits

POLL = 0.2  # seconds between two looks at the running notebooks


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
    began, chosen = time.monotonic(), [one for one in _chosen(only) if one != OVERVIEW]
    reports = [plan(name, parameters, output) for name in chosen]
    overview = [plan(OVERVIEW, parameters, output)] if OVERVIEW in notebooks() else []
    out = output_for(parameters, output)
    board = Board(stream or sys.stdout, max(map(len, ORDER)))
    stages = paths.scratch() / "reports" / slug(os.path.relpath(out.pages, paths.root()))
    stages.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{stages}.lock", timeout=0):
            todo = [one for one in reports if force or one.staleness()]
            for one in reports:
                if one not in todo:
                    board.say(one.name, "fresh, kept")
            side_by_side = max(1, min(jobs or min(2, cores()), len(todo)))
            failures = Runner(stages, board, side_by_side).run(todo)
            late = [one for one in overview if force or one.staleness()]
            failures += Runner(stages, board, 1).run(late)
    except filelock.Timeout as error:
        raise UserError(
            "these reports are being made by another run: wait for it, or name another --output"
        ) from error
    if failures:
        raise UserError("\n\n".join(failures))
    took = clock(time.monotonic() - began)
    board.say("total", f"{took}, {len(todo)} run, {len(reports) - len(todo)} kept")
    return out.page(OVERVIEW)


def check_reports(
    parameters: Mapping[str, Any], only: Sequence[str] = (), *, output: Path | None = None
) -> dict[str, str]:
    """Return the reports that are missing or not what their sources would give now, and why."""
    found = {name: plan(name, parameters, output).staleness() for name in _chosen(only)}
    return {name: reason for name, reason in found.items() if reason}


def _chosen(only: Sequence[str]) -> list[str]:
    known = notebooks()
    if not known:
        raise UserError(f"no notebook of the study is in {paths.root() / 'notebooks'}")
    wanted = {choose("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in only}
    return [name for name in known if name in wanted or not wanted]


@dataclass
class Runner:
    """Runs notebooks, several side by side, each in a process of its own."""

    stages: Path
    board: "Board"
    jobs: int
    running: dict[str, tuple[Report, subprocess.Popen[bytes], float]] = field(default_factory=dict)

    def run(self, todo: Sequence[Report]) -> list[str]:
        """Run each of `todo` after those that it needs, unless one of these failed; what failed."""
        waiting, failures = {one.name: one for one in todo}, dict[str, str]()
        try:
            while waiting or self.running:
                for name in list(waiting):
                    needs = set(ORDER.get(name, ()))
                    if needs & failures.keys():
                        failures[waiting.pop(name).name] = ""  # nothing to say of it but this
                        self.board.say(name, "not run")
                    elif len(self.running) < self.jobs and not needs & {*waiting, *self.running}:
                        self._start(waiting.pop(name))
                self.board.show({name: began for name, (_, _, began) in self.running.items()})
                time.sleep(POLL)
                for name in list(self.running):
                    if self.running[name][1].poll() is not None:
                        failures |= self._finish(*self.running.pop(name))
        finally:
            for _, process, _ in self.running.values():
                process.terminate()  # its kernel ends with it
                process.wait()
        return [failure for failure in failures.values() if failure]

    def _start(self, report: Report) -> None:
        stage, threads = self.stages / report.name, max(1, cores() // self.jobs)
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "results").mkdir(parents=True)
        job = {"notebook": report.name, "parameters": report.parameters, "parts": report.parts()}
        write_json(stage / "job.json", {**job, "threads": threads})
        package = str(Path(dagf.__file__).resolve().parents[1])
        environment = {
            **os.environ,
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
        command = [sys.executable, "-m", "dagf.reports.worker", str(stage)]
        with (stage / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.board.say(report.name, "started", plain_only=True)
        self.running[report.name] = report, process, time.monotonic()

    def _finish(
        self, report: Report, process: subprocess.Popen[bytes], began: float
    ) -> dict[str, str]:
        """Say how a notebook ended; return its failure by its name, if it failed."""
        name, stage, took = report.name, self.stages / report.name, clock(time.monotonic() - began)
        if process.returncode == 0:
            lines = report.output.record(name)["warning_lines"]
            self.board.say(name, f"done {took}" + f", {lines} lines of warnings" * (lines > 0))
            shutil.rmtree(stage, ignore_errors=True)
            return {}
        self.board.say(name, f"FAILED {took}")
        reason = f"its process ended with status {process.returncode}"
        if (stage / "error.txt").is_file():
            reason = (stage / "error.txt").read_text(encoding="utf-8")
        elif process.returncode < 0:
            reason = f"killed by signal {-process.returncode}; most often memory was not enough"
        log = stage / ("executed.ipynb" if (stage / "executed.ipynb").is_file() else "log.txt")
        return {name: f"{name}.ipynb: {reason}\n(the whole error is in {paths.relative(log)})"}


def clock(seconds: float) -> str:
    """Return seconds as 00:31 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


@dataclass
class Board:
    """The progress of a run: a line a notebook; on a terminal the last line shows what runs now."""

    stream: TextIO
    width: int

    def say(self, name: str, what: str, plain_only: bool = False) -> None:
        """Write a line that stays."""
        if not (plain_only and self.stream.isatty()):
            self._write(f"{name:<{self.width}}  {what}\n")

    def show(self, began: Mapping[str, float]) -> None:
        """Write the line that is written over: what runs now, and since when."""
        if self.stream.isatty() and began:
            now = time.monotonic()
            line = "   ".join(f"{name}  running {clock(now - at)}" for name, at in began.items())
            self._write(line[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}" if self.stream.isatty() else text)
        self.stream.flush()
