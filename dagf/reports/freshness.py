"""Where reports go, what each one is made from, and whether that is still so.

A report is fresh when the hashes of its `parts` equal those that it was made from. Text that
decides nothing (comments, docstrings, the last kernel of a notebook) is not among them.
"""

import ast
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import papermill

from dagf import paths
from dagf.datasets.contents import remembered
from dagf.datasets.public import called, folders_of
from dagf.errors import choose
from dagf.files import content_hash, file_sha256, read_json, slug
from dagf.show.html import TEMPLATE
from dagf.study.profile import weights_file
from dagf.study.provenance import code_hash, imported_modules

# The notebooks, stage by stage: those of one run side by side, after all of the stages before, on
# which they build. 07 measures time, so nothing runs beside it.
STAGES = (
    ("01_data_and_protocol", "02_training"),
    ("03_attention_maps", "04_scale_and_mask_ablation", "05_attention_ablation"),
    ("06_benchmark_tables", "08_search_your_photos"),
    ("07_large_scale",),
)
OVERVIEW = "00_overview"  # it runs when all others are done: it reads their records
# The records, below the project's folder, that a page shows beside what it computes; one on
# photographs those of benchmarks alone.
LADDER = ("reports/ladder/tables/*.json", "reports/ladder/figures/*.svg")
SHOWS = {
    "02_training": (*LADDER, "reports/validation/tables/*.json", "data/backbones/trials.csv"),
    "04_scale_and_mask_ablation": (str(paths.SPEED),),
    "05_attention_ablation": LADDER,
    "06_benchmark_tables": (
        *("data/published.csv", "reports/photographs/[!.]*.json", "docs/registration.md"),
    ),
    "07_large_scale": (str(paths.SPEED),),
    "08_search_your_photos": ("benchmarks/descriptors.csv",),
}
OUTPUT = "DAGF_OUTPUT"  # set by the runner: the folder of the reports that a notebook belongs to


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

    def page(self, name: str) -> Path:
        """Return the HTML file of a notebook; that of the overview is the index."""
        return self.pages / ("index.html" if name == OVERVIEW else f"{name}.html")

    def record_file(self, name: str) -> Path:
        return self.pages / "provenance" / f"{name}.json"

    def record(self, name: str) -> dict[str, Any]:
        """Return the record of the run that made a page; {} where there is none."""
        file = self.record_file(name)
        return read_json(file) if file.is_file() else {}

    def records(self) -> list[dict[str, Any]]:
        """Return the records of the reports that are there, in their order, but the index."""
        return [record for name in sorted(chain(*STAGES)) if (record := self.record(name))]

    def result(self, kind: str, name: str) -> Path:
        """Return where the result file `name` of the kind "tables" or "figures" goes."""
        if self.photographs and kind == "tables":
            return self.root / "photographs" / f"{self.photographs}.{name}"
        return self.pages / kind / name

    def link(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.pages)).as_posix()


def output_for(profile: str = "cpu", benchmark: str = "", folder: Path | None = None) -> Output:
    """Return where the reports of a run go: in `folder` (or that of the run now), or in reports/.

    There the profile `cpu` has the folder itself and another profile a folder of its name, so
    that a smoke run never takes the place of a measurement. Photographs go to photographs/NAME
    (only a smoke run on them to smoke/photographs/NAME).
    """
    profile = Path(profile).stem  # it may be a file of one's own
    apart = profile == "smoke" or (profile != "cpu" and not benchmark)
    given = folder or os.environ.get(OUTPUT)
    root = Path(given) if given else paths.root() / "reports" / (slug(profile) if apart else "")
    if not benchmark:
        return Output(root)
    whole = called(benchmark)
    # What a slug cannot hold (a name in other letters) is told apart by its hash.
    name = slug(whole) if whole.isascii() else f"{slug(whole)}-{content_hash(whole, 6)}"
    return Output(root, name if profile in ("cpu", "smoke") else f"{name}-{slug(profile)}")


