"""Differences over several sets of photographs, pooled from the tables that their studies kept.

A set counts by its first query set. What is pooled had one profile, one training set and one
backbone with one file of weights. Of two benchmarks on the photographs of one folder the one with a
ground truth of its own counts rather than the whole folder: both ask for the same things.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from dagf.analysis.room import ROOM
from dagf.analysis.tables import CHOSEN, GEM, STAGE, UNTRAINED, table_of
from dagf.files import read_json
from dagf.retrieval.statistics import CONFIDENCE, Interval, random_effects

# Tables, of which each set has one.
AGAINST, EARLIER, MODULES, ROOMS = "against-gem", "against-gem-earlier-cut", "modules", "room"
# Columns of `by_set`; and, of its rows alone, the verdict that stands beside both GeMs.
MINUS, PERFECT, BOTH = " minus it [95 %]", "perfect attention", " beside both"
WORDS = (
    "mAP points, random-effects mean over the sets [95 %] (Hartung and Knapp). The standard "
    "error of a set is that of its joint interval taken as normal, so rather too large. Between "
    "sets: the standard deviation of their effects. Exploratory."
)


Rows = list[dict[str, str]]  # of one study, a row a set


class Alike(NamedTuple):
    """What the studies had in common that are pooled. weights: of the backbone."""

    profile: str
    backbone: str
    weights: str
    learned: str


def studies(folder: Path, table: str) -> dict[Alike, dict[str, dict[str, Any]]]:
    """Return the kept tables of one name of comparable studies, by name of the photographs.

    folder: of the kept tables.
    """
    found = defaultdict[Any, dict[str, Any]](dict)
    for file in sorted(folder.glob(f"[!.]*.{table}.json")):
        record = read_json(file)
        of, facts = record.get("measured", {}).get("parameters", {}), record.get("facts", {})
        name = short_name(file, record)
        home, *own_truth = Path(of.get("benchmark") or name).parts
        learned = of.get("train_on") or [home]  # a name alone in older tables
        learned = learned if isinstance(learned, str) else ", ".join(learned)
        backbone = facts.get("Backbone", "").removeprefix("timm:tf_")
        weights = facts.get("Backbone's weights", "")
        about = Alike(of.get("profile", ""), backbone, weights, learned)
        if own_truth or home not in found[about]:
            found[about][home] = name, record
    return {about: dict(sets.values()) for about, sets in found.items()}


def pooled(folder: Path, table: str) -> pd.DataFrame:
    """Return a row for each difference in the tables of one name, of two sets or more.

    Of `AGAINST` DAGF, as it is and whitened, minus each GeM; of `MODULES` one attention more.

    Columns: profile, backbone, trained on, what, minus, sets (with the difference on each),
    difference [95 %], between sets (points).
    """
    keys, rows = ["profile", "backbone", "trained on", "what", "minus"], []
    every = [
        (about.profile, about.backbone, about.learned, *key, f"{name} {mean:+.1f}", mean, error)
        for about, sets in studies(folder, table).items()
        for name, record in sets.items()
        for key, mean, error in differences(record)
    ]
    found = pd.DataFrame(every, columns=[*keys, "sets", "mean", "error"])
    for key, one in found.groupby(keys, sort=False):
        if len(one) > 1:
            interval, between = random_effects(one["mean"], one["error"])
            said = ", ".join(one["sets"]), interval.signed, f"{between:.2f}"
            rows.append((*key, *said))
    return pd.DataFrame(rows, columns=[*keys, "sets", "difference [95 %]", "between sets"])


def short_name(file: Path, record: dict[str, Any]) -> str:
    """Return the name of the photographs that a kept table is of, without its profile's."""
    profile = record.get("measured", {}).get("parameters", {}).get("profile", "")
    return file.name.split(".")[0].removesuffix(f"-{profile}")


