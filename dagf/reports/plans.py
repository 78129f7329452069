"""Which notebooks to run, and with which parameters: strictly those that they declare."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dagf.errors import UserError, choose
from dagf.files import content_hash
from dagf.reports.freshness import Project, common_parts, parts, read_notebook

PASSED = (
    str,
    bool,
    int,
    float,
    list,
)  # what papermill hands over unchanged: a tuple would become a string


@dataclass(frozen=True)
class Plan:
    """A notebook, what it runs with, and what its report is then made from."""

    name: str
    parameters: dict[str, Any]
    helps: dict[str, str]  # the comment beside each parameter
    parts: dict[str, str]

    @property
    def content(self) -> str:
        """The content hash that its report carries."""
        return content_hash(self.parts)


def plan(project: Project, parameters: Mapping[str, Any], only: Sequence[str] = ()) -> list[Plan]:
    """The notebooks to bring up to date, all of them or `only` some, each with all of its parameters."""
    known = project.names()
    if not known:
        raise UserError(f"no notebook of the study is in {project.notebooks.name}/")
    chosen = {
        choose("notebook", Path(name).name.removesuffix(".ipynb"), known) for name in only
    } or set(known)
    common = common_parts(project, parameters)
    plans = []
    for name in (one for one in known if one in chosen):
        declared = inspect(project.path(name))
        values = fill(name, declared, parameters)
        helps = {key: value["help"] for key, value in declared.items()}
        plans.append(Plan(name, values, helps, parts(project, name, values, common)))
    return plans


def inspect(path: Path) -> dict[str, dict[str, str]]:
    """The parameters that a notebook declares in its cell tagged `parameters`, as papermill reads them."""
    import nbformat  # these two take a second to import
    import papermill

    notebook = read_notebook(path)
    tagged = [
        cell
        for cell in notebook["cells"]
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(tagged) != 1:
        raise UserError(f"{path.name} needs one cell tagged 'parameters', it has {len(tagged)}")
    # Whatever kernel somebody opened it with last: it is run with this Python.
    notebook["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    node = nbformat.from_dict(notebook)  # type: ignore[no-untyped-call]
    found: dict[str, dict[str, str]] = papermill.inspect_notebook(node)
    return found


def fill(
    name: str, declared: Mapping[str, Mapping[str, str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All parameters of the notebook `name`: those `given`, and the declared defaults of the others."""
    values = {key: _literal(name, key, info["default"]) for key, info in declared.items()}
    for key, value in given.items():
        info = declared[choose(f"parameter of {name}", key, declared)]
        values[key] = _as_declared(name, key, info["inferred_type_name"], value)
    if values.get("benchmark"):  # the notebook runs in another folder
        folder = Path(str(values["benchmark"])).expanduser()
        values["benchmark"] = str(folder.resolve()) if folder.is_dir() else values["benchmark"]
    return values


def _literal(name: str, key: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UserError(
            f"{name}: the default of the parameter {key} must be a plain value, not {text}"
        ) from error


def _as_declared(name: str, key: str, kind: str, value: Any) -> Any:
    """`value` as the declared type; text from a command line is read as a value where the notebook wants no text."""
    wanted = {"str": str, "bool": bool, "int": int, "float": (int, float)}.get(
        kind, list if kind[:4] == "list" else None
    )
    if isinstance(value, str) and wanted not in (str, None):
        try:
            value = ast.literal_eval(value.capitalize() if value in ("true", "false") else value)
        except (ValueError, SyntaxError):
            raise UserError(
                f"{name}: the parameter {key} is of type {kind}, not '{value}'"
            ) from None
    is_bool = isinstance(value, bool)  # Python counts True as an int
    if wanted is not None and (not isinstance(value, wanted) or (is_bool and wanted is not bool)):  # type: ignore[arg-type]
        raise UserError(f"{name}: the parameter {key} is of type {kind}, not {value!r}")
    if type(value) not in PASSED:
        raise UserError(
            f"{name}: the parameter {key} must be text, a number, true or false, or a list, not {value!r}"
        )
    return value
