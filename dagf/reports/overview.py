"""What notebook 00_overview shows: the records and tables that the other notebooks left, read.

Nothing is computed from images or networks here, and whatever is missing (a part of the notebooks
ran; a study of photographs has no claims) is said in a line.
"""

import base64
from dataclasses import dataclass
from typing import Any

from IPython.display import HTML, Markdown
from pandas import DataFrame

from dagf.analysis.tables import PHOTOGRAPH_TABLES, RUNS
from dagf.files import read_json
from dagf.reports.freshness import Output, output_for
from dagf.show.html import record_table, table, templates

CLAIMS = ("claim", "verdict", "measured on", "contrast", "difference [95 %]", "result", "report")
OUTCOMES = {  # how the result of a contrast speaks of the claim above it
    "below zero": "against the claim, after correction",
    "below zero, before correction": "against the claim, but not past the correction",
    "above zero": "for the claim, but not enough for all of it",
    "above zero, before correction": "for the claim, but not past the correction",
    "below zero, uncorrected, exploratory": "against DAGF, exploratory and uncorrected",
}


def open_records(profile: str = "cpu", benchmark: str = "") -> "Records":
    """Return the records of the reports of a profile, on Toytown or on a folder of photographs."""
    output = output_for({"profile": profile, "benchmark": benchmark})
    return Records(output, smoke=profile == "smoke")


