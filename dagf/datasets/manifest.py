"""data/manifest.json: where the public data sets are, and what each must hold.

What no source states is left out of the manifest, and the set's `unmeasured` says so.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from dagf.datasets.benchmark import first_mistake
from dagf.errors import UserError
from dagf.files import read_json


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RemoteFile(_Model):
    """A file of a set: where it is, and how it is laid out in the set's folder.

    mirrors: addresses, in the order to try. bytes: its size, of archives roughly. md5_from: the
    address of a text with its md5. members: of a zip or tar the members to unpack, as a pattern of
    their whole path whose group is their name; other files stay as they are. into: a sub-folder.
    """

    file: str
    mirrors: tuple[str, ...]
    sha256: str | None = None
    bytes: int = 0
    md5_from: str | None = None
    members: str = ""
    into: str = ""


class DataSet(_Model):
    """A public data set; `needs` names the sets without which it is of no use.

    holds: pattern -> number of files (None: one or more). counts: of a benchmark the queries,
    database images, boxes, and each label summed over the queries; of a training set the images.
    """

    name: str
    title: str
    folder: str
    files: tuple[RemoteFile, ...]
    needs: tuple[str, ...] = ()
    holds: Mapping[str, int | None] = {}
    counts: Mapping[str, int] = {}
    unmeasured: str = ""
    notes: str = ""

    @field_validator("files", mode="before")
    @classmethod
    def _numbered(cls, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write out entries with `numbers`: one file a number, which takes the place of {}."""
        found = []
        for entry in files:
            text = json.dumps({key: value for key, value in entry.items() if key != "numbers"})
            first, last, digits = entry.get("numbers", (0, 0, 1))
            names = [f"{number:0{digits}d}" for number in range(first, last + 1)]
            found += [json.loads(text.replace("{}", name)) for name in names]
        return found


def read_manifest(path: Path) -> dict[str, DataSet]:
    """Return the data sets by name; raise `UserError` where the file is not of this form."""
    try:
        sets = TypeAdapter(list[DataSet]).validate_python(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is no manifest ({first_mistake(error)}): get it again") from None
    return {one.name: one for one in sets}
