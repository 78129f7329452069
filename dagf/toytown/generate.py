"""Toytown, the embedded benchmark: procedural landmarks, with clutter, occlusion and scale, and exact masks.

Drawn from a seed and written to disk in the layout of the real sets, so that the same loader, crop and
evaluation run on it. `generator_hash` changes with every line that could change an image or a label.
"""

import csv
import dataclasses
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray

from dagf.console import progress
from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.errors import UserError, choose
from dagf.files import atomic_folder, code_only, content_hash, read_json, write_json
from dagf.toytown.files import THRESHOLDS as THRESHOLDS
from dagf.toytown.files import Job, Record, distractor_name, folder, view_names, write_views
from dagf.toytown.files import difficulty as difficulty
from dagf.toytown.files import set_up_worker as _set_up_worker
from dagf.toytown.scene import DISTRACTOR_START, SIGHTINGS, STREAMS, photograph

SPLITS = ("train", "validation", "test")
JUDGED = ("validation", "test")  # the splits with queries
FEW = 250  # images for which starting worker processes takes longer than drawing


@dataclass(frozen=True)
class ToytownSpec:
    """All values of a Toytown. Each image depends on `size`, `seed` and `nuisances` only, not on the counts."""

    size: int = 96  # pixels a side
    train_landmarks: int = 300
    train_views: int = 16
    validation_landmarks: int = 40
    test_landmarks: int = 70
    views: int = 20  # database views a landmark, beside its one query
    distractors: int = 4000  # of the test split
    validation_distractors: int = 500
    seed: int = 2023
    nuisances: bool = True  # False: the control, with no clutter, no occlusion, nearly one scale

    def __post_init__(self) -> None:
        """Raises `UserError` for values that cannot be drawn."""
        if not 48 <= self.size <= 512:
            raise UserError(f"Toytown: size is {self.size} pixels, expected 48 to 512")
        for name in (
            "train_landmarks",
            "validation_landmarks",
            "test_landmarks",
            "distractors",
            "seed",
        ):
            _at_least(self, name, 0)
        _at_least(self, "validation_distractors", 0)
        for name in ("train_views", "views"):
            _at_least(self, name, 1)

    @property
    def id(self) -> str:
        """Names the folder: other values, or another generator, give another one."""
        return content_hash({**dataclasses.asdict(self), "generator": generator_hash()})

    def landmarks(self, split: str) -> int:
        """How many landmarks `split` has."""
        return int(getattr(self, f"{split}_landmarks"))

    def distractor_count(self, split: str) -> int:
        """How many distractors `split` has on disk; the training split has none."""
        return {"test": self.distractors, "validation": self.validation_distractors}.get(split, 0)


def _at_least(spec: ToytownSpec, name: str, least: int) -> None:
    if getattr(spec, name) < least:
        raise UserError(f"Toytown: {name} is {getattr(spec, name)}, expected at least {least}")


@cache
def generator_hash() -> str:
    """The content hash of the generator's code, thresholds included; comments, docstrings and layout do not count."""
    here = Path(__file__)
    sources = [here, *sorted(p for p in here.parent.glob("*.py") if p != here)]
    return content_hash(
        {path.name: code_only(path.read_text(encoding="utf-8")) for path in sources}
    )


def make_toytown(spec: ToytownSpec, folder: Path, workers: int | None = None) -> Path:
    """Draw the Toytown of `spec` below `folder` unless it is there already; its root.

    The bytes do not depend on `workers` (default: one a CPU). A root appears under its name only when it
    is whole; two processes that ask at once draw it once. Raises `UserError` when the disk is full or a
    root that was there is no longer whole.
    """
    root = folder / f"toytown-{spec.id}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} for Toytown: {error.strerror}") from error
    with FileLock(folder / f".{root.name}.lock"):
        if not root.exists():
            with atomic_folder(root) as temporary:
                _draw_all(spec, temporary, workers)
        check_toytown(root)
    return root


