"""Ground truth of the public sets: pickles and JSON of plain data, read without running code."""

import pickle
from pathlib import Path
from typing import Any, NoReturn

from dagf.errors import UserError
from dagf.files import read_json


class _PlainUnpickler(pickle.Unpickler):
    """Dictionaries, lists, strings and numbers alone: what names a class or function is refused."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")


def load_ground_truth(path: Path) -> dict[str, Any]:
    """Return the dictionary in a ground-truth file, .pkl or .json.

    Raise `UserError` for a pickle of anything but plain data, and a missing or broken file.
    """
    if path.suffix == ".json":
        value = read_json(path, "mend it, or get the set's ground truth again")
    else:
        try:
            with path.open("rb") as stream:
                value = _PlainUnpickler(stream, encoding="latin-1").load()
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; it should be the set's ground truth"
            ) from error
        except Exception as error:  # the unpickler raises nearly anything on broken bytes
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{path} is no pickle of plain data ({reason}): get it again") from None
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a {type(value).__name__}, not a dictionary of imlist, qimlist and gnd"
        )
    return value


def plain_file(folder: Path, stem: str) -> Path:
    """Return STEM.json where it is in `folder`, or else STEM.pkl."""
    path = folder / f"{stem}.json"
    return path if path.is_file() else folder / f"{stem}.pkl"