@dataclass(frozen=True)
class Records:
    """The records of a run's reports, and how they are shown."""

    output: Output
    smoke: bool  # a smoke run makes no claims

    def subject(self) -> Markdown:
        """Return what the figures below were measured on."""
        name = self.output.photographs
        return Markdown(f"On the photographs *{name}*." if name else "On *Toytown*, our drawings.")

    def table(self, name: str) -> HTML | Markdown:
        """Return a result table."""
        record = self._read(name)
        return record_table(record) if record else _nothing()

    def figure(self, name: str) -> HTML | Markdown:
        """Return the figure of a result table."""
        file = self.output.result("figures", f"{name}.svg")
        if not file.is_file():
            return _nothing()
        data = base64.b64encode(file.read_bytes()).decode()
        alt = self._read(name).get("alt", name)
        return _html("figure", f"data:image/svg+xml;base64,{data}", alt)

    def headline(self) -> Markdown:
        """Return how many of the claims are supported."""
        verdicts = self._contrasts().groupby("claim")["verdict"].first()
        tested = verdicts[verdicts != "not testable here"]
        if self.smoke or tested.empty:
            return Markdown("**Nothing is claimed here.**")
        held = int((tested == "supported").sum())
        words = f"{held or 'None'} of the {len(tested)} claims that can be tested here"
        return Markdown(f"**{words} {'is' if held == 1 else 'are'} supported.**")

    def gains(self) -> HTML | Markdown:
        """Return the contrasts of whole networks, heads and single modules with GeM."""
        found = self._contrasts()
        found = found[found["contrast"].str.endswith((" GeM", "GeM's head)"))]
        columns = ["contrast", "difference [95 %]", "result", "measured on", RUNS]
        return _table(found[columns], "Points of mAP; GeM's own mAP stands beside it.")

    def counted(self) -> HTML | Markdown:
        """Return how many of the contrasts that decide a claim show what."""
        found = self._contrasts()
        aside = found["result"].str.contains("exploratory|decides nothing") | (
            found["result"] == ""
        )
        late = found[~aside]["contrast"].str.contains("†").sum()
        words = f"The contrasts that decide a claim; {late} of them (†) were added after a look."
        return _table(found[~aside]["result"].value_counts().reset_index(name="contrasts"), words)

    def negative(self) -> HTML | Markdown:
        """Return the contrasts under claims that are not supported, by what they speak for."""
        found = self._contrasts()
        found = found[(found["verdict"] == "not supported") & found["result"].isin(list(OUTCOMES))]
        found = found.sort_values(
            "result", key=lambda one: one.map([*OUTCOMES].index), kind="stable"
        )
        found.insert(0, "it speaks", found["result"].map(OUTCOMES))
        columns = ["it speaks", "contrast", "difference [95 %]", RUNS]
        return _table(found[columns], "Contrasts under the claims that are not supported.")

    def claims(self) -> HTML | Markdown:
        """Return each claim with its verdict and the contrasts under it."""
        groups = self._contrasts().groupby("claim", sort=False)
        rows = [rows.to_dict("records") for _, rows in groups]
        return _html("claims", rows) if rows else _nothing()

    def photographs(self) -> HTML | Markdown:
        """Return what was measured on photographs, maybe elsewhere, and links to the rest."""
        folder = self.output.pages / "photographs"
        files = sorted(folder.glob("*.*.json"))
        about = read_json(folder / "about.json") if (folder / "about.json").is_file() else {}
        sets, shown = [], []
        for name in dict.fromkeys(file.stem.rpartition(".")[0] for file in files):
            places = [folder / f"{name}.{kind}.json" for kind in PHOTOGRAPH_TABLES]
            main = [file for file in places if file in files]
            records = [(read_json(file), self.output.link(file)) for file in main]
            tables = [(record_table(one).data, one.get("measured"), link) for one, link in records]
            sets += [(name, about.get(name, ""), tables)] if tables else []
            shown += main
        further = [self.output.link(file) for file in files if file not in shown]
        return _html("photographs", sets, further) if sets else _nothing()

    def reports(self) -> HTML | Markdown:
        """Return each report: its question, what it judges, its cost, how to run it alone."""
        claims, runs = self._contrasts().drop_duplicates("claim"), []
        for run in self.output.records():
            given = [(key, run["parameters"].get(key, "")) for key in ("profile", "benchmark")]
            options = "".join(
                f" --{key} {value}" for key, value in given if value not in ("", "cpu")
            )
            judged = claims[claims["report"] == run["notebook"]][["claim", "verdict"]]
            runs.append(
                {
                    **run,
                    "took": _duration(run["seconds"]),
                    "command": f"dagf report{options} --only {run['notebook']}",
                    "judged": judged.to_numpy().tolist(),
                }
            )
        return _html("reports", runs) if runs else _nothing()

    def facts(self) -> HTML:
        """Return what the tables say of their data and training, and what the reports ran with."""
        name = self.output.photographs
        files = sorted(self.output.tables.glob(f"{name}.*.json" if name else "*.json"))
        facts = {
            key: one for file in files for key, one in read_json(file).get("facts", {}).items()
        }
        software = dict.fromkeys(
            ", ".join(
                [f"dagf {run['dagf']}", f"Python {run['python']}"]
                + [f"{library} {version}" for library, version in run["versions"].items()]
                + [run["system"]]
            )
            for run in self.output.records()
        )
        return _html("facts", facts | {"With": "; ".join(software)})

    def runs(self) -> HTML | Markdown:
        """Return with which parameters each report was made, from what content, and when."""
        rows = [
            {
                "report": run["notebook"].replace("_", " "),
                "parameters": ", ".join(f"{k}={v}" for k, v in run["parameters"].items() if v),
                "content": run["content"],
                "when": run["date"],
            }
            for run in self.output.records()
        ]
        return _table(DataFrame(rows), "What was run.")

    def _read(self, name: str) -> dict[str, Any]:
        file = self.output.result("tables", f"{name}.json")
        return read_json(file) if file.is_file() else {}

    def _contrasts(self) -> DataFrame:
        """Return the contrasts under the claims, one a row with the claim and its verdict."""
        record = self._read("claims")
        found = DataFrame(record.get("rows", []), columns=list(CLAIMS), dtype=str)
        return found.assign(**{RUNS: record.get(RUNS, "")})


def _nothing() -> Markdown:
    return Markdown("*Nothing to show: no notebook left a record of it.*")


def _table(frame: DataFrame, caption: str) -> HTML | Markdown:
    return _nothing() if frame.empty else table(frame, caption)


def _duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _html(macro: str, *values: Any) -> HTML:
    """Return a macro of the template of the overview, filled with values."""
    made = getattr(templates().get_template("overview.html.j2").module, macro)
    return HTML(str(made(*values)))
