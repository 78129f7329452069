"""Other people's ground truth as ours: from folder names, a CSV with other columns, or pairs.

Instances become a labels.csv; pairs, where each query has positives of its own, a ground_truth.json
in the field's form (imlist, qimlist, gnd). `dagf.datasets.folder.load_folder` reads both.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dagf.datasets.folder import COLUMNS, LABELS, TRUTH, load_folder, read_csv, read_labels
from dagf.errors import UserError
from dagf.files import ANY_NAME, IMAGES, atomic_path

PAIRS = ("query", "positives", "junk")
ROLES = {  # what others call our roles
    **dict.fromkeys(("gallery", "index", "reference", "ref"), "database"),
    "probe": "query",
}
Cells = dict[str, str]


def convert(
    folder: Path,
    listing: Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> list[str]:
    """Write the ground truth of `folder`, check it by loading it, and return lines on it.

    listing: a CSV with the columns file and instance (and role), or query and positives (and junk),
    whose names are parted by spaces, or by ; or | where they have spaces. columns: our name of a
    column -> its name there. Without a listing the sub-folder of an image is its instance. Where
    nobody says which images are queries, the first of each instance is one, if it has another image
    to find. Raise `UserError`, and writes nothing, where that is no ground truth; what exists is
    only replaced with `force`.
    """
    images = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGES and path.is_file()
    )
    if not images:
        raise UserError(f"{folder} holds no image: name the folder that the ground truth speaks of")
    if listing:
        rows = _read(listing, columns or {})
    else:
        rows = [{"file": image, "instance": image.rpartition("/")[0]} for image in images]
    if listing and "query" in rows[0]:
        name, (text, said) = TRUTH, _pairs(folder, listing, images, rows)
    else:
        name, (text, said) = LABELS, _labels(folder, images, rows)
    _keep(folder, name, text, force)
    return [f"{folder / name}: {said[0]}", *said[1:]]


def _read(listing: Path, columns: Mapping[str, str]) -> list[Cells]:
    """Return the lines of a CSV by our names of columns, in small or large letters there."""
    try:
        first = listing.read_text(encoding="utf-8-sig").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing} ({error}): it must be a CSV in UTF-8") from None
    delimiter = max(",;\t", key=first.count)
    theirs = [name.strip().strip('"') for name in first.split(delimiter)]
    if lost := [name for name in columns.values() if name not in theirs]:
        raise UserError(f"{listing} has no column '{lost[0]}': it has {', '.join(theirs)}")
    ours = {theirs: ours for ours, theirs in columns.items()}
    left = {*COLUMNS, *PAIRS} - {*columns, *theirs}
    ours |= {name: name.lower() for name in theirs if name not in ours and name.lower() in left}
    header = [ours.get(name, name) for name in theirs]
    twice = [name for name, count in Counter(header).items() if count > 1]
    wanted = next((some[:2] for some in (PAIRS, COLUMNS) if {*some[:2]} <= {*header}), None)
    if twice or not wanted:
        raise UserError(
            f"{listing} has the columns {', '.join(header)}: say with --column OURS=THEIRS which"
            " are file and instance (or query and positives), each once"
        )
    rows = [cells for _, cells in read_csv(listing, wanted, ours, delimiter)]
    if not rows:
        raise UserError(f"{listing} has no line: give one for each image, or for each query")
    return rows


def _labels(folder: Path, images: list[str], rows: list[Cells]) -> tuple[str, list[str]]:
    """Return the text of a labels.csv, and what to say of it."""
    table = pd.DataFrame(rows).reindex(columns=COLUMNS, fill_value="")
    table["file"] = [_inside(file, folder) for file in table["file"]]
    table["role"] = [ROLES.get(role.lower(), role) for role in table["role"]]
    counts = table["instance"][table["instance"] != ""].value_counts()
    if not table["role"].any():
        found = table[table["instance"].map(counts) > 1].sort_values("file")
        if found.empty:
            raise UserError(
                f"{folder}: no instance has two images: put those of one instance into one"
                " sub-folder, or give a list with --from"
            )
        table["role"] = np.where(table["instance"] == "", "distractor", "database")
        table.loc[found.drop_duplicates("instance").index, "role"] = "query"
    said = [f"{len(table)} images of {len(counts)} instances"]
    roles = table["role"].value_counts()
    said += [f"{role}: {count} images" for role, count in roles.sort_index().items()]
    said += _note(
        {*counts[counts == 1].index},
        "instances have one image, which finds nothing and is found by nothing",
    )
    said += _note({*images} - {*table["file"]}, "images are in no line, and are not used")
    if not any(role.startswith("query") for role in roles.index):
        said.append("no image is a query: this is a training set, not a benchmark")
    if "train" not in roles:
        said.append("no image has the role train: heads are not trained on this folder")
    return table.to_csv(index=False), said


def _pairs(
    folder: Path, listing: Path, images: list[str], rows: list[Cells]
) -> tuple[str, list[str]]:
    """Return the text of a ground_truth.json, and what to say of it."""
    queries = [_inside(row["query"], folder) for row in rows]
    ok, junk = (
        [{_inside(name, folder) for name in _names(row.get(column, ""))} for row in rows]
        for column in PAIRS[1:]
    )
    listed = set[str]().union(*ok, *junk)
    if len(set(queries)) < len(queries):
        query = Counter(queries).most_common(1)[0][0]
        raise UserError(f"{listing} has the query {query} in two lines: make one of them")
    if missing := sorted({*queries, *listed} - {*images}):
        raise UserError(
            f"{listing} names {len(missing)} files that are not in {folder}, as"
            f" {', '.join(missing[:3])}: mend them, or name the folder that they are relative to"
        )
    database = sorted(({*images} - {*queries}) | listed)
    row = {file: index for index, file in enumerate(database)}
    entries = []
    for query, right, neither in zip(queries, ok, junk, strict=True):
        own = {query} & row.keys()  # a query never finds itself
        parts = {"ok": right - own - neither, "junk": neither | own}
        entries.append({key: sorted(row[name] for name in part) for key, part in parts.items()})
    counts = {key: sum(len(entry[key]) for entry in entries) for key in ("ok", "junk")}
    if not counts["ok"]:
        raise UserError(f"{listing}: no query has a positive; check its column of positives")
    truth = {"imlist": database, "qimlist": queries, "gnd": entries}
    without = [query for query, entry in zip(queries, entries, strict=True) if not entry["ok"]]
    return json.dumps(truth, ensure_ascii=False) + "\n", [
        f"{len(queries)} queries, {len(database)} database images",
        f"{counts['ok']} positives, {counts['junk']} junk",
        *_note(without, "queries have no positive"),
        *_note({*database} - listed, "database images are positive for no query"),
        "no query has a box: whole images are searched for",
        "pairs name no instances: nothing is trained",
    ]


def _inside(file: str, folder: Path) -> str:
    """Return a name as seen from the folder, where it is a whole path into it."""
    path, home = Path(file), folder.resolve()
    return (path.relative_to(home) if path.is_relative_to(home) else path).as_posix()


def _names(cell: str) -> Sequence[str]:
    parts = re.split("[;|]", cell) if re.search("[;|]", cell) else cell.split()
    return [part.strip() for part in parts if part.strip()]


def _note(some: Collection[str], words: str) -> list[str]:
    more = " ..." if len(some) > 3 else ""
    return [f"{len(some)} {words}: {', '.join(sorted(some)[:3])}{more}"] if some else []


def _keep(folder: Path, name: str, text: str, force: bool) -> None:
    """Write a ground truth, which takes its place only once it could be loaded."""
    path, other = folder / name, folder / (TRUTH if name == LABELS else LABELS)
    if other.exists():
        raise UserError(f"{other} exists, and a folder has one ground truth: move it away first")
    if path.exists() and not force:
        raise UserError(f"{path} exists already: give --force to replace it")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=ANY_NAME)
        try:
            rows = read_labels(folder, temporary) if name == LABELS else []
            if not rows or any(row.role.startswith("query") for row in rows):
                load_folder(folder, listing=temporary)
        except UserError as error:  # under the name that it would have had
            raise UserError(str(error).replace(temporary.name, path.name)) from None
