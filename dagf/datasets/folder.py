"""Your own photographs as a benchmark: a folder with a `labels.csv` of the columns file, instance, role.

`file` is relative to the folder, `instance` names the one object or place that the photograph shows, and `role` is
`query` (or `query-NAME`, reported apart as a named query set), `database`, `train` (or `train-NAME`), or
`distractor`, whose instance stays empty.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from dagf.datasets.benchmark import Benchmark, Query, check_files, from_ground_truth
from dagf.datasets.grocery import grocery_rows, is_grocery
from dagf.datasets.lists import read_csv
from dagf.datasets.revisited import load_ground_truth
from dagf.errors import UserError, choose
from dagf.files import content_hash, present

LABELS = "labels.csv"
TRUTH = "ground_truth.json"
COLUMNS = ("file", "instance", "role")
ROLES = ("train", "query", "database", "distractor")
_ROLE = re.compile(r"(query|train)(-[\w.-]+)?|database|distractor")


@dataclass(frozen=True)
class Row:
    """One line of `labels.csv`."""

    file: str
    instance: str
    role: str


@dataclass(frozen=True)
class TrainingImages:
    """Training files and the instance of each, row by row."""

    files: list[Path]
    instances: list[str]


def has_labels(folder: Path) -> bool:
    """Whether `read_labels` finds instances and roles there: a labels.csv, or a copy of the Grocery Store data set."""
    return (folder / LABELS).is_file() or is_grocery(folder)


def has_truth(folder: Path) -> bool:
    """Whether the folder's own ground truth says what is tested: labels, or a ground_truth.json."""
    return has_labels(folder) or (folder / TRUTH).is_file()


def read_labels(folder: Path, listing: Path | None = None) -> list[Row]:
    """The rows of `folder/labels.csv` in their order, checked: roles known, files present, inside and unique.

    A copy of the Grocery Store data set needs none: its own lists are read (`dagf.datasets.grocery`). `listing` is
    read instead of labels.csv, where it is to take its place. Raises `UserError`, one line with file, line number and
    remedy, for anything else.
    """
    path = listing or folder / LABELS
    if not path.exists() and is_grocery(folder):
        rows = [
            _row(str(folder), dict(zip(COLUMNS, row, strict=True))) for row in grocery_rows(folder)
        ]
        _check_present(folder / "dataset", folder, rows)
        return rows
    rows = []
    lines: dict[str, int] = {}
    for line, cells in read_csv(path, COLUMNS):
        row = _row(f"{path}, line {line}", cells)
        if row.file in lines:
            earlier = rows[lines[row.file]]
            raise UserError(
                f"{path}, line {line}: {row.file} is already the {earlier.role} image of an earlier line; each file "
                "has one line and one role"
            )
        lines[row.file] = len(rows)
        rows.append(row)
    if not rows:
        raise UserError(f"{path} lists no image: write one line 'file,instance,role' for each")
    _check_present(path, folder, rows)
    return rows


def _row(where: str, cells: Mapping[str, str]) -> Row:
    file, instance, role = (cells[column] for column in COLUMNS)
    windows = PureWindowsPath(file)  # reads both kinds of slash
    if not file or PurePosixPath(file) == PurePosixPath("."):
        raise UserError(f"{where}: the file is empty; name an image relative to the folder")
    if windows.drive or windows.root or ".." in windows.parts:
        raise UserError(f"{where}: {file} leaves the folder; move the image into it")
    if not _ROLE.fullmatch(role):
        try:
            choose("role", role, ROLES)
        except UserError as error:
            raise UserError(f"{where}: {error}, query-NAME, train-NAME") from None
    if not instance and role not in ("database", "distractor"):
        raise UserError(f"{where}: a {role} image needs an instance, the name of what it shows")
    return Row(str(PurePosixPath(file)), instance, role)


def _check_present(path: Path, folder: Path, rows: list[Row]) -> None:
    missing = [row.file for row in rows if not present(folder / row.file)]
    if missing:
        raise UserError(
            f"{path} lists {len(missing)} files that do not exist, as {', '.join(missing[:3])}: mend the names or "
            "remove their lines"
        )


def load_folder(folder: Path, name: str | None = None, listing: Path | None = None) -> Benchmark:
    """The benchmark in `folder`: positives ('ok') of a query are the database images of its instance.

    Database and queries keep the order of `labels.csv`; each query role is a query set; the images of the role
    distractor follow. A query without positives stays in (the protocol leaves it out of the mean), but there must be
    one that has some. Instead of labels, the folder may hold a `ground_truth.json` in the field's form (imlist,
    qimlist, gnd), where each query has positives of its own. `listing` is read instead of either, by its suffix, where
    it is to take its place. Raises `UserError` as `read_labels`, and for what could not be judged: no database, no
    query, no positive.
    """
    name, path = name or folder.resolve().name, listing or folder / TRUTH
    if path.suffix == Path(TRUTH).suffix and path.is_file():
        if listing is None and (folder / LABELS).exists():
            raise UserError(f"{folder} has both {LABELS} and {TRUTH}: keep one of them")
        benchmark = from_ground_truth(name, folder, load_ground_truth(path), path)
        check_files(benchmark, f"mend the names in {TRUTH}, or put the images there")
        twice = [file for file, count in Counter(benchmark.database).items() if count > 1]
        if twice:  # one row of the two would be a wrong answer
            raise UserError(
                f"{path} names {len(twice)} images twice in its imlist, as {', '.join(twice[:3])}: once each"
            )
        remedies = "name some in its imlist", "name some in its qimlist", "give some in its gnd"
        _check_of_use(benchmark, path, *remedies)
        return benchmark
    path = listing or folder / LABELS
    rows = read_labels(folder, path)
    database = [row for row in rows if row.role == "database"]
    queries = [row for row in rows if row.role.startswith("query")]
    extra = [folder / row.file for row in rows if row.role == "distractor"]
    benchmark, role = (
        _benchmark(name, folder, database, queries, extra),
        "give some of its lines the role",
    )
    _check_of_use(benchmark, path, f"{role} database", f"{role} query", "check the instance column")
    return benchmark


