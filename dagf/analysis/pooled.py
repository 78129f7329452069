"""Differences over several sets of photographs, pooled from the tables that their studies kept.

A set counts by its first query set. What is pooled had one profile, one training set and one
backbone with one file of weights. Of two benchmarks on the photographs of one folder the one with a
ground truth of its own counts rather than the whole folder: both ask for the same things.
"""

from pathlib import Path

import pandas as pd

from dagf.analysis.rivals import CHOSEN, CHOSEN_PLAIN, SHELF
from dagf.analysis.room import ROOM
from dagf.analysis.tables import STAGE, table_of
from dagf.files import read_json
from dagf.retrieval.statistics import Interval, random_effects

# Tables, of which each set has one.
AGAINST, EARLIER, ROOMS = "against-rivals", "against-rivals-earlier-cut", "room"
DIFFERENCE, ERROR, PERFECT = "difference [95 %]", "standard error", "perfect attention"
WORDS = (
    "mAP points, random-effects mean over the sets [95 %] (Hartung and Knapp), which are taken as "
    "a sample of sets. Between sets: the standard deviation of their effects. Exploratory."
)
SHOWN = ["profile", "backbone", "trained on"]  # what studies have in common that are pooled
ALIKE = [*SHOWN, "weights"]
SET = "photographs"
BESIDE = {  # the rivals whose mean over sets is shown -> those above which DAGF gains
    CHOSEN: ("both GeMs", {SHELF, CHOSEN}),
    CHOSEN_PLAIN: ("all three", {SHELF, CHOSEN, CHOSEN_PLAIN}),
}


def kept(folder: Path, *tables: str) -> pd.DataFrame:
    """Return the rows of all kept tables of these names, those of the first query set.

    folder: of the kept tables. Tables of several names must differ in their backbone or its cut.
    Columns: `ALIKE`, photographs, and those of the tables.
    """
    found = dict[tuple[str, ...], pd.DataFrame]()
    every = [file for table in tables for file in sorted(folder.glob(f"[!.]*.{table}.json"))]
    for file in every:
        record = read_json(file)
        of, facts, rows = record["measured"]["parameters"], record["facts"], table_of(record)
        name = file.name.split(".")[0].removesuffix(f"-{of['profile']}")
        home, *own_truth = Path(of["benchmark"]).parts
        backbone = facts["Backbone"].removeprefix("timm:tf_")
        learned = ", ".join(of["train_on"] or [home])
        about = of["profile"], backbone, learned, facts["Backbone's weights"]
        if own_truth or (*about, home) not in found:
            if "query set" in rows:
                rows = rows[rows["query set"] == rows["query set"].iloc[0]]
            about_rows = dict(zip(ALIKE, about, strict=True)) | {SET: name}
            found[(*about, home)] = rows.assign(**about_rows)
    none = pd.DataFrame(columns=[*ALIKE, SET, "what", "minus", "module"])
    return pd.concat([none, *found.values()], ignore_index=True)


def staged(rows: pd.DataFrame, column: str) -> "pd.Series[bool]":
    """Return for each of the kept rows whether a last stage is trained in its study, too.

    column: whose texts end with it, where it is.
    """
    deep = rows[column].str.endswith(STAGE.split(maxsplit=1)[1])
    return deep.groupby([rows[key] for key in ALIKE]).transform("any").astype(bool)


def _mean(rows: pd.DataFrame) -> tuple[Interval, float]:
    """Return the random-effects mean of written differences, and the sets' standard deviation."""
    means = [Interval.read(text).mean for text in rows[DIFFERENCE]]
    return random_effects(means, rows[ERROR].astype(float))


def pooled(folder: Path, *tables: str) -> pd.DataFrame:
    """Return a row for each difference in kept tables (`AGAINST`, `EARLIER`) of two sets or more.

    Columns: profile, backbone, trained on, what, minus, sets (with the difference on each),
    difference [95 %], between sets (points).
    """
    rows = []
    for key, one in kept(folder, *tables).groupby([*ALIKE, "what", "minus"], sort=False):
        if len(one) > 1:
            interval, between = _mean(one)
            each = zip(one[SET], map(Interval.read, one[DIFFERENCE]), strict=True)
            sets = ", ".join(f"{name} {gain.mean:+.1f}" for name, gain in each)
            rows.append((*key[:3], *key[4:], sets, interval.signed, f"{between:.2f}"))
    columns = [*SHOWN, "what", "minus", "sets", DIFFERENCE, "between sets"]
    return pd.DataFrame(rows, columns=columns)


