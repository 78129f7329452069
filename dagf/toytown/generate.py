"""Toytown, the embedded benchmark: landmarks with clutter, occlusion and scale, and exact masks.

Drawn from a seed and written in the layout of the real sets, so that the same loader, crop and
evaluation run on it.
"""

import csv
import gc
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from dagf.console import progress
from dagf.errors import UserError
from dagf.files import atomic_folder, content_hash, write_json
from dagf.toytown import scene

# Raise it with every change of a pixel, a record or a threshold: results of two versions cannot be
# compared. tests/toytown/version.json holds hashes of what this version draws.
VERSION = 1
SPLITS = ("train", "validation", "test")
WITH_QUERIES = ("validation", "test")
FEW = 250  # images for which starting worker processes takes longer than drawing
COLUMNS = (
    *("file", "landmark", "twin", "role", "azimuth", "turn", "scale", "visible", "clutter"),
    *("x1", "y1", "x2", "y2", "difficulty", "weather"),
)
# `turn` is in degrees, the rest are fractions.
THRESHOLDS = {
    "junk": {"visible_below": 0.45, "scale_below": 0.055, "turn_above": 90.0},
    "easy": {"visible": 0.75, "scale": 0.10, "turn": 50.0, "clutter": 0.35},
}
Record = dict[str, Any]


@dataclass(frozen=True)
class ToytownSpec:
    """All values of a Toytown. Its images depend on size, seeds and `nuisances`, not on counts.

    Raises `UserError` for values that cannot be drawn.
    """

    size: int = 96  # pixels a side
    train_landmarks: int = 300
    train_views: int = 16
    validation_landmarks: int = 40
    test_landmarks: int = 70
    views: int = 20  # database views a landmark, beside its one query
    distractors: int = 4000  # of the test split
    validation_distractors: int = 500
    seed: int = 2023
    test_seed: int = 2023  # of the test split: another one draws landmarks that nobody has seen
    nuisances: bool = True  # False: the control, with no clutter, no occlusion, nearly one scale

    def __post_init__(self) -> None:
        if not 48 <= self.size <= 512:
            raise UserError(f"Toytown: size is {self.size} pixels, expected 48 to 512")
        for name, value in asdict(self).items():
            least = 1 if name in ("views", "train_views") else 0
            if value < least:
                raise UserError(f"Toytown: {name} is {value}, expected at least {least}")

    @property
    def id(self) -> str:
        """Name of the folder: other values, or another version of the generator, give another."""
        return content_hash({**asdict(self), "version": VERSION})

    def distractor_count(self, split: str) -> int:
        """How many distractors `split` has; the training split has none."""
        return {"test": self.distractors, "validation": self.validation_distractors}.get(split, 0)


@dataclass(frozen=True)
class Job:
    """What is drawn at once: the views of one landmark, or distractors that show one building."""

    spec: ToytownSpec
    split: str
    number: int  # of the landmark, or of the first distractor
    distractors: int = 0  # how many; 0 for a landmark

    @property
    def folder(self) -> Path:
        """Where the images lie, relative to the Toytown's root."""
        return Path("distractors", self.split) if self.distractors else Path(self.split)

    @property
    def images(self) -> list[tuple[str, str, int]]:
        """(file, role, number of the view or distractor) of each image; a query is view 0."""
        if self.distractors:
            numbers = range(self.number, self.number + self.distractors)
            return [(f"distractor_{number:07d}.jpg", "distractor", number) for number in numbers]
        spec, name = self.spec, f"{self.number:05d}"
        role, views = (
            ("train", spec.train_views) if self.split == "train" else ("database", spec.views)
        )
        query = [] if role == "train" else [(f"{name}_query.jpg", "query", 0)]
        return query + [(f"{name}_{view:03d}.jpg", role, view) for view in range(1, views + 1)]


def jobs(spec: ToytownSpec) -> list[Job]:
    """All that a Toytown consists of, in the order of its records."""
    found = [
        Job(spec, split, landmark)
        for split in SPLITS
        for landmark in range(getattr(spec, f"{split}_landmarks"))
    ]
    for split in WITH_QUERIES:
        count = spec.distractor_count(split)
        for first in range(0, count, scene.SIGHTINGS):
            found.append(Job(spec, split, first, min(scene.SIGHTINGS, count - first)))
    return found


def make_toytown(spec: ToytownSpec, folder: Path, workers: int | None = None) -> Path:
    """Draw the Toytown of `spec` below `folder` unless it is there already; return its root.

    The bytes do not depend on `workers` (default: one a CPU). A root appears under its name only
    when it is whole; two processes that ask at once draw it once.
    """
    root = folder / f"toytown-{spec.id}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{root.name}.lock"):
        if not root.exists():
            with atomic_folder(root) as temporary:
                _draw_all(spec, temporary, workers)
    return root


