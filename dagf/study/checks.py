"""What would make a figure wrong without a word: collapsed networks, arms that are one and the same."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from dagf.errors import UserError
from dagf.retrieval.search import Descriptors, Rows

SEEN = 1000  # rows by which a collapsed network is known
LEAST = 1e-6  # a difference between two descriptors that single precision can tell
ENOUGH = 200  # labelled images that two arms cannot rank alike by chance


def check_spread(what: str, rows: Rows, asked: Descriptors) -> None:
    """Raise `UserError`, naming `what`, where all descriptors are one: such a network ranks nothing."""
    seen = [np.asarray(part, np.float32) for part in (rows[:SEEN], asked)]
    together = np.concatenate(seen)
    if len(together) > 1 and np.ptp(together, axis=0).max() < LEAST:
        raise UserError(
            f"{what}: every image has the same descriptor, the network has collapsed: train again at a lower rate, or "
            "from other weights"
        )


def alike(positions: Mapping[tuple[str, int], pd.DataFrame]) -> list[str]:
    """A line for each two arms that rank every labelled image alike with every seed: one of them stands for both.

    That may be true (a mask that drops nothing) or a mistake (one network under two names), which is for the reader to
    see. positions: by (arm, seed), `dagf.retrieval.metrics.positions`. Few images, or a perfect ranking, prove nothing.
    """
    above: dict[str, list[int]] = {}
    for (arm, _), where in sorted(positions.items()):
        above.setdefault(arm, []).extend(where["above"])
    return [
        f"the arms {one} and {other} rank all {len(above[one])} labelled images alike: what sets them apart does "
        "nothing here, or they are one network under two names; look at their runs"
        for one, other in combinations(above, 2)
        if above[one] == above[other] and len(above[one]) >= ENOUGH and any(above[one])
    ]
