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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

import filelock

import dagf
from dagf import paths
from dagf.console import HEADLESS, cores
from dagf.errors import UserError, choose
from dagf.files import content_hash, slug, write_json, write_text
from dagf.reports.freshness import (
    ORDER,
    OUTPUT,
    OVERVIEW,
    Output,
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
    reports = [plan(name, parameters, output) for name in _chosen(only)]
    overview = plan(OVERVIEW, parameters, output) if OVERVIEW in notebooks() else None
    reports = [one for one in reports if one.name != OVERVIEW]
    out = output_for(parameters, output)
    board = Board(stream or sys.stdout, max(map(len, ORDER)))
    stages = paths.scratch() / "reports" / slug(os.path.relpath(out.pages, paths.root()))
    stages.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(f"{stages}.lock", timeout=0):
            _claim(out, str(parameters.get("benchmark", "")))
            todo = [one for one in reports if force or one.staleness()]
            for one in reports:
                if one not in todo:
                    board.say(one.name, "fresh, kept")
            side_by_side = max(1, min(jobs or min(2, cores()), len(todo)))
            failures = Runner(stages, board, side_by_side).run(todo)
            if overview and (force or overview.staleness()):
                failures += Runner(stages, board, 1).run([overview])
    except filelock.Timeout as error:
        raise UserError(
            "these reports are being made by another run: wait for it, or name another --output"
        ) from error
    if failures:
        raise UserError("\n\n".join(failures))
    board.total(len(todo), len(reports) - len(todo))
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
        raise UserError(f"no notebook of the study is in {paths.notebooks()}")
    wanted = {choose("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in only}
    return [name for name in known if name in wanted or not wanted]


@dataclass
class Running:
    """A notebook at work in a process of its own."""

    report: Report
    stage: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.began


@dataclass
class Runner:
    """Runs notebooks, several side by side."""

    stages: Path
    board: "Board"
    jobs: int

    def run(self, todo: Sequence[Report]) -> list[str]:
        """Run each of `todo` after those that it needs, unless one of these failed; what failed."""
        waiting, running = {one.name: one for one in todo}, dict[str, Running]()
        failures = dict[str, str]()  # by notebook; "" for one that was not run
        try:
            while waiting or running:
                for name in list(waiting):
                    needs = set(ORDER.get(name, ()))
                    if needs & failures.keys():
                        failures[waiting.pop(name).name] = ""
                        self.board.say(name, "not run")
                    elif len(running) < self.jobs and not needs & {*waiting, *running}:
                        running[name] = self._start(waiting.pop(name))
                self.board.show({name: one.seconds for name, one in running.items()})
                time.sleep(POLL)
                for name in [
                    name for name, one in running.items() if one.process.poll() is not None
                ]:
                    failures |= self._finish(running.pop(name))
        finally:
            _stop(running.values())
        return [failure for failure in failures.values() if failure]

    def _start(self, report: Report) -> Running:
        stage, threads = self.stages / report.name, max(1, cores() // self.jobs)
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "results").mkdir(parents=True)
        job = {"notebook": report.name, "parameters": report.parameters, "parts": report.parts()}
        write_json(stage / "job.json", {**job, "threads": threads})
        log = (stage / "log.txt").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "dagf.reports.worker", str(stage)],
            env=self._environment(stage, threads, report.output),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        self.board.say(report.name, "started", plain_only=True)
        return Running(report, stage, process, log)

    @staticmethod
    def _environment(stage: Path, threads: int, output: Output) -> dict[str, str]:
        package = str(Path(dagf.__file__).resolve().parents[1])
        search = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        return {
            **os.environ,
            **thread_limits(threads),
            HEADLESS: "1",
            paths.ROOT: str(paths.root()),
            paths.RESULTS: str(stage / "results"),
            OUTPUT: str(output.root.resolve()),
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join(search),
            # The start-up files of the person at the keyboard stay out.
            "IPYTHONDIR": str(stage / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(stage / "runtime"),
        }

    def _finish(self, one: Running) -> dict[str, str]:
        """Say how a notebook ended; return its failure by its name, if it failed."""
        one.log.close()
        name, error, status = one.report.name, one.stage / "error.txt", one.process.returncode
        if not status:
            lines = one.report.output.record(name)["warning_lines"]
            warned = f", {lines} lines of warnings" if lines else ""
            self.board.say(name, f"done {clock(one.seconds)}{warned}")
            shutil.rmtree(one.stage, ignore_errors=True)
            return {}
        self.board.say(name, f"FAILED {clock(one.seconds)}")
        reason = error.read_text(encoding="utf-8") if error.is_file() else _lost(status)
        log = next(
            one.stage / file
            for file in ("executed.ipynb", "log.txt")
            if (one.stage / file).is_file()
        )
        return {name: f"{name}.ipynb: {reason}\n(the whole error is in {paths.relative(log)})"}


def _lost(status: int) -> str:
    if status < 0:
        return f"its process was killed by signal {-status}; most often the memory was not enough"
    return "its process ended early"


def _stop(running: Iterable[Running]) -> None:
    for one in running:
        one.process.terminate()  # its kernel ends with it
    for one in running:
        one.process.wait()
        one.log.close()


def _claim(output: Output, benchmark: str) -> None:
    """Keep, as a hash, of which folder of photographs an output is.

    Raises `UserError` where it is that of another folder of the same name: its tables are kept.
    """
    if not output.photographs:
        return
    inside = Path(benchmark).is_relative_to(paths.root())  # a project takes its folders with it
    own = content_hash(os.path.relpath(benchmark, paths.root()) if inside else benchmark)
    mark = output.pages / ".folder"
    if mark.is_file() and mark.read_text(encoding="utf-8") != own and output.records():
        raise UserError(
            f"{output.pages} holds the reports on another folder that is called "
            f"{Path(benchmark).name}, too: name another --output, or delete {output.pages} if that "
            f"folder was moved"
        )
    write_text(mark, own)


def clock(seconds: float) -> str:
    """Return seconds as 00:31 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


class Board:
    """The progress of a run: a line a notebook; on a terminal the last line shows what runs now."""

    def __init__(self, stream: TextIO, width: int) -> None:
        self.stream, self.width, self.began = stream, width, time.monotonic()

    def say(self, name: str, what: str, plain_only: bool = False) -> None:
        """Write a line that stays."""
        if not (plain_only and self.stream.isatty()):
            self._write(f"{name:<{self.width}}  {what}\n")

    def show(self, running: Mapping[str, float]) -> None:
        """Write the line that is written over: what runs now."""
        if self.stream.isatty() and running:
            line = "   ".join(f"{name}  running {clock(took)}" for name, took in running.items())
            self._write(line[: shutil.get_terminal_size().columns - 1])

    def total(self, ran: int, kept: int) -> None:
        """Write the last line."""
        took = clock(time.monotonic() - self.began)
        self.say("total", f"{took}, {ran} run, {kept} kept")

    def _write(self, text: str) -> None:
        self.stream.write(f"\r\x1b[K{text}" if self.stream.isatty() else text)
        self.stream.flush()
