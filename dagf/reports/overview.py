"""What notebook 00_overview shows: the records and tables that the other notebooks left, read.

Nothing is computed from images or networks here, and whatever is missing (a part of the notebooks
ran; a study of photographs has no claims) is said in a line.
"""

import base64
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from IPython.display import HTML, Markdown
from pandas import DataFrame

from dagf.analysis.tables import PHOTOGRAPH_TABLES
from dagf.files import read_json
from dagf.reports.freshness import Output, output_for
from dagf.show.html import record_table, table, templates

OUTCOMES = {  # how a contrast's result speaks of the claim above it
    "below zero": "against the claim, after correction",
    "below zero, before correction": "against the claim, but not past the correction",
    "above zero": "for the claim, but not enough for all of it",
    "above zero, before correction": "for the claim, but not past the correction",
    "below zero, uncorrected, exploratory": "against DAGF, exploratory and uncorrected",
}
UNTESTED, HELD = "not testable here", "supported"


def open_records(profile: str = "cpu", benchmark: str = "") -> "Records":
    """Return the records of the reports of a profile, on Toytown or on a folder of photographs."""
    output = output_for({"profile": profile, "benchmark": benchmark})
    return Records(output, smoke=profile == "smoke")


def missing(notebook: str) -> Markdown:
    """Return the line that stands where a record will stand."""
    return Markdown(f"*Nothing yet: it comes with {notebook}.*")


