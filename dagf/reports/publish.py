"""Pages that are read offline: a run notebook as HTML, and the index of them. Nothing is loaded from outside.

The one script of a page is ours and sorts tables by their headings; without it a page is whole.

The same notebook run twice gives the same bytes: whatever depends on the clock or the machine is in the record of the
run, which the index shows, and not in the page.
"""

import base64
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import dagf
from dagf import paths
from dagf.analysis.tables import columns, is_table
from dagf.errors import UserError
from dagf.files import atomic_path, read_json, write_json, write_text
from dagf.reports.freshness import Output, Project, records, shown_parameters
from dagf.reports.plans import Plan
from dagf.show.html import TEMPLATE, style, templates, with_script

# the results that a notebook may leave
KINDS = {"tables": (".csv", ".json", ".tex"), "figures": (".svg", ".png", ".jpg")}
IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}
ABOUT = "about.json"  # in reports/photographs/: what each set of photographs is, in words


@dataclass(frozen=True)
class About:
    """What a page says beside what its notebook shows."""

    name: str
    parameters: Mapping[str, Any]
    helps: Mapping[str, str]
    content: str
    siblings: Sequence[str]
    files: Sequence[str]  # links to its results
    root: Path  # the project's folder: its place on this machine does not show in a page


@dataclass(frozen=True)
class Page:
    """A finished page, its title, and its first paragraph as plain text."""

    html: str
    title: str
    summary: str


def render_page(executed: Path, about: About) -> Page:
    """The page of a notebook that ran to its end."""
    import nbformat  # a run in which all is fresh needs none of this
    from bs4 import BeautifulSoup

    from dagf.reports.markup import exporter, render_markdown, tidy

    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    headings = render_markdown(notebook, about.root / "notebooks")
    title = headings[0].text if headings else name_title(about.name)
    shared = {
        "about": about,
        "headings": headings,
        "title": title,
        "style": style(),
        "version": dagf.__version__,
    }
    shared |= {
        "siblings": [(one, name_title(one)) for one in about.siblings],
        "profile": _profile(about),
    }
    html, _ = exporter(TEMPLATE).from_notebook_node(notebook, resources={"page": shared})
    html = with_script(tidy(html).replace(f"{about.root}/", ""))
    first = BeautifulSoup(html, "html.parser").select_one("main .prose p")
    return Page(html, title, " ".join(first.get_text().split()) if first else "")


def publish(
    output: Output, one: Plan, project: Project, stage: Path, run: Mapping[str, Any]
) -> None:
    """Put the page and the results of a finished notebook in their places, one by one; the record that says so last."""
    results = {
        file: output.result(file.parent.name, file.name)
        for file in _results(one.name, stage / "results")
    }
    shown = shown_parameters(one.parameters)
    links = [output.link(target) for target in results.values()]
    about = About(one.name, shown, one.helps, one.content, project.names(), links, project.root)
    page = render_page(stage / "executed.ipynb", about)
    earlier = (
        read_json(output.record(one.name)).get("files", [])
        if output.record(one.name).is_file()
        else []
    )
    record: dict[str, Any] = {
        "notebook": one.name,
        "title": page.title,
        "summary": page.summary,
        "dagf": dagf.__version__,
    }
    record |= {
        "parameters": shown,
        "content": one.content,
        "parts": one.parts,
        "files": links,
        **run,
    }
    for file, target in results.items():
        if output.photographs and file.suffix == ".json":
            _sign(file, output.photographs, record)
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
    with atomic_path(output.page(one.name)) as temporary:
        temporary.write_text(page.html, encoding="utf-8")
    write_json(output.record(one.name), record)
    claimed = {file for other in records(output, project.names()) for file in other["files"]}
    for link in set(earlier) - claimed:  # results that the notebook no longer makes
        left = (output.pages / link).resolve()
        if any(
            left.is_relative_to(folder.resolve()) for folder in (output.pages, output.tables)
        ):  # else no result
            left.unlink(missing_ok=True)


