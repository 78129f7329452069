"""Runs one notebook with papermill: `python -m dagf.reports.worker STAGE`, started by `notebooks.py`.

A process of its own, since papermill changes the current folder and since thread counts are read when a library is
loaded. What to do is in STAGE/job.json; the run is left in STAGE/executed.ipynb and STAGE/outcome.json.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dagf.files import read_json, write_json

SHOWN = 6  # lines of a failing cell that its message quotes


def describe(error: Exception) -> str:
    """What went wrong in a notebook, for the person who ran it: no traceback through the machinery."""
    from papermill.exceptions import PapermillExecutionError

    if not isinstance(error, PapermillExecutionError):
        if type(error).__name__ == "DeadKernelError":
            return "its kernel died: most often the memory was not enough"
        return f"{type(error).__name__}: {error}"
    if error.ename == "UserError":  # written for people already
        return str(error.evalue)
    lines = error.source.strip().splitlines()
    quoted = [f"    {line}" for line in lines[:SHOWN]] + (["    ..."] if len(lines) > SHOWN else [])
    return "\n".join([f"cell [{error.exec_count}]", *quoted, f"{error.ename}: {error.evalue}"])


def execute(stage: Path) -> dict[str, Any]:
    """Run the notebook of STAGE/job.json; what came of it."""
    import papermill

    job = read_json(stage / "job.json")
    try:
        executed = papermill.execute_notebook(
            job["notebook"],
            str(stage / "executed.ipynb"),
            parameters=job["parameters"],
            kernel_name="python3",  # the notebook's own name may be of a kernel that this machine lacks
            language="python",
            cwd=job["folder"],
            progress_bar=False,
            start_timeout=300,  # on a busy machine a kernel takes its time
            request_save_on_cell_execute=False,
        )
    except Exception as error:  # whatever it was, the runner has to print it
        return {"error": describe(error)}
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    warned = sum(output.text.count("\n") for output in outputs if output.get("name") == "stderr")
    return {"peak_memory_mb": peak_memory_mb(), "warning_lines": warned}


def peak_memory_mb() -> int | None:
    """The most memory that a finished child process (the kernel) or one of its own children held."""
    if sys.platform == "win32":
        return None
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def follow(parent: int) -> None:
    """End this process when its parent is gone: a killed run must not go on training in the background."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)  # nbclient stops the kernel on this signal


def main(stage: Path) -> None:
    """Run the job in `stage` and leave its outcome."""
    threading.Thread(target=follow, args=(os.getppid(),), daemon=True).start()
    write_json(stage / "outcome.json", execute(stage))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
