"""Where reports go, what they were made from, and whether that is still so."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagf
from dagf import paths
from dagf.datasets.contents import remembered
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256, read_json, slug, write_text

# The notebooks and what each one needs to have run before it. Those that need nothing of each other run side by side.
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
    "07_large_scale": ("06_benchmark_tables",),  # it measures time: beside nothing else
    "08_search_your_photos": ("07_large_scale",),  # it needs 02 alone, but must not run beside 07
}

WHAT = {  # the parts of a content hash, in the words of a person
    "notebook": "the notebook, or one that it builds on, was changed",
    "module": "the module dagf was changed",
    "template": "the template of the reports was changed",
    "parameters": "it was made with other parameters",
    "data": "the data was changed",
    "weights": "the weights were changed",
    "photographs": "the tables measured on photographs were changed",
    "speed": "the record of make bench was changed",
}
SHOWS_PHOTOGRAPHS = (
    "06_benchmark_tables",
)  # whose page on Toytown also shows the tables measured on photographs
SHOWS_SPEED = (
    "04_scale_and_mask_ablation",
    "07_large_scale",
)  # whose pages show what `make bench` measured last


@dataclass(frozen=True)
class Project:
    """What reports are made from."""

    root: Path
    notebooks: Path
    package: Path = Path(dagf.__file__).parent
    order: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ORDER)

    @classmethod
    def here(cls) -> "Project":
        """The project that the current folder (or DAGF_ROOT) lies in."""
        return cls(paths.root(), paths.notebooks())

    def names(self) -> list[str]:
        """The notebooks that are there, by their number."""
        return [name for name in sorted(self.order) if self.path(name).is_file()]

    def path(self, name: str) -> Path:
        """The file of the notebook `name`."""
        return self.notebooks / f"{name}.ipynb"

    def upstream(self, name: str) -> list[str]:
        """`name` and all that it builds on."""
        found = [name]
        for one in found:
            found += [need for need in self.order.get(one, ()) if need not in found]
        return [one for one in found if self.path(one).is_file()]


@dataclass(frozen=True)
class Output:
    """Where the reports of one run go.

    Those on photographs are apart: their pages and figures show the photographs and stay on the machine, their
    tables are results that are kept.
    """

    pages: Path  # HTML, index, figures/, provenance/
    tables: Path
    photographs: str = ""  # the name of the photographs; "" for Toytown

    def page(self, name: str) -> Path:
        """The HTML of a notebook."""
        return self.pages / f"{name}.html"

    def record(self, name: str) -> Path:
        """What is known about the run that made a page."""
        return self.pages / "provenance" / f"{name}.json"

    def result(self, kind: str, name: str) -> Path:
        """Where the result file `name` of the kind "tables" or "figures" goes."""
        if kind == "tables":
            return self.tables / (f"{self.photographs}.{name}" if self.photographs else name)
        return self.pages / kind / name

    def link(self, path: Path) -> str:
        """`path` as a link in a page."""
        return Path(os.path.relpath(path, self.pages)).as_posix()


def output_for(parameters: Mapping[str, Any], reports: Path, folder: Path | None = None) -> Output:
    """Where the reports of a run with `parameters` go: `folder` if given, else in `reports`, the default's folder.

    There the profile `cpu` has the folder itself and another profile a folder of its name, so that a smoke run never
    takes the place of a measurement. Photographs go to photographs/ (only a smoke run on them to smoke/photographs/).
    """
    profile = str(parameters.get("profile", "cpu"))
    benchmark = str(parameters.get("benchmark", ""))
    profile = Path(profile).stem  # where it is a file of one's own, not the way to it
    own = profile == "smoke" or (profile != "cpu" and not benchmark)
    root = folder or (reports / slug(profile) if own else reports)
    if not benchmark:
        return Output(root, root / "tables")
    name = _folder_slug(Path(benchmark).resolve().name)
    name = name if profile in ("cpu", "smoke") else f"{name}-{slug(profile)}"
    return Output(root / "photographs" / name, root / "photographs", name)


@dataclass(frozen=True)
class Stale:
    """A report that is not what its sources would give now."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def _folder_slug(name: str) -> str:
    """The name of a folder as a slug; what a slug cannot hold (a name in other letters) is told apart by its hash."""
    return (
        slug(name)
        if name.isascii() and re.search("[a-z0-9_]", name.lower())
        else f"{slug(name)}-{content_hash(name, 6)}"
    )


