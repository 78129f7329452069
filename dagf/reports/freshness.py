"""Where reports go, what each one is made from, and whether that is still so.

A report is fresh when the hashes of its `parts` equal those that it was made from. Text that
decides nothing (comments, docstrings, the last kernel of a notebook) is not among them.
"""

import ast
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagf import paths
from dagf.datasets.contents import remembered
from dagf.datasets.public import folders_of
from dagf.errors import UserError, choose
from dagf.files import content_hash, file_sha256, read_json, slug
from dagf.show.html import TEMPLATE
from dagf.study.provenance import code_hash, imported_modules

# What each notebook needs to have run before it; those that need nothing of each other run side by
# side. 07 measures time, so nothing runs beside it.
ORDER: Mapping[str, tuple[str, ...]] = {
    "01_data_and_protocol": (),
    "02_training": (),
    "03_attention_maps": ("02_training",),
    "04_scale_and_mask_ablation": ("02_training",),
    "05_attention_ablation": ("02_training",),
    "06_benchmark_tables": (
        "03_attention_maps",
        "04_scale_and_mask_ablation",
        "05_attention_ablation",
    ),
    "07_large_scale": ("06_benchmark_tables",),
    "08_search_your_photos": ("07_large_scale",),
}
OVERVIEW = "00_overview"  # it runs when all others are done: it reads their records
# The records, below the project's folder, that a page shows beside what its notebook computes.
SPEED = (str(paths.SPEED),)
SHOWS: Mapping[str, tuple[str, ...]] = {
    "04_scale_and_mask_ablation": SPEED,
    "07_large_scale": SPEED,
}
SHOWS_ON_TOYTOWN = {"06_benchmark_tables": ("data/published.csv", "reports/photographs/*.json")}
OUTPUT = (
    "DAGF_OUTPUT"  # set by the runner: the folder of the reports that a notebook becomes part of
)
WHAT = {  # the parts of a content hash, in the words of a person
    "notebook": "the notebook, or one that it builds on, was changed",
    "code": "the code that it uses was changed",
    "publishing": "the code or the template of the pages was changed",
    "parameters": "it was made with other parameters",
    "data": "the data was changed",
    "weights": "the weights were changed",
    "records": "the records that it shows were changed",
}