def _compared(folder: Path) -> pd.DataFrame:
    """Return the rows of the whole DAGF minus a rival, with the number of their study."""
    found = kept(folder, AGAINST, EARLIER)
    found = found[found["what"].str.contains("DAGF")]
    return found.assign(study=found.groupby(ALIKE, sort=False).ngroup())


def by_set(folder: Path, rival: str = CHOSEN) -> pd.DataFrame:
    """Return a row a set: what DAGF gains over a rival, in brackets which that is and its mAP.

    Each depth of training for itself. Of several sets the last row has the random-effects mean;
    where some studies train a last stage, those of several sets that do not are in `over_sets`
    alone. The room, where there are boxes: of perfect attention over GeM, at the greatest depth.
    """
    found, rooms = _compared(folder), kept(folder, ROOMS)
    found = found[found["minus"] == rival]
    deep = staged(found, "what")
    rows = []
    for _, study in found.groupby("study", sort=False):
        about, sets = {"backbone": study["backbone"].iloc[0]}, study.groupby(SET, sort=False)
        if deep.any() and not deep[study.index[0]] and len(sets) > 1:
            continue
        for photographs, own in sets:
            row = {SET: photographs, **about}
            for one in own.to_dict("records"):
                name = one["rival"].split(",")[0].removesuffix(STAGE)
                level = f"{name} {one['mAP'].split(' − ')[1]}"
                row[one["what"]] = f"{one[DIFFERENCE]} ({level})"
            room = rooms.merge(own[[*ALIKE, SET]].drop_duplicates())
            rows.append(row | ({PERFECT: room[ROOM].iloc[-1]} if len(room) else {}))
        if len(sets) > 1:
            row = {SET: f"all {len(sets)}", **about}
            for what, own in study.groupby("what", sort=False):
                row[str(what)] = _mean(own)[0].signed
            rows.append(row)
    table = pd.DataFrame(rows).fillna("")
    return table.assign(**{PERFECT: table.pop(PERFECT)}) if PERFECT in table else table


def over_sets(folder: Path) -> pd.DataFrame:
    """Return a row for each depth of training of each study of several sets: what DAGF gains.

    Columns: backbone, what, sets; the random-effects mean of its difference to the chosen GeM, and
    on how many sets it gains (is above that and above GeM off the shelf) and loses (is below both);
    the same beside the chosen plain descriptor, with all three. Where all sets choose one depth,
    the chosen DAGF is that, and no row of its own.
    """
    rows = []
    for (_, backbone, what), own in _compared(folder).groupby(
        ["study", "backbone", "what"], sort=False
    ):
        row = {"backbone": backbone, "what": what, "sets": str(own[SET].nunique())}
        for rival, (words, beside) in BESIDE.items():
            one = own[own["minus"] == rival]
            if len(one) > 1:
                verdicts = own[own["minus"].isin(beside)].groupby(SET)["verdict"].agg(set)
                counts = [f"{(verdicts == {side}).sum()}" for side in ("above", "below")]
                row[f"minus the {rival} [95 %]"] = _mean(one)[0].signed
                row[f"gains / losses beside {words}"] = " / ".join(counts)
        rows += [row] if len(row) > 3 else []
    table = pd.DataFrame(rows).fillna("")
    return table.drop_duplicates([column for column in table if column != "what"])


def mean_verdicts(folder: Path) -> list[str]:
    """Return what each mean of `over_sets` shows beside all its rivals: gains, loses or neither."""
    verdicts = []
    for _, texts in over_sets(folder).filter(regex="^minus").iterrows():
        means = [Interval.read(text) for text in texts if text]
        side = "gains" if all(one.low > 0 for one in means) else "no gain shown"
        verdicts.append("loses" if all(one.high < 0 for one in means) else side)
    return verdicts
