"""How things are timed: in turns with their reference, for machines are noisy."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

ROUNDS = 15

Figure = dict[str, Any]  # what was measured, in words, and the numbers: see `__main__.shown`


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(
    work: Callable[[], object], reference: Callable[[], object], rounds: int = ROUNDS
) -> dict[str, float]:
    """Measure `work` and `reference` in turns: the median ratio, and the median seconds of each."""
    work(), reference()  # the first call allocates
    return median_ratio([(seconds(work), seconds(reference)) for _ in range(rounds)])


def median_ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Take the median ratio of pairs (seconds of work, of reference), and the median of each."""
    return {
        "ratio": statistics.median(a / b for a, b in pairs),
        "seconds": statistics.median(a for a, _ in pairs),
        "reference_seconds": statistics.median(b for _, b in pairs),
    }
