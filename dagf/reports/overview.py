"""What notebook 00_overview shows: the records and tables that the other notebooks left, read.

Nothing is computed from images or networks here, and whatever is missing (a part of the notebooks
ran; a study of photographs has no claims) is said in a line.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from IPython.display import HTML
from pandas import DataFrame

from dagf.analysis import pooled
from dagf.analysis.rivals import CHOSEN
from dagf.analysis.room import GAIN, ROOM
from dagf.analysis.tables import PHOTOGRAPH_TABLES, RUNS, STAGE, table_of
from dagf.files import read_json
from dagf.reports.freshness import Output
from dagf.show import figures
from dagf.show.html import NOTHING, folded, image, record_table, table, templates

MARKS = {"supported": "✓", "not supported": "✗", "not testable here": "○"}
ASIDE = "exploratory|decides nothing"  # in the result of what no verdict rests on
CAPTION = "Gain over GeM in points of mAP (search quality, 0 to 100), with 95 % intervals."
SAID = {
    "gains": "gain",
    "loses": "lose",
    "no gain shown": "show no gain",
    "no room shown": "have no room",
}
FIRST = ["module", "verdict", GAIN, ROOM, "share of the room"]  # columns of the first screen
CLAIMS = ["claim", "verdict", "measured on", "contrast", "difference [95 %]", "result", "report"]


@dataclass(frozen=True)
class Records:
    """The records of a run's reports (`dagf.reports.freshness.output_for`), as they are shown."""

    output: Output

    @property
    def contrasts(self) -> DataFrame:
        """The contrasts under the claims, one a row with the claim and its verdict."""
        return table_of({"rows": [], "columns": CLAIMS, RUNS: ""} | self._read("claims"))

    def rooms(self) -> HTML:
        """Return the figure of the modules' gains beside the room: drawings, then photographs."""
        found = {self._where: self._rooms} if len(self._rooms) else {}
        kept = pooled.kept(self._photographs, pooled.ROOMS)
        staged = pooled.staged(kept, "module")
        kept = kept[staged] if staged.any() else kept  # more panels are too small for a phone
        for (backbone, name), own in kept.groupby(["backbone", pooled.SET], sort=False):
            found[f"on photographs\n({name}, {backbone})"] = own
        if not found:
            return HTML(NOTHING)
        alt = f"The gain of each module over GeM beside the room: {', '.join(found)}."
        alt = alt.replace("\n", " ")
        return figures.show(figures.rooms(found), alt, CAPTION)

    def answer(self) -> HTML:
        """Return in a line how many modules gain on the images of the run, and DAGF over sets."""
        lines, where = [], f"{self._where.capitalize()}, of the"
        if counts := Counter(self._rooms["verdict"]):
            lines.append(f"{where} {counts.total()} rows of the figure: {_said(counts)}.")
        verdicts = pooled.mean_verdicts(self._photographs)
        if counts := Counter(verdicts):
            lines.append(f"On photographs, the means over sets: {_said(counts)}.")
        return HTML(f'<p class="lead">{"<br>".join(lines)}</p>' if lines else NOTHING)

    @property
    def _photographs(self) -> Path:
        return self.output.pages / "photographs"

    def modules(self) -> HTML:
        """Return what came of each module on the images of the run."""
        return table(self._rooms[FIRST], f"{self._where.capitalize()}, in points of mAP over GeM.")

    @property
    def _where(self) -> str:
        return "on photographs" if self.output.photographs else "on drawn buildings"

    @property
    def _rooms(self) -> DataFrame:
        return table_of({"rows": [], "columns": FIRST} | self._read("room"))

    def verdicts(self) -> HTML:
        """Return each claim in a line, with a mark, and how many of its contrasts are for it.

        Beside it what the same minus the chosen GeM came to on sets of photographs.
        """
        decides = self.contrasts[~self.contrasts["result"].str.contains(ASIDE)]
        rows, found = [], pooled.pooled(self._photographs, pooled.AGAINST)
        found = found[found["minus"] == CHOSEN]
        for claim, own in decides.groupby("claim", sort=False):
            verdict = own["verdict"].iloc[0]
            words = f"{MARKS[verdict]} {verdict}".replace(" ", "\xa0")  # in one line
            tested = own["result"][own["result"] != ""]
            sides = [tested.eq("above zero").sum(), tested.eq("below zero").sum()]
            asked = own["contrast"].str.replace(r"[()]", "", regex=True)
            same = found[(found["what"].str.removesuffix(STAGE) + " minus GeM").isin(asked)]
            how = same["what"].str.extract(f"({STAGE})", expand=False).fillna("")
            beside = "; ".join(same["backbone"] + how + " " + same[pooled.DIFFERENCE]) or "–"
            rows.append((claim, words, *sides, len(tested) - sum(sides), beside))
        columns = ["claim", "verdict", "tests for", "against", "open", "on photographs"]
        words = (
            "The claims, taken from the abstract or following from it, and how many of their "
            "comparisons speak for them; what came out on photographs is exploratory."
        )
        return table(DataFrame(rows, columns=columns), words)

    def table(self, name: str) -> HTML:
        """Return a result table."""
        record = self._read(name)
        return record_table(record) if record else HTML(NOTHING)

    def figure(self, name: str) -> HTML:
        """Return the figure of a result table."""
        file = self.output.result("figures", f"{name}.svg")
        if not file.is_file():
            return HTML(NOTHING)
        return image(file.read_bytes(), "svg", self._read(name)["alt"])

    def claims(self) -> HTML:
        """Return each claim with its verdict and the contrasts under it."""
        groups = self.contrasts.groupby("claim", sort=False)
        return _html("claims", [rows.to_dict("records") for _, rows in groups])

    def over_sets(self) -> HTML:
        """Return what DAGF gains on several sets of photographs, a row a backbone and depth."""
        found = pooled.over_sets(self._photographs)
        words = (
            "DAGF on sets of photographs, in points of mAP: the mean over sets [95 %], and on how "
            "many sets it gains and loses. Exploratory."
        )
        return table(found, words) if len(found) else HTML("")

    def sets(self) -> HTML:
        """Return a line for each set of photographs that there is: what DAGF gains, the room.

        Over the chosen GeM; folded, over the chosen plain descriptor.
        """
        shown = []
        for rival in pooled.BESIDE:
            found = pooled.by_set(self._photographs, rival)
            words = f"DAGF minus the {rival} [95 %], in points of mAP; in brackets it and its mAP."
            if len(found):
                made = table(found, words)
                shown.append(made if rival == CHOSEN else folded(f"Beside the {rival}", made))
        return HTML("".join(one.data for one in shown))

    def photographs(self) -> HTML:
        """Return what was measured on photographs, maybe elsewhere: pooled, each set, links."""
        folder, tables, further = self._photographs, [], []
        for file in sorted(folder.glob("[!.]*.*.json")):
            photographs, _, kind = file.stem.rpartition(".")
            link = self.output.link(file)
            if kind in PHOTOGRAPH_TABLES:
                record = read_json(file)
                made = {"table": record_table(record), "run": record.get("measured")}
                tables.append({"photographs": photographs, "link": link, **made})
            else:
                further.append(link)
        about = read_json(folder / "about.json") if (folder / "about.json").is_file() else {}
        found = pooled.pooled(folder, pooled.AGAINST, pooled.EARLIER)
        over = table(found, f"DAGF and its modules over several sets. {pooled.WORDS}")
        return _html("photographs", tables, about, further, over if len(found) else "")

    def reports(self) -> HTML:
        """Return each report: its question, what it judges, its cost, how to run it alone."""
        judged = self.contrasts.drop_duplicates("claim").to_dict("records")
        return _html("reports", self.output.records(), judged)

    def facts(self) -> HTML:
        """Return what the tables say of their data and training, and what the reports ran with."""
        every, facts = self.output.result("tables", "[!.]*.json"), dict[str, str]()
        for file in sorted(every.parent.glob(every.name)):
            facts |= read_json(file).get("facts", {})
        return _html("facts", facts, self.output.records())

    def _read(self, name: str) -> dict[str, Any]:
        file = self.output.result("tables", f"{name}.json")
        return read_json(file) if file.is_file() else {}


def _said(counts: Counter[str]) -> str:
    """Return how many have each verdict, gains always, in words."""
    shown = ["gains", *(one for one in SAID if counts[one] and one != "gains")]
    return ", ".join(f"<strong>{counts[one]}</strong> {SAID[one]}" for one in shown)


def _html(macro: str, *values: Any) -> HTML:
    """Return a macro of the template of the overview, filled with values."""
    made = str(getattr(templates().get_template("overview.html.j2").module, macro)(*values))
    return HTML(made if made.strip() else NOTHING)
