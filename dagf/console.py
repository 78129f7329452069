"""What a terminal shows while work goes on: progress bars, and how many cores there are."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
HEADLESS = "DAGF_HEADLESS"  # set by the report runner: no progress bars, no widgets
QUIET = 30.0  # seconds between two lines in a log
_said = 0.0  # when there was the last one


def headless() -> bool:
    """Whether this is a report run, where a bar or a widget would be frozen into the page."""
    return bool(os.environ.get(HEADLESS))


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def end_with(parent: int) -> None:
    """End this process when its parent is gone: nobody waits for its work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # a notebook's kernel is stopped on this signal

    threading.Thread(target=watch, daemon=True).start()


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = "image",
    amount: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """Yield `items` under a progress bar with rate and time left; each counts as its `amount`.

    Nothing is shown in a report, in a worker process, and in all but torchrun's first process.
    Where nobody looks, as in a log, there is no bar but a line, of all that goes on, every `QUIET`
    seconds.
    """
    global _said
    worker = multiprocessing.parent_process() is not None or os.environ.get("RANK", "0") != "0"
    hidden, stream = worker or headless(), sys.stderr
    live = stream.isatty() or type(stream).__module__.startswith("ipykernel")
    began, count, off = time.monotonic(), 0, hidden or not live
    with tqdm(desc=what, total=total, unit=unit, leave=False, delay=2, disable=off) as bar:
        for item in items:
            yield item
            bar.update(amount(item))
            count, now = count + amount(item), time.monotonic()
            if not (hidden or live) and now - max(began, _said) >= QUIET:
                _said = now
                told = tqdm.format_meter(count, total or 0, now - began, 0, what, unit=unit)
                print(told, file=stream, flush=True)
