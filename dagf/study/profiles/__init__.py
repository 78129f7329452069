"""The profiles that come with the study: one commented YAML file each."""

from pathlib import Path

from dagf.errors import UserError, choose

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """Return the file of a profile: one of ours by its name, or a YAML file of your own.

    Raises `UserError` for an unknown name (with the nearest one) and for a missing file.
    """
    if not name.endswith((".yaml", ".yml")):
        return FOLDER / f"{choose('profile', name, names())}.yaml"
    if not Path(name).is_file():
        raise UserError(f"profile {name} does not exist")
    return Path(name).resolve()
