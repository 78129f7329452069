"""Other people's ground truth as ours: from folder names, a CSV with other columns, or a list of pairs.

Instances become a `labels.csv`; pairs, where each query has positives of its own, a `ground_truth.json` in the
field's form (imlist, qimlist, gnd). `dagf.datasets.folder.load_folder` reads both.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from dagf.datasets.folder import COLUMNS, LABELS, TRUTH, load_folder, read_csv, read_labels
from dagf.errors import UserError
from dagf.files import IMAGES, atomic_path, present

PAIRS = ("query", "positives")
ROLES = {
    "gallery": "database",
    "index": "database",
    "reference": "database",
    "ref": "database",
    "probe": "query",
}
Labelled = tuple[str, str, str]  # file, instance, role


def convert(
    folder: Path,
    listing: Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> list[str]:
    """Write the ground truth of `folder`, check it by loading it, and return what a person should know, in lines.

    listing: a CSV with the columns file and instance (role, if it has one), or query and positives (junk, if it has
    one; several names in a cell are parted by spaces, or by ; or | where names have spaces), in small or large letters.
    columns: our name of a column -> its name there. Without a listing the sub-folder of an image is its instance. Where
    nobody says which images are queries, the first of each instance is one, if it has another image to find.

    Raises `UserError` for what cannot be read, names missing files or cannot be a benchmark; then nothing is written,
    and what exists is only replaced with `force`.
    """
    if not present(folder, folder=True):
        raise UserError(f"{folder} is no folder: name the one that holds the images")
    images = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGES and path.is_file()
    )
    if not images:
        raise UserError(f"{folder} holds no image: name the folder that the ground truth speaks of")
    if listing is None:
        parents = {image: str(Path(image).parent) for image in images}
        labels = [(image, "" if parent == "." else parent, "") for image, parent in parents.items()]
        if not any(instance for _, instance, _ in labels):
            raise UserError(
                f"{folder} has no sub-folder with images, one an instance: give a list with --from"
            )
        lists = sorted(path.name for path in folder.glob("*.csv") if path.name != LABELS)
        told = [
            f"{name} was not read: if it is the ground truth, name it with --from and --force"
            for name in lists
        ]
        return [*_write_labels(folder, images, labels, force), *told]
    delimiter, header, renamed = _header(listing, columns or {})
    if set(PAIRS) <= set(header):
        return _write_pairs(
            folder, images, list(read_csv(listing, PAIRS, renamed, delimiter)), listing, force
        )
    lines = read_csv(listing, COLUMNS[:2], renamed, delimiter)
    roles = [(cells["file"], cells["instance"], cells.get("role", "")) for _, cells in lines]
    labels = [
        (_inside(file, folder), instance, ROLES.get(role.lower(), role))
        for file, instance, role in roles
    ]
    return _write_labels(folder, images, labels, force)


def _header(listing: Path, columns: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
    """The delimiter of a CSV, its columns by our names, and which of them were renamed."""
    try:
        with listing.open(encoding="utf-8-sig") as stream:
            first = stream.readline().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing} ({error}): it must be a CSV in UTF-8") from None
    delimiter = max(",;\t", key=first.count)
    theirs = [column.strip().strip('"') for column in first.split(delimiter)]
    if lost := [name for name in columns.values() if name not in theirs]:
        raise UserError(f"{listing} has no column '{lost[0]}': it has {', '.join(theirs)}")
    renamed = {name: ours for ours, name in columns.items()}
    known = {*COLUMNS, *PAIRS, *_LABELS.values()} - {*columns, *theirs}
    renamed |= {
        name: name.lower() for name in theirs if name not in renamed and name.lower() in known
    }
    header = [renamed.get(column, column) for column in theirs]
    if not any(set(needed) <= set(header) for needed in (PAIRS, COLUMNS[:2])):
        raise UserError(
            f"{listing} has the columns {', '.join(header)}: say with --column OURS=THEIRS which are file and instance "
            "(or query and positives)"
        )
    return delimiter, header, renamed


def _inside(file: str, folder: Path) -> str:
    path = Path(file)
    return (
        path.relative_to(folder.resolve()).as_posix()
        if path.is_relative_to(folder.resolve())
        else path.as_posix()
    )


def _write_labels(
    folder: Path, images: list[str], labels: list[Labelled], force: bool
) -> list[str]:
    counts = Counter(instance for _, instance, _ in labels if instance)
    if not any(role for _, _, role in labels):
        if not any(count > 1 for count in counts.values()):
            raise UserError(
                f"{folder}: no instance has two images, so that none could be found; check the instances"
            )
        first = {
            instance: file
            for file, instance, _ in sorted(labels, reverse=True)
            if counts[instance] > 1
        }
        asked_for = set(first.values())
        labels = [
            (
                file,
                instance,
                "distractor" if not instance else "query" if file in asked_for else "database",
            )
            for file, instance, _ in labels
        ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *labels])
    roles = Counter(role for _, _, role in labels)
    asked = any(role.startswith("query") for role in roles)
    _keep(folder, LABELS, text.getvalue(), force, benchmark=asked)
    said = [f"{folder / LABELS}: {len(labels)} images of {len(counts)} instances"]
    said += [f"{role}: {count} images" for role, count in sorted(roles.items())]
    single = sorted(instance for instance, count in counts.items() if count == 1)
    said += _note(single, "instances have one image, which finds nothing and is found by nothing")
    said += _note(
        sorted(set(images) - {file for file, _, _ in labels}),
        "images are in no line, and are not used",
    )
    said += [] if asked else ["no image is a query: this is a training set, not a benchmark"]
    return said + (
        []
        if "train" in roles
        else ["no image has the role train: heads are not trained on this folder"]
    )


def _write_pairs(
    folder: Path,
    images: list[str],
    lines: list[tuple[int, dict[str, str]]],
    listing: Path,
    force: bool,
) -> list[str]:
    queries = [_inside(cells["query"], folder) for _, cells in lines]
    named = [
        {
            key: [_inside(name, folder) for name in _names(cells.get(column, ""))]
            for key, column in _LABELS.items()
        }
        for _, cells in lines
    ]
    listed = {name for one in named for names in one.values() for name in names}
    if twice := [query for query, count in Counter(queries).items() if count > 1]:
        raise UserError(
            f"{listing} has {len(twice)} queries in two lines, as {', '.join(twice[:3])}: make one of them"
        )
    if missing := sorted({*queries, *listed} - set(images)):
        raise UserError(
            f"{listing} names {len(missing)} files that are not in {folder}, as {', '.join(missing[:3])}: mend the "
            "names, or name the folder that they are relative to"
        )
    database = sorted((set(images) - set(queries)) | listed)
    row = {file: index for index, file in enumerate(database)}
    truth = []
    for query, one in zip(queries, named, strict=True):
        ok, junk = ({row[name] for name in one[key]} for key in ("ok", "junk"))
        own = {row[query]} if query in row else set()  # a query never finds itself
        truth.append({"ok": sorted(ok - own - junk), "junk": sorted(junk | own)})
    if not any(one["ok"] for one in truth):
        raise UserError(f"{listing}: no query has a positive; check its column of positives")
    text = (
        json.dumps({"imlist": database, "qimlist": queries, "gnd": truth}, ensure_ascii=False)
        + "\n"
    )
    _keep(folder, TRUTH, text, force, benchmark=True)
    said = [f"{folder / TRUTH}: {len(queries)} queries, {len(database)} database images"]
    said += [
        f"{sum(len(one['ok']) for one in truth)} positives, {sum(len(one['junk']) for one in truth)} junk"
    ]
    said += _note(
        [q for q, one in zip(queries, truth, strict=True) if not one["ok"]],
        "queries have no positive",
    )
    said += _note(sorted(set(database) - listed), "database images are positive for no query")
    return [
        *said,
        "no query has a box: whole images are searched for",
        "pairs name no instances: nothing is trained",
    ]


_LABELS = {"ok": "positives", "junk": "junk"}


def _names(cell: str) -> list[str]:
    parts = re.split("[;|]", cell) if re.search("[;|]", cell) else cell.split()
    return [part.strip() for part in parts if part.strip()]


def _note(some: Iterable[str], words: str) -> list[str]:
    names = list(some)
    return (
        [f"{len(names)} {words}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"]
        if names
        else []
    )


def _keep(folder: Path, name: str, text: str, force: bool, benchmark: bool) -> None:
    """Write a ground truth, which only takes its place, and that of what was there before, once it could be loaded."""
    path, other = folder / name, folder / (TRUTH if name == LABELS else LABELS)
    if other.exists():
        raise UserError(f"{other} exists, and a folder has one ground truth: move it away first")
    if path.exists() and not force:
        raise UserError(f"{path} exists already: give --force to replace it")
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 40) : error.end]
        raise UserError(
            f"{folder} has an image whose name is not UTF-8, after {near!r}: rename it"
        ) from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        try:
            load_folder(folder, listing=temporary) if benchmark else read_labels(folder, temporary)
        except (
            UserError
        ) as error:  # the name that it would have had, for this one is gone when it is read
            raise UserError(str(error).replace(temporary.name, path.name)) from None
