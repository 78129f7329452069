"""Where everything lies: notebooks and modules take every folder from here.

Inside the project (the folder with its pyproject.toml and notebooks, or the one that `DAGF_ROOT`
names) it all lies there; elsewhere where the system keeps a user's data and caches.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from dagf.errors import UserError, choose
from dagf.files import existing_file

ROOT = "DAGF_ROOT"  # names the project's folder when the current folder is not inside it
SPEED = Path("benchmarks", "results.json")  # what `make bench` measured, below the project's folder
OURS = "pyproject.toml", "notebooks/00_overview.ipynb"  # others have projects with notebooks, too
RESULTS = "DAGF_RESULTS"  # set by the report runner: where a notebook leaves tables and figures
PROFILES = Path(__file__).parent / "study" / "profiles"  # those that come with the study


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def profile(name: str) -> Path:
    """Return the file of a profile: one of ours by its name, or a YAML file of your own.

    Raise `UserError` for an unknown name (with the nearest one) and for a missing file.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(existing_file(name))
    return PROFILES / f"{choose('profile', name, profile_names())}.yaml"


def project() -> Path | None:
    """Return the project's folder, None outside of one."""
    if given := os.environ.get(ROOT):
        if not Path(given).is_dir():
            raise UserError(f"{ROOT} names {given}, which is no folder")
        return Path(given).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if all((folder / file).is_file() for file in OURS):
            return folder
    return None


def root() -> Path:
    """Return the project's folder. Raise `UserError` outside of one."""
    folder = project()
    if folder is None:
        raise UserError(f"this needs the project's folder: change into it or set {ROOT}")
    return folder


def data() -> Path:
    """Return the folder of data sets: drawn, downloaded or trained."""
    folder = project()
    return folder / "data" if folder else user_data_path("dagf", appauthor=False)


def cache() -> Path:
    """Return the folder of what can be computed again."""
    folder = project()
    return folder / "data" / "cache" if folder else user_cache_path("dagf", appauthor=False)


def runs() -> Path:
    """Return the run store: one folder a trained model."""
    return data() / "runs"


def backbones() -> Path:
    """Return the backbones that come with the project: run folders, too."""
    return data() / "backbones"


def manifest() -> Path:
    """Return the list of public data sets, which comes with the project."""
    return root() / "data" / "manifest.json"


def scratch() -> Path:
    """Return where notebooks leave results when a person runs them, the runner unfinished work."""
    return data() / "scratch"


def result(kind: str, name: str) -> Path:
    """Return where a notebook writes a result: of "tables" or "figures", e.g. "main.json"."""
    folder = Path(os.environ.get(RESULTS) or scratch()) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def relative(path: Path) -> str:
    """Return `path` to print: as seen from the project's folder when it lies inside."""
    folder = project()
    return path.relative_to(folder).as_posix() if folder and folder in path.parents else str(path)
