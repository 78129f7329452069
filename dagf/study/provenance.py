"""What a result was made by: the code that decides it, as a hash, and the machine.

A run or a table is named by the code of the module that makes it and of all dagf modules that this
one imports, and so on. They are found from the import statements: no list is kept by hand, which
could leave one out.
"""

import ast
import platform
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from dagf.files import content_hash

PACKAGE = Path(__file__).parents[1]


@cache
def code_hash(*modules: str) -> str:
    """Return the hash of the code of dagf modules and of all that they import, directly or not.

    modules: full names, e.g. "dagf.study.training". Comments, docstrings and layout do not count.
    """
    sources: dict[str, str] = {}
    waiting = {*modules}
    while waiting:
        files = {name: _file(name) for name in waiting}
        sources |= {name: file.read_text("utf-8") for name, file in files.items() if file}
        found = (imported_modules(sources[name]) for name in waiting)
        waiting = set().union(*found) - sources.keys()
    return content_hash({name: code_only(source) for name, source in sources.items()})


@cache
def imported_modules(source: str) -> set[str]:
    """Return the dagf modules that a source text imports, wherever it does, with their packages.

    The package dagf itself, which has the public names alone, counts where it is imported by name.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if _file(name)}
            found |= modules if modules == inner else {*modules, node.module}
    ours = {name for name in found if name.split(".")[0] == PACKAGE.name and _file(name)}
    packages = {name.rsplit(".", depth)[0] for name in ours for depth in range(1, name.count("."))}
    return ours | packages


@cache
def code_only(source: str) -> str:
    """Return a source text without comments, docstrings and layout: what is left decides."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _file(module: str) -> Path | None:
    """The file of a dagf module; None for what is no module, such as a function of one."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def machine(threads: int) -> dict[str, Any]:
    """Return what matters of a machine to the figures made on it: no host name, no user name.

    Names of CPU and NVIDIA GPUs are the system's own: importing torch would take seconds.
    """
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    files = [file for file in (Path("/proc/cpuinfo"), *gpus) if file.is_file()]
    text = "\n".join(file.read_text(errors="replace") for file in files)
    cpus = re.findall(r"model name\s*: (.+)", text)
    return {
        "cpu": cpus[0] if cpus else platform.processor() or platform.machine(),
        "threads": threads,
        "gpus": re.findall(r"^Model:\s*(.+)", text, re.MULTILINE),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision", "numpy")},
    }
