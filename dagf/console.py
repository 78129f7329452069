"""What a terminal shows while work goes on: progress bars, and how many cores there are."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
HEADLESS = "DAGF_HEADLESS"  # set by the report runner: no progress bars, no widgets


def headless() -> bool:
    """True inside a report run, where a bar or a widget would be frozen into the page."""
    return bool(os.environ.get(HEADLESS))


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = "image",
    amount: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """`items`, with a progress bar (rate and time left) unless the run is headless; each counts as its `amount`.

    Of the processes that torchrun started the first shows its own; a worker process none, for who started it has one.
    """
    if _silent():
        yield from items
        return
    from tqdm.auto import (
        tqdm,  # it imports IPython's widgets: half a second that a drawing process need not spend
    )

    with tqdm(desc=what, total=total, unit=unit, leave=False, delay=2) as bar:
        for item in items:
            yield item
            bar.update(amount(item))


@contextmanager
def announced(what: str) -> Iterator[None]:
    """`what` on a line of its own, where a bar would be, while work goes on that cannot say how far it is."""
    if _silent():
        yield
        return
    from tqdm.auto import tqdm

    with tqdm(desc=what, bar_format="{desc}", leave=False):
        yield


def _silent() -> bool:
    return (
        headless()
        or os.environ.get("RANK", "0") != "0"
        or multiprocessing.parent_process() is not None
    )