@dataclass(frozen=True)
class Output:
    """Where the reports of one run go.

    Those on photographs are apart: their pages and figures show the photographs and stay on the
    machine, their tables are results that are kept.
    """

    root: Path
    photographs: str = ""  # the name of the photographs; "" for Toytown

    @property
    def pages(self) -> Path:
        """The folder of the HTML, the index, figures/ and provenance/."""
        return self.root / "photographs" / self.photographs if self.photographs else self.root

    @property
    def tables(self) -> Path:
        """The folder of the result tables."""
        return self.root / ("photographs" if self.photographs else "tables")

    def page(self, name: str) -> Path:
        """Return the HTML file of a notebook; that of the overview is the index."""
        return self.pages / ("index.html" if name == OVERVIEW else f"{name}.html")

    def record_file(self, name: str) -> Path:
        """Return the file that says what is known about the run that made a page."""
        return self.pages / "provenance" / f"{name}.json"

    def record(self, name: str) -> dict[str, Any]:
        """Return what is known about the run that made a page; {} where there is none."""
        file = self.record_file(name)
        return read_json(file) if file.is_file() else {}

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the reports that are there, in their order, but the index."""
        found = [self.record(name) for name in ORDER]
        return [record for record in found if record]

    def result(self, kind: str, name: str) -> Path:
        """Return where the result file `name` of the kind "tables" or "figures" goes."""
        if kind == "tables":
            return self.tables / (f"{self.photographs}.{name}" if self.photographs else name)
        return self.pages / kind / name

    def link(self, path: Path) -> str:
        """Return `path` as a link in a page."""
        return Path(os.path.relpath(path, self.pages)).as_posix()


def output_for(parameters: Mapping[str, Any], folder: Path | None = None) -> Output:
    """Return where the reports of a run go: in `folder` (or that of the run now), or in reports/.

    There the profile `cpu` has the folder itself and another profile a folder of its name, so
    that a smoke run never takes the place of a measurement. Photographs go to photographs/NAME
    (only a smoke run on them to smoke/photographs/NAME).
    """
    profile = Path(str(parameters.get("profile", "cpu"))).stem  # it may be a file of one's own
    benchmark = str(parameters.get("benchmark", ""))
    apart = profile == "smoke" or (profile != "cpu" and not benchmark)
    given = folder or os.environ.get(OUTPUT)
    root = Path(given) if given else paths.root() / "reports" / (slug(profile) if apart else "")
    if not benchmark:
        return Output(root)
    name = Path(benchmark).resolve().name
    # What a slug cannot hold (a name in other letters) is told apart by its hash.
    plain = name.isascii() and re.search("[a-z0-9_]", name.lower())
    name = slug(name) if plain else f"{slug(name)}-{content_hash(name, 6)}"
    name = name if profile in ("cpu", "smoke") else f"{name}-{slug(profile)}"
    return Output(root, name)


@dataclass(frozen=True)
class Report:
    """A notebook, what it runs with, and where its page goes."""

    name: str
    parameters: dict[str, Any]
    helps: dict[str, str]  # the comment beside each parameter
    output: Output

    def parts(self) -> dict[str, str]:
        """Return the hashes of all that the report would be made from now, as `WHAT` has them."""
        cells = [cell["source"] for cell in read_cells(self.name) if cell["cell_type"] == "code"]
        profile = file_sha256(paths.profile(str(self.parameters.get("profile", "cpu"))))
        weights = str(self.parameters.get("weights", ""))
        manifest = sums([paths.data() / "manifest.json"])
        return {
            "notebook": content_hash([what_counts(one) for one in upstream(self.name)]),
            "code": code_hash(*sorted(imported_modules("\n".join(cells)))),
            "publishing": content_hash([code_hash("dagf.reports.page"), sums(TEMPLATE.iterdir())]),
            "parameters": content_hash([self.shown_parameters, profile]),
            "data": content_hash([manifest, self._photographs()]),
            "weights": file_sha256(Path(weights)) if weights else "",
            "records": content_hash(sums(self._records())),
        }

    def staleness(self) -> str:
        """Return why the report is not what its sources would give now; "" when it is fresh."""
        record = self.output.record(self.name)
        if record.get("place", self.place) != self.place:
            raise UserError(
                f"{self.output.pages} holds the reports on another folder of that name: name "
                "another --output, or delete it if the folder was moved"
            )
        if not record or not self.output.page(self.name).is_file():
            return "there is no report yet"
        now, then = self.parts(), record.get("parts", {})
        changed = [WHAT[part] for part in now if then.get(part) != now[part]]
        gone = [file for file in record["files"] if not (self.output.pages / file).is_file()]
        return "; ".join(changed + [f"{file} is missing" for file in gone[:1]])

    @property
    def shown_parameters(self) -> dict[str, Any]:
        """The parameters without the places on this machine of photographs and weights."""

        def shown(value: Any) -> Any:
            if isinstance(value, list):
                return [shown(item) for item in value]
            whole = isinstance(value, str) and Path(value).is_absolute()
            return Path(value).name if whole else value

        return {key: shown(value) for key, value in self.parameters.items()}

    @property
    def place(self) -> str:
        """The place of the photographs as a hash: two folders may have one name, "" for none."""
        folder, root = Path(self.parameters.get("benchmark", "")), paths.root()
        # A project that is moved takes its folders with it.
        known = folder.relative_to(root) if folder.is_relative_to(root) else folder
        return content_hash(str(known)) if self.output.photographs else ""

    def _records(self) -> list[Path]:
        """Return the files of records that the page shows."""
        if self.name == OVERVIEW:
            own, pages = self.output.record_file(OVERVIEW), self.output.pages
            folders = [pages / one for one in ("provenance", "figures", "photographs")]
            files = [file for one in (self.output.tables, *folders) for file in one.glob("*.*")]
            return [file for file in files if file != own]
        patterns = SHOWS.get(self.name, ())
        if not self.parameters.get("benchmark"):
            patterns += SHOWS_ON_TOYTOWN.get(self.name, ())
        return [file for pattern in patterns for file in paths.root().glob(pattern)]

    def _photographs(self) -> list[str]:
        """Return the hash of each folder of photographs that the notebook reads."""
        named = [self.parameters.get("benchmark"), self.parameters.get("train_on")]
        named += self.parameters.get("distractors", [])
        data = paths.data()
        folders = [folders_of(one, data) or [Path(one)] for one in named if one]
        contents = remembered(data)
        hashes = [contents.folder_hash(one) for several in folders for one in several]
        contents.save()
        return hashes


def plan(name: str, given: Mapping[str, Any], folder: Path | None = None) -> Report:
    """Return the report of a notebook with all parameters that its tagged cell declares.

    They are those `given`, and the declared defaults of the others. Raises `UserError` for one that
    is not declared: papermill would only warn. folder: of the reports, as `output_for` takes it.
    """
    tagged = [cell for cell in read_cells(name) if "parameters" in cell["metadata"].get("tags", ())]
    if len(tagged) != 1:
        raise UserError(f"{name} needs one cell tagged 'parameters', it has {len(tagged)}")
    source = tagged[0]["source"]
    values, helps = dict[str, Any](), dict[str, str]()
    for line in ast.parse(source).body:
        if isinstance(line, ast.AnnAssign) and line.value:
            key = ast.unparse(line.target)
            values[key] = ast.literal_eval(line.value)
            helps[key] = source.splitlines()[line.lineno - 1].partition("#")[2].strip()
    for key, value in given.items():
        values[choose(f"parameter of {name}", key, values)] = value
    return Report(name, values, helps, output_for(values, folder))


def notebooks() -> list[str]:
    """Return the names of the notebooks that are there, in an order in which they can run."""
    return [name for name in (*ORDER, OVERVIEW) if notebook_path(name).is_file()]


def notebook_path(name: str) -> Path:
    """Return the file of the notebook `name`."""
    return paths.root() / "notebooks" / f"{name}.ipynb"


def read_cells(name: str) -> list[dict[str, Any]]:
    """Return the cells of a notebook, each with its `source` as one text."""
    cells = read_json(notebook_path(name))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def sums(files: Iterable[Path]) -> dict[str, str]:
    """Return the sha256 of each of the `files` that exist, by its name."""
    return {file.name: file_sha256(file) for file in sorted(files) if file.is_file()}


def upstream(name: str) -> list[str]:
    """Return `name` and all notebooks that it builds on."""
    found = [name]
    for one in found:
        found += [need for need in ORDER.get(one, ()) if need not in found]
    return [one for one in found if notebook_path(one).is_file()]


def what_counts(name: str) -> list[Any]:
    """Return what of a notebook counts: its cells, not their ids, outputs or the last kernel."""
    return [
        [cell["cell_type"], cell["source"], sorted(cell["metadata"].get("tags", []))]
        for cell in read_cells(name)
    ]
