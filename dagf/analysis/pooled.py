"""DAGF minus GeM over several sets of photographs, pooled from the tables that their studies kept.

A set counts by its first query set. What is pooled had one profile, one training set and one file
of weights, and of several benchmarks on the photographs of one folder (all of it, and a ground
truth of its own) the first by name counts: the others ask for the same things.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dagf.analysis.tables import CHOSEN, GEM, UNTRAINED
from dagf.files import read_json
from dagf.retrieval.statistics import CONFIDENCE, Interval, random_effects

AGAINST = "against-gem"  # the table, of which each set has one
WORDS = (
    "mAP points, random-effects mean over the sets [95 %] (DerSimonian and Laird). The standard "
    "error of a set is that of its joint interval taken as normal, so rather too large. Between "
    "sets: the standard deviation of their effects. Exploratory."
)


def pooled(folder: Path) -> pd.DataFrame:
    """Return a row for DAGF, as it is and whitened, minus each GeM, of two sets or more.

    folder: of the kept tables. Columns: profile, trained on, what, minus, sets (with the difference
    on each), difference [95 %], between sets (points).
    """
    studies = defaultdict[Any, dict[str, Any]](dict)
    for file in sorted(folder.glob(f"[!.]*.{AGAINST}.json")):
        record = read_json(file)
        of = record.get("measured", {}).get("parameters", {})
        name = file.name.removesuffix(f".{AGAINST}.json")
        home = Path(of.get("benchmark") or name).parts[0]
        learned = of.get("train_on") or [home]  # a name alone in older tables
        learned = learned if isinstance(learned, str) else ", ".join(learned)
        about = of.get("profile", ""), learned, of.get("weights", "")
        studies[about].setdefault(home, (name, record))
    rows = []
    for (profile, learned, weights), sets in studies.items():
        found = defaultdict[Any, list[tuple[str, float, float]]](list)
        for name, record in sets.values():
            for key, mean, error in differences(record):
                found[key].append((name, mean, error))
        for (what, minus), one in found.items():
            if len(one) > 1:
                names, means, errors = zip(*one, strict=True)
                interval, between = random_effects(means, errors)
                shown = zip(names, means, strict=True)
                row = {
                    "profile": ", ".join(filter(None, [profile, weights])),
                    "trained on": learned,
                    "what": what,
                    "minus": minus,
                    "sets": ", ".join(f"{name} {mean:+.1f}" for name, mean in shown),
                    "difference [95 %]": interval.signed,
                    "between sets": f"{between:.2f}",
                }
                rows.append(row)
    return pd.DataFrame(rows)


def differences(record: dict[str, Any]) -> list[tuple[tuple[str, str], float, float]]:
    """Return ((what, minus), difference, standard error) of the first query set of a kept table.

    Where the chosen GeM is the one off the shelf the difference is that to either.
    """
    table = pd.DataFrame(record["rows"], columns=record["columns"])
    if "query set" in table:
        table = table[table["query set"] == table["query set"].iloc[0]]
    found = []
    for what, minus, text in table[["what", "minus", "difference [95 %]"]].itertuples(index=False):
        mean, low, high = Interval.read(text)
        error = (high - low) / 2 / float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        same = minus == f"{CHOSEN} (GeM{UNTRAINED})"
        others = [CHOSEN, GEM] if same else [CHOSEN if minus.startswith(CHOSEN) else GEM]
        name, *whitening = what.split(", whitened")
        if np.isfinite(error) and error > 0:
            side = f"{name}, whitened" if whitening else name
            found += [((side, other), mean, error) for other in others]
    return found