def _judged_alike(folder: Path) -> Iterator[Rows]:
    """Yield the rows of `by_set` of each study, a row a set."""
    rooms = studies(folder, ROOMS)
    every = [*studies(folder, AGAINST).items(), *studies(folder, EARLIER).items()]
    for about, sets in every:
        own: Rows = []
        for name, record in sets.items():
            both = _first_set(record)
            table = both[both["minus"].str.startswith(CHOSEN)]
            row = {"photographs": name, "backbone": about.backbone}
            for what, part in table.groupby(table["what"].str.split(", whitened").str[0]):
                best = int(part["validation"].astype(float).to_numpy().argmax())
                gem = str(what).replace("DAGF", CHOSEN)
                row[f"{gem}, mAP"] = part["mAP"].iloc[best].split(" − ")[1]
                row[f"{what}{MINUS}"] = part["difference [95 %]"].iloc[best]
                verdicts = {*both.loc[both["what"] == part["what"].iloc[best], "verdict"]}
                row[f"{what}{BOTH}"] = verdicts.pop() if len(verdicts) == 1 else ""
            if name in rooms.get(about, {}):
                row[PERFECT] = table_of(rooms[about][name])[ROOM].iloc[-1]
            own.append(row)
        yield own


def _means(own: Rows) -> dict[str, str]:
    """Return the random-effects mean of each difference over sets that were judged alike."""
    found = {}
    for what in (name for name in own[0] if name.endswith(MINUS)):
        means, errors = zip(*(_read(row[what]) for row in own), strict=True)
        found[what] = random_effects(means, errors)[0].signed
    return found


def by_set(folder: Path) -> pd.DataFrame:
    """Return a row a set: the mAP of the chosen GeM, what DAGF gains over it, and the room.

    Each depth of training for itself: GeM is chosen among those that are trained no deeper. DAGF as
    it is or whitened, whichever held-out instances prefer; of several sets the last row has the
    random-effects mean, and where other studies go deeper that row stands for all. The room, where
    there are boxes: of perfect attention, at the greatest depth.
    """
    rows, every = [], [*_judged_alike(folder)]
    for own in every:
        several = len(own) > 1
        if own in _deepest(every) or not several:
            rows += own
        if several:
            about = {"photographs": f"all {len(own)}", "backbone": own[0]["backbone"]}
            rows.append(about | _means(own))
    found = pd.DataFrame(rows).fillna("")
    return found.drop(columns=[name for name in found if str(name).endswith(BOTH)])


def over_sets(folder: Path) -> list[str]:
    """Return where DAGF gains, in a line for each depth of the deepest studies of several sets.

    A gain is above the chosen GeM and above GeM off the shelf, a loss below both.
    """
    lines = []
    for own in _deepest([one for one in _judged_alike(folder) if len(one) > 1]):
        for name, mean in _means(own).items():
            what = name.removesuffix(MINUS)
            counts = Counter(row[f"{what}{BOTH}"] for row in own)
            how = what if what.endswith(STAGE) else f"{what} on a fixed network"
            gains, losses = (f"{counts[one]}" for one in ("above", "below"))
            lines.append(
                f"On {len(own)} sets of photographs ({own[0]['backbone']}), {how} gains on {gains} "
                f"and loses on {losses}; the mean over such sets is {mean}"
            )
    return lines


def _deepest(every: Sequence[Rows]) -> Sequence[Rows]:
    """Return the studies that train a last stage, too; all where none does."""
    deep = [own for own in every if any(name.endswith(f"{STAGE}{MINUS}") for name in own[0])]
    return deep or every


def _read(text: str) -> tuple[float, float]:
    """Return the mean and the standard error of a written interval, taken as normal."""
    mean, low, high = Interval.read(text)
    return mean, (high - low) / 2 / float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def _first_set(record: dict[str, Any]) -> pd.DataFrame:
    table = table_of(record)
    sets = table.get("query set")
    return table if sets is None else table[sets == sets.iloc[0]]


def differences(record: dict[str, Any]) -> list[tuple[tuple[str, str], float, float]]:
    """Return ((what, minus), difference, standard error) of the first query set of a kept table.

    Where the chosen GeM is the one off the shelf the difference is that to either.
    """
    table, found = _first_set(record), []
    for what, minus, text in table[["what", "minus", "difference [95 %]"]].itertuples(index=False):
        mean, error = _read(text)
        same = minus == f"{CHOSEN} (GeM{UNTRAINED})"
        others = [CHOSEN, GEM] if same else [CHOSEN if minus.startswith(CHOSEN) else minus]
        name, *whitening = what.split(", whitened")
        if np.isfinite(error) and error > 0:
            side = f"{name}, whitened" if whitening else name
            found += [((side, other), mean, error) for other in others]
    return found