def claim_pages(output: Output, parameters: Mapping[str, Any], project: Project) -> None:
    """Keep, as a hash, of which folder of photographs an output is: one of the same name must not replace its tables.

    Raises `UserError` where it is that of another folder. One that does not say so is of an earlier version.
    """
    if not output.photographs:
        return
    what = str(parameters["benchmark"])
    folder = _folders(what, project.root / "data")[0].resolve()
    inside = folder.is_relative_to(
        project.root.resolve()
    )  # a project that is moved takes its folders with it
    own = content_hash(os.path.relpath(folder, project.root.resolve()) if inside else str(folder))
    kept = output.pages / ".folder"
    if (
        kept.is_file()
        and kept.read_text(encoding="utf-8", errors="replace") != own
        and records(output, project.order)
    ):
        raise UserError(
            f"{output.pages} holds the reports on another folder that is called {folder.name}, too: give these a place "
            f"of their own with --output, or delete {output.pages} if that folder was moved"
        )
    write_text(kept, own)


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as plain JSON."""
    notebook = read_json(path)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise UserError(f"{path.name} is no notebook of version 4: open and save it in JupyterLab")
    return notebook


def shown_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` without the places on this machine where photographs and weights lie."""
    return {key: _shown(value) for key, value in parameters.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return (
        Path(value).name
        if isinstance(value, str) and Path(value).expanduser().is_absolute()
        else value
    )


def parts(
    project: Project, name: str, parameters: Mapping[str, Any], common: Mapping[str, str]
) -> dict[str, str]:
    """The hashes of all that the report of a notebook is made from; `common` are those that all share."""
    kept = (project.root / "reports" / "photographs").glob("*.json")
    shown = name in SHOWS_PHOTOGRAPHS and not parameters.get("benchmark")
    speed = [project.root / paths.SPEED]
    return {
        "notebook": content_hash([_sources(project.path(one)) for one in project.upstream(name)]),
        "parameters": content_hash([shown_parameters(parameters), _own_profile(parameters)]),
        **({"photographs": content_hash(hash_files(kept, project.root))} if shown else {}),
        **({"speed": content_hash(hash_files(speed, project.root))} if name in SHOWS_SPEED else {}),
        **common,
    }


def _own_profile(parameters: Mapping[str, Any]) -> str:
    """The sha256 of a profile that is a file of one's own; '' for one of ours, which is part of the module."""
    file = Path(str(parameters.get("profile", "")))
    return file_sha256(file) if file.suffix in (".yaml", ".yml") and file.is_file() else ""


def common_parts(project: Project, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of what all reports of a run are made from."""
    template = project.package / "show" / "template"
    code = [path for kind in ("*.py", "*.yaml") for path in project.package.rglob(kind)]
    listed = [project.root / "data" / file for file in ("manifest.json", "published.csv")]
    folders = [
        parameters.get("benchmark"),
        parameters.get("train_on"),
        *parameters.get("distractors", []),
    ]
    data = project.root / "data"
    contents = remembered(data)
    given = [
        contents.folder_hash(path) for what in folders if what for path in _folders(str(what), data)
    ]
    contents.save()
    weights = Path(str(parameters.get("weights") or "")).expanduser()
    return {
        "module": content_hash(hash_files(code, project.package)),
        "template": content_hash(hash_files(template.rglob("*"), template)),
        "data": content_hash([hash_files(listed, project.root), given]),
        "weights": file_sha256(weights) if weights.is_file() else "",
    }


def _folders(what: str, data: Path) -> list[Path]:
    """The folder of photographs that `what` names, or those of a public set that are here."""
    from dagf.datasets.public import (
        folders_of,  # its libraries take a moment, and Toytown needs none of them
    )

    return folders_of(what, data) or [Path(what).expanduser()]


def hash_files(files: Iterable[Path], base: Path) -> dict[str, str]:
    """Return the sha256 of each of the `files` that exist, by their path from `base`."""
    return {
        Path(os.path.relpath(path, base)).as_posix(): file_sha256(path)
        for path in sorted({*files})
        if path.is_file()
    }


def staleness(output: Output, name: str, now: Mapping[str, str]) -> str:
    """Why the report of `name` is not what `now` would give; "" when it is fresh."""
    if not output.record(name).is_file() or not output.page(name).is_file():
        return "there is no report yet"
    record = read_json(output.record(name))
    then = record.get("parts", {})
    changed = [WHAT[part] for part in now if then.get(part) != now[part]]
    if changed:
        return "; ".join(changed)
    missing = [file for file in record.get("files", []) if not (output.pages / file).is_file()]
    return f"{missing[0]} is missing" if missing else ""


def records(output: Output, order: Iterable[str]) -> list[dict[str, Any]]:
    """What is known about the reports that are there, in the order of the notebooks."""
    return [read_json(output.record(name)) for name in order if output.record(name).is_file()]


def _sources(path: Path) -> list[Any]:
    """What of a notebook counts: its cells, not their ids, outputs or the kernel that somebody last opened it with."""
    cells = read_notebook(path)["cells"]
    return [
        [
            cell.get("cell_type"),
            "".join(cell.get("source", "")),
            sorted(cell.get("metadata", {}).get("tags", [])),
        ]
        for cell in cells
    ]
