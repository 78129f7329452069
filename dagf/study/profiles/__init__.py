"""The profiles that come with the study: one commented YAML file each."""

from pathlib import Path

from dagf.errors import UserError, choose

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a profile: one of ours by its name, or a YAML file of your own by its path.

    Raises `UserError` for a name that is not known (with the nearest one) and for a file that does not exist.
    """
    if not name.endswith((".yaml", ".yml")):
        return FOLDER / f"{choose('profile', name, names())}.yaml"
    if not Path(name).is_file():
        raise UserError(f"profile {name} does not exist")
    return Path(name).resolve()