def _jobs(spec: ToytownSpec, root: Path) -> list[Job]:
    fixed: dict[str, Any] = {"size": spec.size, "seed": spec.seed, "nuisances": spec.nuisances}
    jobs = []
    for split in SPLITS:
        count, views = spec.landmarks(split), spec.train_views if split == "train" else spec.views
        jobs += [Job(root, split, landmark, count, views, **fixed) for landmark in range(count)]
    for split in JUDGED:
        count = spec.distractor_count(split)
        for first in range(0, count, SIGHTINGS):
            some = min(SIGHTINGS, count - first)
            jobs.append(Job(root, split, first, count, some, **fixed, distractor=True))
    return jobs


def _draw_all(spec: ToytownSpec, root: Path, workers: int | None) -> None:
    for split in SPLITS:
        (root / folder(split) / "jpg").mkdir(parents=True)
        (root / folder(split) / "masks").mkdir()
    for split in JUDGED:
        (root / folder(split, distractor=True) / "jpg").mkdir(parents=True)
    jobs = _jobs(spec, root)
    total = sum(job.views for job in jobs)
    workers = workers or (1 if total < FEW else os.cpu_count() or 1)
    records: dict[tuple[str, bool], list[Record]] = {(split, False): [] for split in SPLITS}
    records |= {(split, True): [] for split in JUDGED}
    done = progress(_results(jobs, workers), "Toytown", total=len(jobs), unit="landmark")
    for job, made in zip(jobs, done, strict=True):
        records[job.split, job.distractor] += made
    for (split, distractor), rows in records.items():
        _write_records(root / folder(split, distractor) / "records.csv", rows)
    for split in JUDGED:
        write_json(root / split / "gnd.json", _ground_truth(records[split, False]))
    spec_file = {**dataclasses.asdict(spec), "generator": generator_hash(), "id": spec.id}
    write_json(root / "spec.json", spec_file)


