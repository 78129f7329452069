"""Your own photographs as a benchmark: a folder with a labels.csv of file, instance and role.

`file` is relative to the folder, `instance` names the one object or place that the photograph
shows, and `role` is `query` (or `query-NAME`, reported apart as a named query set), `database`,
`train` (or `train-NAME`), or `distractor`, whose instance stays empty. A boxes.csv of file,
instance, x1, y1, x2 and y2 may say where in the photographs the instances are.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from dagf.datasets.benchmark import (
    NO_IMAGE,
    Benchmark,
    Query,
    check_present,
    from_ground_truth,
    leaves_folder,
    near,
    spelling,
)
from dagf.datasets.decode import Box, image_size
from dagf.errors import UserError, choose, shown
from dagf.files import content_hash

LABELS = "labels.csv"
TRUTH = "ground_truth.json"
BOXES = "boxes.csv"
COLUMNS = ("file", "instance", "role")
CORNERS = ("x1", "y1", "x2", "y2")
ROLES = ("train", "train-NAME", "query", "query-NAME", "database", "distractor")
_ROLE = re.compile(r"(query|train)(-[\w.-]+)?|database|distractor")
_QUERIES = 5  # of a held-out instance, at most


def has_labels(folder: Path) -> bool:
    return (folder / LABELS).is_file()


def has_truth(folder: Path) -> bool:
    """Whether the folder says itself what is tested: by labels, or by a ground_truth.json."""
    return has_labels(folder) or (folder / TRUTH).is_file()


def read_csv(path: Path, columns: Sequence[str] = (), delimiter: str = ",") -> pd.DataFrame:
    """Return the cells of a CSV with a header as text, stripped; its index is the line, from 2.

    Raise `UserError`, with the file and the remedy, where one of `columns` is missing, a line has
    too many cells, or the file cannot be read.
    """
    wanted = f" with the columns {','.join(columns)}" if columns else ""
    try:
        table = pd.read_csv(
            path, sep=delimiter, dtype=str, keep_default_na=False, skipinitialspace=True,
            skip_blank_lines=False, encoding="utf-8-sig",
        )  # fmt: skip
        if not isinstance(table.index, pd.RangeIndex):  # the first cells taken for names of rows
            raise ValueError("more cells than columns, and commas in names need quotes")
        table.columns = table.columns.str.strip()
        if not {*columns} <= {*table}:
            raise ValueError(f"it has the columns {', '.join(table.columns)}")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read {path} ({reason}): give a CSV in UTF-8{wanted}") from None
    table = table.set_axis(table.index + 2).apply(lambda cells: cells.str.strip())
    return table[(table != "").any(axis=1)]


def read_labels(folder: Path, listing: Path | None = None) -> pd.DataFrame:
    """Return file, instance and role from `folder/labels.csv`, or from `listing` in its place.

    Names are those of the files in the folder, where theirs are spelled otherwise (`spelling`).
    Raise `UserError`, with file, line and remedy, for an unknown role, for a missing instance, and
    for a file that is missing, outside, hidden or listed twice.
    """
    path = listing or folder / LABELS
    rows = read_csv(path, COLUMNS)[[*COLUMNS]]
    if rows.empty:
        raise UserError(f"{path} lists no image: write one line 'file,instance,role' for each")
    for line, file, instance, role in rows.itertuples():
        where = f"{path}, line {line}:"
        if not file or leaves_folder(file):
            raise UserError(f"{where} {shown(file)} {NO_IMAGE}")
        if not _ROLE.fullmatch(role):
            choose(f"role in {where}", role, ROLES)
        if not instance and role not in ("database", "distractor"):
            raise UserError(f"{where} a {role} image needs an instance, the name of what it shows")
    spelled = spelling(folder)
    rows["file"] = [*map(spelled, rows["file"])]
    for file in rows["file"][rows["file"].duplicated()]:
        raise UserError(f"{path} lists {file} twice: each file has one line and one role")
    check_present(path, folder, rows["file"], "mend the names or remove their lines")
    return rows


def read_boxes(folder: Path) -> pd.DataFrame:
    """Return file, instance and corners of all boxes in `folder/boxes.csv`; its index is the line.

    Corners are in pixels of the upright image. Raise `UserError`, with file, line and remedy, for
    what is no box, and for a file that is missing or outside.
    """
    path = folder / BOXES
    rows = read_csv(path, ("file", "instance", *CORNERS))
    numbers = rows[[*CORNERS]].apply(pd.to_numeric, errors="coerce")
    for line in rows.index[~((numbers["x1"] <= numbers["x2"]) & (numbers["y1"] <= numbers["y2"]))]:
        given = ",".join(rows.loc[line, [*CORNERS]])
        raise UserError(f"{path}, line {line}: {given} is no box: write x1,y1,x2,y2 in pixels")
    spelled = spelling(folder)
    rows = rows.assign(file=rows["file"].map({file: spelled(file) for file in rows["file"]}))
    for line, file in rows["file"].drop_duplicates().items():
        if leaves_folder(file) or not (folder / file).is_file():
            raise UserError(
                f"{path}, line {line}: {shown(file)} is not in {folder}{near(folder, file)}: mend "
                "the name, or take its lines out"
            )
    return rows[["file", "instance"]].join(numbers)


def check_inside(where: str, box: Box, file: str, size: tuple[int, int]) -> None:
    """Raise `UserError`, with what gives it, for a box that leaves its image by over a pixel."""
    (x1, y1, x2, y2), (width, height) = box, size
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
        raise UserError(
            f"{where}: the box {x1:g},{y1:g},{x2:g},{y2:g} is outside {file}, which has {width} x "
            f"{height} pixels: give it in pixels of this file, or take it out"
        )


def boxes_of(image: Path) -> list[Box]:
    """Return the boxes of what an image shows, from the nearest boxes.csv in a folder above it.

    [] where it names no box of the image, or none with a pixel in it (FlickrLogos-27 has some).
    """
    for folder in image.parents:
        if (folder / BOXES).is_file():
            changed = (folder / BOXES).stat().st_mtime_ns
            return _boxes(folder, changed).get(image.relative_to(folder).as_posix(), [])
    return []


@lru_cache
def _boxes(folder: Path, _: int) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    for file, x1, y1, x2, y2 in read_boxes(folder).drop(columns="instance").itertuples(index=False):
        if x1 < x2 and y1 < y2:
            found.setdefault(file, []).append((x1, y1, x2, y2))
    return found


def load_folder(folder: Path, listing: Path | None = None) -> Benchmark:
    """Return the benchmark in `folder`, from its labels or its ground truth.

    By labels the positives ('ok') of a query are the database images of its instance. Database and
    queries keep the order of `labels.csv`; each query role is a query set; the images of the role
    distractor follow. Instead of labels, the folder may hold a `ground_truth.json` in the field's
    form (imlist, qimlist, gnd), where each query has positives of its own; its images are in the
    folder or, as that of Oxford and Paris has it, in jpg/.

    listing: read in the place of either, by its suffix. Raise `UserError` as `read_labels`,
    `from_ground_truth` and, of the boxes of queries, `check_inside`, and where nothing could be
    evaluated: no query has a positive.
    """
    name, path = folder.resolve().name, listing or folder / TRUTH
    if path.suffix == ".json" and path.is_file():
        if listing is None and (folder / LABELS).exists():
            raise UserError(f"{folder} has both {LABELS} and {TRUTH}: keep one of them")
        read = from_ground_truth(name, folder, path)
        roots = (folder, folder / "jpg")
        there = (root for root in roots if any((root / file).is_file() for file in read.files))
        read = replace(read, root=next(there, folder))
        spelled = spelling(read.root)
        asked = tuple(replace(query, file=spelled(query.file)) for query in read.queries)
        benchmark = replace(read, database=tuple(map(spelled, read.database)), queries=asked)
        remedy = "mend the names, or put the images there"
        check_present(path, benchmark.root, benchmark.files, remedy)
        for query in asked:
            if query.box is not None:
                check_inside(str(path), query.box, query.file, image_size(read.root / query.file))
    else:
        path = listing or folder / LABELS
        rows = read_labels(folder, path)
        queries = rows[rows["role"].str.startswith("query")]
        database, distractors = (rows[rows["role"] == role] for role in ("database", "distractor"))
        benchmark = by_instance(name, folder, queries, database)
        behind = tuple(folder / file for file in distractors["file"])
        benchmark = replace(benchmark, distractors=behind)
    if not any(len(query.positives) for query in benchmark.queries):
        raise UserError(f"{path} has no query with a positive: a benchmark needs some")
    return benchmark


def by_instance(name: str, root: Path, queries: pd.DataFrame, database: pd.DataFrame) -> Benchmark:
    """Return the benchmark in which a query's positives ('ok') are the images of its instance.

    queries, database: file and instance of each image, and the query set (`role`) of each query.
    """
    rows_of = database.groupby("instance").indices
    listed = [
        Query(file, {"ok": np.array(rows_of.get(instance, []), np.int64)}, query_set=role)
        for file, instance, role in queries[[*COLUMNS]].itertuples(index=False)
    ]
    return Benchmark(name, root, tuple(database["file"]), tuple(listed))


def numbered(folder: Path, rows: pd.DataFrame) -> tuple[list[Path], list[int]]:
    """Return the whole paths of labelled images, and their instances as numbers from 0."""
    labels, _ = pd.factorize(rows["instance"], sort=True)
    return [folder / file for file in rows["file"]], labels.tolist()


def hold_out(
    name: str, root: Path, rows: pd.DataFrame, held_out: int, seed: int
) -> tuple[pd.DataFrame, Benchmark]:
    """Return the rows (file, instance) of all but `held_out` instances, and a benchmark of these.

    Of each one's images, sorted by name, up to five (never more than half), spread evenly, are the
    queries and the rest is the database. Which instances are held out depends on `seed` and on
    their names only. Those with one image cannot be; raise `UserError` where there are not enough
    others.
    """
    counts = rows["instance"].value_counts()
    eligible = counts.index[counts > 1].tolist()
    if not 1 <= held_out <= len(eligible) or held_out == len(counts):
        raise UserError(
            f"{root}: cannot hold {held_out} of the {len(counts)} training instances out: "
            f"{len(eligible)} have two images or more, and one must be left to train on"
        )
    held = sorted(eligible, key=lambda instance: content_hash([seed, instance], 64))[:held_out]
    kept = rows[rows["instance"].isin(held)].assign(role="query").sort_values("file")
    queries = []
    for _, group in kept.groupby("instance"):
        count = min(_QUERIES, len(group) // 2)
        queries.append(group.iloc[[number * len(group) // count for number in range(count)]])
    chosen = pd.concat(queries)
    validation = by_instance(name, root, chosen, kept.drop(chosen.index))
    return rows[~rows["instance"].isin(held)], validation