def _draw_all(spec: ToytownSpec, root: Path, workers: int | None) -> None:
    folders = [*map(Path, SPLITS), *(Path("distractors", split) for split in WITH_QUERIES)]
    records: dict[Path, list[Record]] = {folder: [] for folder in folders}
    for folder in folders:
        (root / folder / "jpg").mkdir(parents=True)
        (root / folder / "masks").mkdir()
    todo = jobs(spec)
    workers = workers or (os.cpu_count() or 1 if sum(len(job.images) for job in todo) >= FEW else 1)
    drawn = progress(_results(todo, root, workers), "Toytown", total=len(todo), unit="landmark")
    for job, rows in zip(todo, drawn, strict=True):
        records[job.folder] += rows
    for where, rows in records.items():
        with (root / where / "records.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for split in WITH_QUERIES:
        write_json(root / split / "gnd.json", _ground_truth(records[Path(split)]))
    write_json(root / "spec.json", {**asdict(spec), "version": VERSION, "id": spec.id})


def _results(todo: list[Job], root: Path, workers: int) -> Iterator[list[Record]]:
    roots = [root] * len(todo)
    if workers == 1:
        yield from map(write_images, todo, roots)
        return
    # Not a plain fork: PyTorch's threads, which a caller may have started, do not survive one.
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_set_up_worker) as pool:
        yield from pool.map(write_images, todo, roots)


def _set_up_worker() -> None:
    cv2.setNumThreads(1)  # each worker is one of several
    gc.disable()  # nothing here is cyclic


def write_images(job: Job, root: Path) -> list[Record]:
    """Write the images and masks of `job` below `root`; return their records, in order."""
    shots = scene.in_step([_drawing(job, role, number) for _, role, number in job.images])
    images, masks = root / job.folder / "jpg", root / job.folder / "masks"
    records: list[Record] = []
    for (file, role, _), shot in zip(job.images, shots, strict=True):
        options = [cv2.IMWRITE_JPEG_QUALITY, shot.quality]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR), options)[1]
        (images / file).write_bytes(jpeg.data)
        if role != "query":  # whose box is what is searched for
            options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 3]
            png = cv2.imencode(".png", shot.mask * np.uint8(255), options)[1]
            (masks / file.replace(".jpg", ".png")).write_bytes(png.data)
        record = _record(job, file, role, shot)
        if role == "database":
            record["turn"] = round(abs(record["azimuth"] - records[0]["azimuth"]), 2)
            record["difficulty"] = difficulty(record)
        records.append(record)
    return records


def _drawing(job: Job, role: str, number: int) -> scene.Drawing:
    """One of the images of `job`."""
    spec = job.spec
    seed = spec.test_seed if job.split == "test" else spec.seed
    key = (seed, scene.STREAMS[job.split], job.number, number)
    if job.distractors:
        first = scene.DISTRACTOR_START[job.split]
        key = (seed, scene.STREAMS["distractors"], first + number, 0)
    return scene.drawing(key, spec.size, role, spec.nuisances)


def _record(job: Job, file: str, role: str, shot: scene.Photograph) -> Record:
    landmark = -1 if job.distractors else job.number
    twin = -1 if job.distractors else scene.twin_of(job.number)
    twin = twin if twin < getattr(job.spec, f"{job.split}_landmarks") else -1
    shares = (round(share, 4) for share in (shot.scale, shot.visible, shot.clutter))
    values = (file, landmark, twin, role, shot.azimuth, "", *shares, *shot.box, "", shot.weather)
    return dict(zip(COLUMNS, values, strict=True))


def difficulty(record: Mapping[str, Any]) -> str:
    """Return 'easy', 'hard' or 'junk' for a database view.

    `turn` is the angle in degrees between this view and the query's. Junk: too little of the
    landmark is left to find it by. Easy: all four values are benign. Everything between is hard.
    """
    junk, easy = THRESHOLDS["junk"], THRESHOLDS["easy"]
    visible, scale, turn = (record[name] for name in ("visible", "scale", "turn"))
    if visible < junk["visible_below"] or scale < junk["scale_below"] or turn > junk["turn_above"]:
        return "junk"
    benign = visible >= easy["visible"] and scale >= easy["scale"] and turn <= easy["turn"]
    return "easy" if benign and record["clutter"] <= easy["clutter"] else "hard"


def _ground_truth(rows: list[Record]) -> dict[str, Any]:
    """The field's layout: `imlist`, `qimlist`, and a query's 'bbx', 'easy', 'hard', 'junk'."""
    queries = [row for row in rows if row["role"] == "query"]
    database = [row for row in rows if row["role"] == "database"]
    entries: dict[int, dict[str, Any]] = {}
    for row in queries:
        box = [float(row[side]) for side in ("x1", "y1", "x2", "y2")]
        entries[row["landmark"]] = {"bbx": box, "easy": [], "hard": [], "junk": []}
    for index, row in enumerate(database):
        entries[row["landmark"]][row["difficulty"]].append(index)
    return {
        "imlist": [Path(row["file"]).stem for row in database],
        "qimlist": [Path(row["file"]).stem for row in queries],
        "gnd": list(entries.values()),
    }