def _results(name: str, folder: Path) -> list[Path]:
    """The result files that a notebook left; anything that is not a result is a mistake in the notebook."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for file in files:
        if file.suffix not in KINDS.get(file.relative_to(folder).parent.as_posix(), ()):
            kinds = "; ".join(
                f"{kind}/ with {', '.join(suffixes)}" for kind, suffixes in KINDS.items()
            )
            raise UserError(f"{name} left {file.relative_to(folder)}, but results are {kinds}")
    return files


def _sign(file: Path, photographs: str, record: Mapping[str, Any]) -> None:
    """Write into a result on photographs what made it: its page stays on the machine, the result does not."""
    value = read_json(file)
    if isinstance(value, dict):
        kept = ("notebook", "parameters", "content", "date", "cpu", "threads", "gpus", "versions")
        write_json(
            file,
            {
                **value,
                "measured": {"photographs": photographs, **{key: record[key] for key in kept}},
            },
        )


def write_index(output: Output, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write index.html from the records of `runs` and the result tables; an unchanged one is left alone."""
    environment = templates()
    environment.filters |= {"columns": columns, "duration": duration, "stem": name_title}
    shown, further = _photographs(output)
    html = environment.get_template("reports.html.j2").render(
        style=style(),
        runs=[{**run, "page": f"{run['notebook']}.html"} for run in runs],
        main=_main(output),
        **_claims(output),
        family=_rows(output, "family"),
        facts=_facts(output),
        photographs=shown,
        further=further,
        output=output,
        version=dagf.__version__,
    )
    html = with_script(html)
    path = output.pages / "index.html"
    if not path.is_file() or path.read_text(encoding="utf-8") != html:
        write_text(path, html)


def name_title(name: str) -> str:
    """A notebook's file name as words: 01_data_and_protocol -> 01 data and protocol."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _profile(about: About) -> str:
    return str(about.parameters.get("profile", ""))


def _main(output: Output) -> dict[str, Any] | None:
    """The main table, with the main figure in it as an address of itself."""
    path = output.result("tables", "main.json")
    if not path.is_file():
        return None
    table = read_json(path)
    if not is_table(table):
        raise UserError(
            f"{path.name} needs 'columns' and 'rows', with as many values in each row as there are columns"
        )
    figures = [output.result("figures", f"main{suffix}") for suffix in IMAGES]
    found = next((figure for figure in figures if figure.is_file()), None)
    return {**table, "figure": _data_address(found) if found else ""}


def _claims(output: Output) -> dict[str, Any]:
    """claims: claim, verdict, measured_on, report, and the contrasts under it; none before they are judged. headline:
    what comes out; reading: how the contrasts are to be read."""
    names = ("claim", "verdict", "measured_on", "contrast", "difference", "result", "report")
    path, found = output.result("tables", "claims.json"), list[dict[str, Any]]()
    table: dict[str, Any] = read_json(path) if path.is_file() else {}
    words = {"headline": table.get("note", ""), "reading": table.get("caption", "")}
    if not is_table(table) or len(table["columns"]) != len(
        names
    ):  # of another version: its notebook is stale
        return {"claims": [], **words}
    runs = table.get("runs") or [""] * len(table["rows"])
    traced = [[*row, one] for row, one in zip(table["rows"], runs, strict=True)]
    for _, rows in groupby(traced, lambda row: row[0]):
        effects = [dict(zip((*names, "runs"), row, strict=True)) for row in rows]
        found.append({**effects[0], "effects": effects})
    return {"claims": found, **words}


def _rows(output: Output, name: str) -> int:
    """How many rows a result table has; 0 where there is none."""
    path = output.result("tables", f"{name}.json")
    return len(read_json(path)["rows"]) if path.is_file() else 0


def _data_address(image: Path) -> str:
    return f"data:{IMAGES[image.suffix]};base64,{base64.b64encode(image.read_bytes()).decode()}"


def _facts(output: Output) -> dict[str, Any]:
    """What the tables say about the data they come from, for instance the hash of Toytown's generator."""
    facts: dict[str, Any] = {}
    pattern = f"{output.photographs}.*.json" if output.photographs else "*.json"
    for path in sorted(output.tables.glob(pattern)):
        value = read_json(path)
        if isinstance(value, dict) and isinstance(value.get("facts"), dict):
            facts |= value["facts"]
    return facts


def _photographs(output: Output) -> tuple[list[dict[str, Any]], list[str]]:
    """The sets of photographs on which something was measured, perhaps on another machine: name, about (what they are),
    and their main tables; and links to all other tables."""
    if output.photographs:
        return [], []
    folder = output.pages / "photographs"
    about: dict[str, str] = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    sets, further = dict[str, list[dict[str, Any]]](), []
    for path in sorted(folder.glob("*.json"), key=_photograph_order):
        value, (name, _, table) = read_json(path), path.stem.rpartition(".")
        if is_table(value) and table in paths.PHOTOGRAPH_TABLES:
            sets.setdefault(name, []).append(
                {**value, "file": output.link(path), "name": path.stem}
            )
        elif is_table(value):
            further.append(output.link(path))
    return [
        {"name": name, "about": about.get(name, ""), "tables": tables}
        for name, tables in sets.items()
    ], further


def _photograph_order(path: Path) -> tuple[str, int, str]:
    photographs, _, name = path.stem.rpartition(".")
    place = (
        paths.PHOTOGRAPH_TABLES.index(name)
        if name in paths.PHOTOGRAPH_TABLES
        else len(paths.PHOTOGRAPH_TABLES)
    )
    return photographs, place, name