@dataclass(frozen=True)
class Records:
    """The records of a run's reports, and how they are shown."""

    output: Output
    smoke: bool  # a smoke run makes no claims

    def subject(self) -> Markdown:
        """Return what the figures below were measured on."""
        name = self.output.photographs
        return Markdown(f"On the photographs *{name}*." if name else "On *Toytown*, our drawings.")

    def read(self, name: str) -> dict[str, Any]:
        """Return the record of a result table; {} where there is none."""
        file = self.output.result("tables", f"{name}.json")
        return read_json(file) if file.is_file() else {}

    def table(self, name: str, notebook: str) -> HTML | Markdown:
        """Return a result table, which `notebook` leaves."""
        record = self.read(name)
        return record_table(record) if record else missing(notebook)

    def figure(self, name: str, notebook: str) -> HTML | Markdown:
        """Return the figure of a result table, which `notebook` leaves."""
        file = self.output.result("figures", f"{name}.svg")
        if not file.is_file():
            return missing(notebook)
        data = base64.b64encode(file.read_bytes()).decode()
        alt = self.read(name).get("alt", name)
        return _html("figure", f"data:image/svg+xml;base64,{data}", alt)

    def claims(self) -> HTML | Markdown:
        """Return each claim with its verdict and the contrasts under it."""
        claims = self._claims()
        return _html("claims", claims) if claims else missing("06_benchmark_tables")

    def headline(self) -> Markdown:
        """Return how many of the claims are supported."""
        verdicts = Counter(first["verdict"] for first, _ in self._claims())
        if self.smoke:
            return Markdown("**A smoke run proves that everything runs; it supports no claim.**")
        if not verdicts:
            return missing("06_benchmark_tables, on Toytown")
        tested, held = verdicts.total() - verdicts[UNTESTED], verdicts[HELD]
        words = f"{held or 'None'} of the {tested} claims that can be tested here"
        return Markdown(f"**{words} {'is' if held == 1 else 'are'} {HELD}.**")

    def gains(self) -> HTML | Markdown:
        """Return the contrasts of whole networks, heads and single modules with GeM."""
        rows = [
            row | {"measured on": row["measured on"].partition(";")[0]}
            for row in self._contrasts()
            if row["contrast"].endswith((" GeM", "GeM's head)"))
        ]
        columns = ["contrast", "difference [95 %]", "result", "measured on"]
        return self._rows(rows, columns, "Points of mAP; GeM's own mAP stands beside it.")

    def counted(self) -> HTML | Markdown:
        """Return how many of the contrasts that decide a claim show what."""
        deciding = [row["result"] for row in self._contrasts() if _decides(row)]
        rows = [{"result": result, "contrasts": n} for result, n in Counter(deciding).most_common()]
        late = sum("†" in row["contrast"] for row in self._contrasts() if _decides(row))
        words = (
            f"The contrasts that decide a claim; {late} of them (†) were added after a first look."
        )
        return self._rows(rows, ["result", "contrasts"], words)

    def negative(self) -> HTML | Markdown:
        """Return the contrasts under claims that are not supported, by what they speak for."""
        failed = [row for row in self._contrasts() if row["verdict"] == "not supported"]
        rows = [
            {"it speaks": words, **row}
            for result, words in OUTCOMES.items()
            for row in failed
            if row["result"] == result
        ]
        columns = ["it speaks", "contrast", "difference [95 %]"]
        return self._rows(rows, columns, "Contrasts under the claims that are not supported.")

    def photographs(self) -> HTML | Markdown:
        """Return what was measured on photographs, maybe elsewhere, and links to the rest."""
        folder, sets = self.output.pages / "photographs", defaultdict[str, dict[str, Any]](dict)
        further = []
        for file in sorted(folder.glob("*.*.json")):
            name, _, kind = file.stem.rpartition(".")
            if kind in PHOTOGRAPH_TABLES:
                record, link = read_json(file), self.output.link(file)
                shown = {"html": record_table(record).data, "run": record.get("measured")}
                sets[name][kind] = {**shown, "file": link}
            else:
                further.append(self.output.link(file))
        about = read_json(folder / "about.json") if (folder / "about.json").is_file() else {}
        rows = [
            (
                name,
                about.get(name, ""),
                [of[kind] for kind in PHOTOGRAPH_TABLES if kind in of],
            )
            for name, of in sets.items()
        ]
        return _html("photographs", rows, further) if rows else missing("a run on photographs")

    def reports(self) -> HTML | Markdown:
        """Return each report: its question, what it judges, its cost, how to run it alone."""
        verdicts = defaultdict[str, list[tuple[str, str]]](list)
        for first, _ in self._claims():
            verdicts[first["report"]].append((first["claim"], first["verdict"]))
        runs = [
            {**run, "took": _duration(run["seconds"]), "command": _command(run)}
            for run in self.output.records()
        ]
        return _html("reports", runs, verdicts) if runs else missing("the first report")

    def facts(self) -> HTML:
        """Return what the tables say of their data and training, and what the reports ran with."""
        prefix = f"{self.output.photographs}." if self.output.photographs else ""
        records = [read_json(file) for file in sorted(self.output.tables.glob(f"{prefix}*.json"))]
        facts = {key: value for one in records for key, value in one.get("facts", {}).items()}
        made_with = dict.fromkeys(_software(run) for run in self.output.records())
        return _html("facts", facts | {"With": "; ".join(made_with)})

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
        return self._rows(rows, ["report", "parameters", "content", "when"], "What was run.")

    def _contrasts(self) -> list[dict[str, Any]]:
        record = self.read("claims")
        if not record:
            return []
        runs = record.get("runs", [""] * len(record["rows"]))
        rows = zip(record["rows"], runs, strict=True)
        return [dict(zip(record["columns"], row, strict=True)) | {"runs": of} for row, of in rows]

    def _claims(self) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        grouped = groupby(self._contrasts(), lambda row: row["claim"])
        return [(rows[0], rows) for _, found in grouped if (rows := list(found))]

    def _rows(
        self, rows: list[dict[str, Any]], columns: list[str], caption: str
    ) -> HTML | Markdown:
        if not rows:
            return missing("06_benchmark_tables, on Toytown")
        runs = ["runs"] if "runs" in rows[0] else []
        return table(DataFrame(rows)[columns + runs], caption)


def _decides(row: dict[str, Any]) -> bool:
    """Return whether a contrast is one of those by which its claim is judged."""
    result = row["result"]
    return bool(result) and "exploratory" not in result and "decides nothing" not in result


def _command(run: dict[str, Any]) -> str:
    given = {key: run["parameters"].get(key) for key in ("profile", "benchmark")}
    options = [
        f" --{key} {value}" for key, value in given.items() if value not in (None, "", "cpu")
    ]
    return f"dagf report{''.join(options)} --only {run['notebook']}"


def _software(run: dict[str, Any]) -> str:
    libraries = [f"{name} {version}" for name, version in run["versions"].items()]
    return ", ".join([f"dagf {run['dagf']}, Python {run['python']}", *libraries, run["system"]])


def _duration(seconds: float) -> str:
    """Return seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _html(macro: str, *values: Any) -> HTML:
    """Return a macro of the template of the overview, filled with values."""
    made = getattr(templates().get_template("overview.html.j2").module, macro)
    return HTML(str(made(*values)))
