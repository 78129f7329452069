"""Your own photographs as a benchmark: a folder with a labels.csv of file, instance and role.

`file` is relative to the folder, `instance` names the one object or place that the photograph
shows, and `role` is `query` (or `query-NAME`, reported apart as a named query set), `database`,
`train` (or `train-NAME`), or `distractor`, whose instance stays empty.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dagf.datasets.benchmark import (
    Benchmark,
    Query,
    check_present,
    from_ground_truth,
    leaves_folder,
)
from dagf.datasets.grocery import grocery_rows, is_grocery
from dagf.datasets.revisited import load_ground_truth
from dagf.errors import UserError, choose
from dagf.files import content_hash

LABELS = "labels.csv"
TRUTH = "ground_truth.json"
COLUMNS = ("file", "instance", "role")
ROLES = ("train", "query", "database", "distractor")
_ROLE = re.compile(r"(query|train)(-[\w.-]+)?|database|distractor")
_QUERIES = 5  # of a held-out instance, at most


@dataclass(frozen=True)
class Row:
    """One line of `labels.csv`."""

    file: str
    instance: str
    role: str


def has_labels(folder: Path) -> bool:
    """Whether there are labels: a labels.csv, or the lists of the Grocery Store set."""
    return (folder / LABELS).is_file() or is_grocery(folder)


def has_truth(folder: Path) -> bool:
    """Whether the folder says itself what is tested: by labels, or by a ground_truth.json."""
    return has_labels(folder) or (folder / TRUTH).is_file()


def read_csv(
    path: Path,
    columns: Sequence[str],
    renamed: Mapping[str, str] | None = None,
    delimiter: str = ",",
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, column -> cell, stripped) for the lines of a CSV with a header.

    renamed: columns of the file -> other names. Raise `UserError`, with the file and the remedy,
    where one of `columns` is missing, a line has too few or too many cells, or the file cannot be
    read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True, strict=True, delimiter=delimiter)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names = [(renamed or {}).get(name, name) for name in names]
            if not set(columns) <= set(names):
                found = f"has the columns {', '.join(names)}" if names else "is empty"
                raise UserError(f"{path} {found}: its first line must name {','.join(columns)}")
            for name, count in Counter(filter(None, names)).items():
                if count > 1:
                    raise UserError(f"{path} has the column {name} {count} times: name it once")
            for cells in reader:
                if None in cells or None in cells.values():
                    raise UserError(
                        f"{path}, line {reader.line_num}: too many or too few cells; "
                        "quote a name that contains a comma"
                    )
                yield reader.line_num, {name: cell.strip() for name, cell in cells.items()}
    except FileNotFoundError:
        wanted = f"write one line '{','.join(columns)}' for each image"
        raise UserError(f"{path} does not exist: {wanted}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({error}): it must be a CSV in UTF-8") from None


def read_labels(folder: Path, listing: Path | None = None) -> list[Row]:
    """Return the rows of `folder/labels.csv`, or of the Grocery Store set's lists, in order.

    listing: read in the place of labels.csv. Raise `UserError`, with file, line and remedy, for an
    unknown role, for a missing instance, and for a file that is missing, outside or listed twice.
    """
    path = listing or folder / LABELS
    if not path.exists() and is_grocery(folder):
        path, rows = folder / "dataset", [Row(*row) for row in grocery_rows(folder)]
    else:
        rows = [_row(f"{path}, line {line}", cells) for line, cells in read_csv(path, COLUMNS)]
    if not rows:
        raise UserError(f"{path} lists no image: write one line 'file,instance,role' for each")
    file, count = Counter(row.file for row in rows).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path} lists {file} {count} times: each file has one line and one role")
    check_present(path, folder, [row.file for row in rows], "mend the names or remove their lines")
    return rows


def _row(where: str, cells: Mapping[str, str]) -> Row:
    file, instance, role = (cells[column] for column in COLUMNS)
    if not file or leaves_folder(file):
        raise UserError(f"{where}: '{file}' is no image in the folder")
    if not _ROLE.fullmatch(role):
        try:
            choose("role", role, ROLES)
        except UserError as error:
            raise UserError(f"{where}: {error}, query-NAME, train-NAME") from None
    if not instance and role not in ("database", "distractor"):
        raise UserError(f"{where}: a {role} image needs an instance, the name of what it shows")
    return Row(str(PurePosixPath(file)), instance, role)


def load_folder(folder: Path, name: str | None = None, listing: Path | None = None) -> Benchmark:
    """Return the benchmark in `folder`, from its labels or its ground truth.

    By labels the positives ('ok') of a query are the database images of its instance. Database and
    queries keep the order of `labels.csv`; each query role is a query set; the images of the role
    distractor follow. Instead of labels, the folder may hold a `ground_truth.json` in the field's
    form (imlist, qimlist, gnd), where each query has positives of its own.

    listing: read in the place of either, by its suffix. Raise `UserError` as `read_labels` and
    `from_ground_truth`, and where nothing could be evaluated: no database, no query, no positive.
    """
    name, path = name or folder.resolve().name, listing or folder / TRUTH
    if path.suffix == ".json" and path.is_file():
        if listing is None and (folder / LABELS).exists():
            raise UserError(f"{folder} has both {LABELS} and {TRUTH}: keep one of them")
        benchmark = from_ground_truth(name, folder, load_ground_truth(path), path)
        check_present(path, folder, benchmark.files, "mend the names, or put the images there")
    else:
        path = listing or folder / LABELS
        benchmark = _benchmark(name, folder, read_labels(folder, path))
    for there, what in (
        (benchmark.database, "database image"),
        (benchmark.queries, "query image"),
        (any(len(query.positives) for query in benchmark.queries), "query with a positive"),
    ):
        if not there:
            raise UserError(f"{path} has no {what}: a benchmark needs some")
    return benchmark


def _benchmark(name: str, folder: Path, rows: Sequence[Row]) -> Benchmark:
    database, queries, distractors = (
        [row for row in rows if row.role.startswith(role)]
        for role in ("database", "query", "distractor")
    )
    rows_of = defaultdict[str, list[int]](list)
    for index, row in enumerate(database):
        rows_of[row.instance].append(index)
    return Benchmark(
        name,
        folder,
        tuple(row.file for row in database),
        tuple(
            Query(row.file, {"ok": np.array(rows_of[row.instance], np.int64)}, query_set=row.role)
            for row in queries
        ),
        tuple(folder / row.file for row in distractors),
    )


def training_images(folder: Path, role: str = "train") -> tuple[list[Path], list[int]]:
    """Return the files of a training role, in the order of the labels, and their instances (0 ..).

    Raise `UserError` where no image has the role, and as `read_labels`.
    """
    return _numbered(folder, _of_role(folder, role))


def _of_role(folder: Path, role: str) -> list[Row]:
    rows = read_labels(folder)
    found = [row for row in rows if row.role == role]
    if not found:
        known = sorted({row.role for row in rows if row.role.startswith("train")})
        raise UserError(
            f"{folder} has no images of role '{role}', but of {', '.join(known) or 'none'}"
        )
    return found


def _numbered(folder: Path, rows: Sequence[Row]) -> tuple[list[Path], list[int]]:
    number = {name: n for n, name in enumerate(sorted({row.instance for row in rows}))}
    return [folder / row.file for row in rows], [number[row.instance] for row in rows]


def validation_split(
    folder: Path, held_out: int, seed: int
) -> tuple[list[Path], list[int], Benchmark]:
    """Return `training_images` without the held-out instances, and the benchmark of those."""
    rows = sorted(_of_role(folder, "train"), key=lambda row: row.file)
    members = defaultdict[str, list[str]](list)
    for row in rows:
        members[row.instance].append(row.file)
    name = f"{folder.resolve().name}-validation"
    benchmark, held = hold_out(name, folder, members, held_out, seed)
    return *_numbered(folder, [row for row in rows if row.instance not in held]), benchmark


def hold_out(
    name: str, root: Path, members: Mapping[str, Sequence[str]], held_out: int, seed: int
) -> tuple[Benchmark, set[str]]:
    """Return a benchmark of `held_out` instances, and their names. members: instance -> its files.

    Of each one's images, sorted by name, up to five (never more than half), spread evenly, are the
    queries and the rest is the database. Which instances are held out depends on `seed` and on
    their names only. Those with one image cannot be; raise `UserError` where there are not enough
    others.
    """
    eligible = [instance for instance, files in members.items() if len(files) > 1]
    if not 1 <= held_out <= len(eligible) or held_out == len(members):
        raise UserError(
            f"{root}: cannot hold {held_out} of the {len(members)} training instances out: "
            f"{len(eligible)} have two images or more, and one must be left to train on"
        )
    held = sorted(eligible, key=lambda instance: content_hash([seed, instance], 64))[:held_out]
    queries, database = [], []
    for instance in sorted(held):
        files = sorted(members[instance])
        count = min(_QUERIES, len(files) // 2)
        chosen = [files[number * len(files) // count] for number in range(count)]
        queries += [Row(file, instance, "query") for file in chosen]
        database += [Row(file, instance, "database") for file in files if file not in chosen]
    database.sort(key=lambda row: row.file)
    return _benchmark(name, root, [*queries, *database]), set(held)