def _results(jobs: list[Job], workers: int) -> Iterator[list[Record]]:
    if workers == 1:
        yield from map(write_views, jobs)
        return
    # Not a plain fork: PyTorch's threads, which a caller may have started, do not survive one.
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_up_worker) as pool:
        yield from pool.map(write_views, jobs, chunksize=max(1, min(4, len(jobs) // (4 * workers))))


COLUMNS = (
    *("file", "landmark", "twin", "role", "azimuth", "turn", "scale", "visible", "clutter"),
    *("x1", "y1", "x2", "y2", "difficulty", "weather"),
)


def _write_records(path: Path, rows: list[Record]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _ground_truth(rows: list[Record]) -> dict[str, Any]:
    """The field's layout: `imlist`, `qimlist`, and an entry a query with 'bbx', 'easy', 'hard', 'junk'."""
    database = [row for row in rows if row["role"] == "database"]
    entries: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["role"] == "query":
            box = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
            entries[row["landmark"]] = {"bbx": box, "easy": [], "hard": [], "junk": []}
    for index, row in enumerate(database):
        entries[row["landmark"]][row["difficulty"]].append(index)
    return {
        "imlist": [Path(row["file"]).stem for row in database],
        "qimlist": [Path(row["file"]).stem for row in rows if row["role"] == "query"],
        "gnd": list(entries.values()),
    }


def toytown_spec(root: Path) -> ToytownSpec:
    """The values with which the Toytown at `root` was drawn; `UserError` if there is none."""
    values = read_json(_whole(root) / "spec.json")
    try:
        return ToytownSpec(
            **{field.name: values[field.name] for field in dataclasses.fields(ToytownSpec)}
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{root / 'spec.json'} does not describe a Toytown ({error!r}); {_remedy(root)}"
        ) from error


def _remedy(root: Path) -> str:
    return f"delete {root} and run `dagf data make`"


def _whole(root: Path) -> Path:
    if not (root / "spec.json").is_file():
        raise UserError(f"{root} is not a whole Toytown (it has no spec.json): {_remedy(root)}")
    return root


def check_toytown(root: Path) -> None:
    """Raises `UserError`, naming what is missing and the remedy, unless every file of the spec is there."""
    spec = toytown_spec(root)
    wanted: list[Path] = []
    for split in SPLITS:
        wanted.append(Path(split, "records.csv"))
        wanted += [Path(split, "gnd.json")] if split in JUDGED else []
        for landmark in range(spec.landmarks(split)):
            views = spec.train_views if split == "train" else spec.views
            for file, role, _ in view_names(split, landmark, views):
                wanted.append(Path(split, "jpg", file))
                if role != "query":
                    wanted.append(Path(split, "masks", file).with_suffix(".png"))
    for split in JUDGED:
        here = Path(folder(split, distractor=True))
        wanted += [
            here / "jpg" / distractor_name(number) for number in range(spec.distractor_count(split))
        ]
        wanted.append(here / "records.csv")
    present: dict[Path, set[str]] = {}
    for parent in {path.parent for path in wanted}:
        there = root / parent
        present[parent] = {entry.name for entry in os.scandir(there)} if there.is_dir() else set()
    missing = [path for path in wanted if path.name not in present[path.parent]]
    if missing:
        rest = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise UserError(f"Toytown at {root} lacks {missing[0]}{rest}: {_remedy(root)}")


def load_toytown(root: Path, split: str, distractors: int | None = None) -> Benchmark:
    """The benchmark of `split` ('validation' or 'test') with its first `distractors` distractors (None: all).

    Files are relative to the split's `jpg` folder. Raises `UserError` for another split, more distractors
    than there are, or a root that is not whole.
    """
    choose("Toytown split", split, JUDGED)
    there = toytown_spec(root).distractor_count(split)
    count = there if distractors is None else distractors
    if not 0 <= count <= there:
        raise UserError(
            f"{root} has {there} distractors for the {split} split, not {count}: make one with more"
        )
    benchmark = from_ground_truth(
        f"toytown-{split}", root / split / "jpg", read_json(root / split / "gnd.json")
    )
    images = root / folder(split, distractor=True) / "jpg"
    return dataclasses.replace(
        benchmark, distractors=tuple(images / distractor_name(k) for k in range(count))
    )


def toytown_training_images(root: Path) -> tuple[list[Path], list[int]]:
    """The training images and the landmark of each, 0 .. n - 1."""
    spec = toytown_spec(root)
    pairs = [
        (root / "train" / "jpg" / file, landmark)
        for landmark in range(spec.train_landmarks)
        for file, _, _ in view_names("train", landmark, spec.train_views)
    ]
    return [file for file, _ in pairs], [landmark for _, landmark in pairs]


def toytown_records(root: Path, split: str) -> pd.DataFrame:
    """One row an image of `split`, its distractors last: what is in it, and how hard it is.

    `role` is train, query, database or distractor; `landmark` and `twin` are -1 where there is none;
    `azimuth` and `turn` (from the query's azimuth) are in degrees, NaN where undefined; `scale`, `visible`
    and `clutter` are fractions; x1, y1, x2, y2 in pixels. A distractor's figures are its main building's. `UserError`
    for an unknown split, and where records are missing or unreadable.
    """
    choose("Toytown split", split, SPLITS)
    paths = [_whole(root) / split / "records.csv"]
    if split in JUDGED:
        paths.append(root / folder(split, distractor=True) / "records.csv")
    try:
        kinds = {"turn": float, "difficulty": str, "azimuth": float}
        tables = [
            pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={"turn": [""]})
            for path in paths
        ]
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the records of Toytown at {root} ({error}): {_remedy(root)}"
        ) from error
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def load_mask(root: Path, split: str, file: str) -> NDArray[np.bool_]:
    """The pixels (height, width) in which the landmark is seen; `file` as in the records.

    `UserError` for a query, which has no mask, and for an unreadable one.
    """
    path = (
        root
        / choose("Toytown split", split, SPLITS)
        / "masks"
        / Path(file).with_suffix(".png").name
    )
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: only training and database images of Toytown have masks"
        )
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise UserError(f"{path} is no readable PNG: {_remedy(root)}")
    return np.asarray(pixels) > 127


def draw_distractor(spec: ToytownSpec, number: int, split: str = "test") -> NDArray[np.uint8]:
    """Distractor `number` of `split`, (size, size, 3) in red, green, blue, before the JPEG: any number exists."""
    start = DISTRACTOR_START[choose("Toytown split", split, JUDGED)]
    return photograph(
        spec.seed,
        STREAMS["distractors"],
        start + number,
        0,
        spec.size,
        "distractor",
        spec.nuisances,
    ).image