@dataclass(frozen=True)
class Report:
    """A notebook, what it runs with, and where its page goes."""

    name: str
    parameters: dict[str, Any]
    output: Output

    def parts(self) -> dict[str, str]:
        """Return the hashes of all that the report would be made from now, by their names."""
        code = "\n".join(source for kind, source, _ in cells(self.name) if kind == "code")
        before = {*chain(*takewhile(lambda stage: self.name not in stage, STAGES))}
        file = weights_file(self.parameters["profile"], self.parameters["weights"])
        # Toytown's arms start from them; their records hold the hashes of their weights.
        backbones = [] if self.output.photographs else paths.backbones().glob("*/record.json")
        decides = {
            "notebooks": [cells(one) for one in notebooks() if one in before | {self.name}],
            "code": code_hash(*sorted(imported_modules(code))),
            "template": [code_hash("dagf.reports.page"), sums(TEMPLATE.iterdir())],
            "parameters": [
                self.shown_parameters,
                sums([paths.profile(self.parameters["profile"])]),
            ],
            "data": [sums([paths.data() / "manifest.json"]), self._photographs()],
            "weights": sums([*filter(None, [file]), *backbones]),
            "records": sums(self._records()),
        }
        return {part: content_hash(value) for part, value in decides.items()}

    def staleness(self) -> str:
        """Return why the report is not what its sources would give now; "" when it is fresh."""
        record = self.output.record(self.name)
        if not record or not self.output.page(self.name).is_file():
            return "there is no report yet"
        then = record["parts"]
        changed = [part for part, now in self.parts().items() if then.get(part) != now]
        gone = [file for file in record["files"] if not (self.output.pages / file).is_file()]
        words = {"changed": changed, "missing": gone}
        return "; ".join(f"{word}: {', '.join(what)}" for word, what in words.items() if what)

    @property
    def shown_parameters(self) -> dict[str, Any]:
        """The parameters without the places on this machine of photographs and weights."""

        def shown(value: Any) -> Any:
            if isinstance(value, list):
                return [*map(shown, value)]
            path = Path(str(value))
            if not path.is_absolute():
                return value  # of a folder's ground truths it is one
            return "/".join(path.parts[-2:]) if path.suffix == ".json" else path.name

        return {key: shown(value) for key, value in self.parameters.items()}

    def _records(self) -> Iterable[Path]:
        if self.name == OVERVIEW:
            pages, tables = self.output.pages, self.output.result("tables", "any").parent
            folders = {tables, *(pages / one for one in ("provenance", "figures", "photographs"))}
            files = {file for folder in folders for file in folder.glob("[!.]*.*")}
            return files - {self.output.record_file(OVERVIEW)}
        patterns = SHOWS.get(self.name, ())
        if self.output.photographs:
            patterns = tuple(one for one in patterns if one.startswith("benchmarks"))
        found = (file for pattern in patterns for file in paths.root().glob(pattern))
        own = {self.output.result(kind, "any").parent for kind in ("tables", "figures")}
        return [file for file in found if file.parent not in own]

    def _photographs(self) -> list[str]:
        """Return the hash of each folder of photographs that the notebook reads."""
        of, data = self.parameters, paths.data()
        named = filter(None, [of["benchmark"], *of["train_on"], *of["distractors"]])
        contents = remembered(data)
        folders = [one for name in named for one in folders_of(name, data)]
        found = [contents.folder_hash(folder) for folder in folders]
        contents.save()
        return found


def plan(name: str, given: Mapping[str, Any], folder: Path | None = None) -> Report:
    """Return the report of a notebook with all parameters that its tagged cell declares.

    They are those `given`, and the declared defaults of the others. Raise `UserError` for one that
    is not declared: papermill would only warn. folder: of the reports, as `output_for` takes it.
    """
    declared = papermill.inspect_notebook(str(notebook_path(name)))
    values = {key: ast.literal_eval(one["default"]) for key, one in declared.items()}
    for key, value in given.items():
        values[choose(f"parameter of {name}", key, values)] = value
    return Report(name, values, output_for(values["profile"], values["benchmark"], folder))


def notebooks() -> list[str]:
    """Return the names of the notebooks that are there, in an order in which they can run."""
    return [name for name in (*sorted(chain(*STAGES)), OVERVIEW) if notebook_path(name).is_file()]


def notebook_path(name: str) -> Path:
    return paths.root() / "notebooks" / f"{name}.ipynb"


def cells(name: str) -> list[tuple[str, str, list[str]]]:
    """Return what of a notebook counts: the type, source and tags of its cells, no output."""
    found = read_json(notebook_path(name))["cells"]
    return [
        (one["cell_type"], "".join(one["source"]), one["metadata"].get("tags")) for one in found
    ]


def sums(files: Iterable[Path]) -> list[tuple[str, str]]:
    """Return the name and the sha256 of each of the `files` that exist."""
    return [(file.name, file_sha256(file)) for file in sorted(files) if file.is_file()]
