"""Other people's ground truth as ours: from folder names, a CSV with other columns, or pairs.

Instances become a labels.csv; pairs, where each query has positives of its own, a ground_truth.json
in the field's form (imlist, qimlist, gnd). `dagf.datasets.folder.load_folder` reads both.
"""

import json
import re
from collections.abc import Collection, Mapping
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
        table = _read(listing, columns or {})
    else:
        table = pd.DataFrame({"file": images})
        table["instance"] = table["file"].str.rpartition("/")[0]
    for column in {"file", "query"} & {*table}:
        table[column] = [_inside(file, folder) for file in table[column]]
    name, other = (TRUTH, LABELS) if "query" in table else (LABELS, TRUTH)
    path = folder / name
    if (folder / other).exists():
        raise UserError(
            f"{folder / other} exists, and a folder has one ground truth: move it away first"
        )
    if path.exists() and not force:
        raise UserError(f"{path} exists already: give --force to replace it")
    text, said = (_pairs if name == TRUTH else _labels)(folder, images, table)
    with atomic_path(path) as temporary:  # which takes its place only once it could be loaded
        temporary.write_text(text, encoding="utf-8", errors=ANY_NAME)
        try:
            if name == TRUTH or read_labels(folder, temporary)["role"].str.match("query").any():
                load_folder(folder, listing=temporary)
        except UserError as error:  # under the name that it would have had
            raise UserError(str(error).replace(temporary.name, path.name)) from None
    return [f"{path}: {said[0]}", *said[1:]]


def _read(listing: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the cells of a CSV by our names of columns, in small or large letters there."""
    try:
        first = listing.read_text(encoding="utf-8-sig").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing} ({error}): it must be a CSV in UTF-8") from None
    table = read_csv(listing, [*columns.values()], max(",;\t", key=first.count))
    theirs = {name.lower(): name for name in sorted(table.columns)} | {**columns}
    ours = [name for name in (*PAIRS, *COLUMNS) if name in theirs]
    if ours[:2] not in ([*PAIRS[:2]], [*COLUMNS[:2]]):
        raise UserError(
            f"{listing} has the columns {', '.join(table.columns)}: say with --column OURS=THEIRS"
            " which are file and instance (or query and positives)"
        )
    if table.empty:
        raise UserError(f"{listing} has no line: give one for each image, or for each query")
    return pd.DataFrame({name: table[theirs[name]] for name in ours})


def _labels(folder: Path, images: list[str], rows: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the text of a labels.csv, and what to say of it."""
    table = rows.reindex(columns=COLUMNS, fill_value="")
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
    roles = table["role"].value_counts().sort_index()
    said = [f"{len(table)} images of {len(counts)} instances"]
    said += [f"{role}: {count} images" for role, count in roles.items()]
    said += _note(
        counts.index[counts == 1],
        "instances have one image, which finds nothing and is found by nothing",
    )
    said += _note({*images} - {*table["file"]}, "images are in no line, and are not used")
    if not roles.index.str.match("query").any():
        said.append("no image is a query: this is a training set, not a benchmark")
    if "train" not in roles:
        said.append("no image has the role train: heads are not trained on this folder")
    return table.to_csv(index=False), said


def _pairs(folder: Path, images: list[str], rows: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the text of a ground_truth.json, and what to say of it."""
    for query in rows["query"][rows["query"].duplicated()]:
        raise UserError(f"the query {query} is in two lines: make one of them")
    lists = rows.set_index("query").reindex(columns=PAIRS[1:], fill_value="")
    lists = lists.map(lambda cell: {_inside(name, folder) for name in _names(cell)})
    listed = set[str]().union(*lists["positives"], *lists["junk"])
    database = sorted(({*images} - {*lists.index}) | listed)
    row = {file: index for index, file in enumerate(database)}
    entries = []
    for query, right, neither in lists.itertuples():
        own = {query} & row.keys()  # a query never finds itself
        parts = {"ok": right - own - neither, "junk": neither | own}
        entries.append({key: sorted(row[name] for name in part) for key, part in parts.items()})
    table = pd.DataFrame(entries, lists.index).map(len)
    truth = {"imlist": database, "qimlist": [*lists.index], "gnd": entries}
    return json.dumps(truth, ensure_ascii=False) + "\n", [
        f"{len(entries)} queries, {len(database)} database images",
        f"{table['ok'].sum()} positives, {table['junk'].sum()} junk",
        *_note(table.index[table["ok"] == 0], "queries have no positive"),
        *_note({*database} - listed, "database images are positive for no query"),
        "no query has a box: whole images are searched for",
        "pairs name no instances: nothing is trained",
    ]


def _inside(file: str, folder: Path) -> str:
    """Return a name as seen from the folder, where it is a whole path into it."""
    path, home = Path(file), folder.resolve()
    return (path.relative_to(home) if path.is_relative_to(home) else path).as_posix()


def _names(cell: str) -> list[str]:
    parts = re.split("[;|]", cell) if re.search("[;|]", cell) else cell.split()
    return [part.strip() for part in parts if part.strip()]


def _note(some: Collection[str], words: str) -> list[str]:
    more = " ..." if len(some) > 3 else ""
    return [f"{len(some)} {words}: {', '.join(sorted(some)[:3])}{more}"] if len(some) else []
