"""How things are timed: in turns with their reference, for machines are noisy."""

import statistics
import time
from collections.abc import Callable

ROUNDS = 15


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(work: Callable[[], object], reference: Callable[[], object], rounds: int = ROUNDS) -> dict[str, float]:
    """The median ratio of `work` to `reference`, measured in turns, and the median seconds of each."""
    work(), reference()  # the first call allocates
    pairs = [(seconds(work), seconds(reference)) for _ in range(rounds)]
    return {
        "ratio": statistics.median(a / b for a, b in pairs),
        "seconds": statistics.median(a for a, _ in pairs),
        "reference_seconds": statistics.median(b for _, b in pairs),
    }