def _check_of_use(benchmark: Benchmark, path: Path, *remedies: str) -> None:
    """Raise `UserError` for no database, no query or no positive, with the remedy of each."""
    if not benchmark.database:
        raise UserError(f"{path} has no database image: {remedies[0]}")
    if not benchmark.queries:
        raise UserError(f"{path} has no query image: {remedies[1]}")
    if not any(len(query.positives) for query in benchmark.queries):
        raise UserError(f"{path}: no query has a database image of its instance: {remedies[2]}")


def folder_distractors(folder: Path) -> list[Path]:
    """The images to which a folder's labels give the role distractor; a `UserError` where there are none."""
    found = [folder / row.file for row in read_labels(folder) if row.role == "distractor"]
    if not found:
        raise UserError(
            f"{folder / LABELS} has no image of the role distractor: give it to some of its lines"
        )
    return found


def _benchmark(
    name: str,
    folder: Path,
    database: Sequence[Row],
    queries: Sequence[Row],
    distractors: Sequence[Path] = (),
) -> Benchmark:
    rows_of: dict[str, list[int]] = {}
    for index, row in enumerate(database):
        rows_of.setdefault(row.instance, []).append(index)
    return Benchmark(
        name,
        folder,
        tuple(row.file for row in database),
        tuple(
            Query(
                row.file,
                {"ok": np.array(rows_of.get(row.instance, []), np.int64)},
                query_set=row.role,
            )
            for row in queries
        ),
        tuple(distractors),
    )


def training_images(folder: Path, role: str = "train") -> TrainingImages:
    """The files of a training role and their instances, in the order of `labels.csv`.

    Raises `UserError` where no image has the role, and as `read_labels`.
    """
    return _training(folder, _rows_of_role(folder, role))


def _rows_of_role(folder: Path, role: str) -> list[Row]:
    rows = read_labels(folder)
    found = [row for row in rows if row.role == role]
    if not found or not role.startswith("train"):
        known = sorted({row.role for row in rows if row.role.startswith("train")})
        raise UserError(
            f"{folder / LABELS} has no training role '{role}': it has {', '.join(known) or 'none'}"
        )
    return found


def _training(folder: Path, rows: Sequence[Row]) -> TrainingImages:
    return TrainingImages([folder / row.file for row in rows], [row.instance for row in rows])


def validation_split(
    folder: Path, held_out: int, seed: int, queries: int = 5
) -> tuple[TrainingImages, Benchmark]:
    """Hold `held_out` instances of the role train back: (images of the others, a benchmark of those).

    Of each held-out instance's images, sorted by name, up to `queries` (never more than half), spread evenly,
    are the queries and the rest is the database. Which instances are held out depends on `seed` and on their names
    only, not on the order of the file. Instances with one image cannot be held out. Raises `UserError` when there
    are not enough, and as `training_images`.
    """
    rows = sorted(_rows_of_role(folder, "train"), key=lambda row: row.file)
    members: dict[str, list[Row]] = {}
    for row in rows:
        members.setdefault(row.instance, []).append(row)
    chosen = held_instances(
        {name: len(its) for name, its in members.items()}, held_out, seed, f"{folder / LABELS}"
    )
    kept = [row for row in rows if row.instance not in chosen]
    files = {name: [row.file for row in members[name]] for name in chosen}
    return _training(folder, kept), held_benchmark(
        f"{folder.resolve().name}-validation", folder, files, queries
    )


def held_instances(sizes: Mapping[str, int], held_out: int, seed: int, where: str) -> set[str]:
    """Which instances are held out: it depends on `seed` and their names. sizes: instance -> its number of images.

    Raises `UserError` as `validation_split`; `where` names the list.
    """
    eligible = sorted(
        (name for name, size in sizes.items() if size > 1),
        key=lambda name: content_hash([seed, name], 64),
    )
    if not 1 <= held_out <= len(eligible) or held_out == len(sizes):
        raise UserError(
            f"{where}: cannot hold {held_out} of the {len(sizes)} instances of its training images out: "
            f"{len(eligible)} have two images or more, and one instance must be left to train on"
        )
    return set(eligible[:held_out])


def held_benchmark(
    name: str, root: Path, held: Mapping[str, Sequence[str]], queries: int = 5
) -> Benchmark:
    """A benchmark of held-out instances (name -> sorted files), queries and database as `validation_split` says."""
    asked: list[Row] = []
    for instance, its in sorted(held.items()):
        count = min(queries, len(its) // 2)
        asked += [
            Row(its[number * len(its) // count], instance, "query") for number in range(count)
        ]
    asked_files = {row.file for row in asked}
    rest = [
        (file, instance)
        for instance, its in held.items()
        for file in its
        if file not in asked_files
    ]
    return _benchmark(
        name, root, [Row(file, instance, "database") for file, instance in sorted(rest)], asked
    )
