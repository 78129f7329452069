"""Writing one Toytown landmark to disk: what a worker process does, and how hard each of its views is."""

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from dagf.errors import UserError
from dagf.toytown.scene import DISTRACTOR_START, STREAMS, Photograph, photograph, twin_of

Record = dict[str, Any]

# Frozen: they are part of the generator's hash. `turn` is in degrees, the rest are fractions.
THRESHOLDS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "junk": MappingProxyType({"visible_below": 0.45, "scale_below": 0.055, "turn_above": 90.0}),
        "easy": MappingProxyType({"visible": 0.75, "scale": 0.10, "turn": 50.0, "clutter": 0.35}),
    }
)


def difficulty(record: Mapping[str, Any]) -> str:
    """'easy', 'hard' or 'junk' for a database view, from its `visible`, `scale`, `turn` and `clutter`.

    `turn` is the angle in degrees between this view and the query's. Junk: too little of the landmark is
    left to ask for it. Easy: all four are benign. Everything between is hard.
    """
    junk, easy = THRESHOLDS["junk"], THRESHOLDS["easy"]
    if (
        record["visible"] < junk["visible_below"]
        or record["scale"] < junk["scale_below"]
        or record["turn"] > junk["turn_above"]
    ):
        return "junk"
    benign = (
        record["visible"] >= easy["visible"]
        and record["scale"] >= easy["scale"]
        and record["turn"] <= easy["turn"]
        and record["clutter"] <= easy["clutter"]
    )
    return "easy" if benign else "hard"


@dataclass(frozen=True)
class Job:
    """The views of one landmark, or distractors that show one building, to be written under `root`."""

    root: Path
    split: str  # train, validation or test
    landmark: int  # for distractors: the number of the first, from 0, within the split's range
    landmarks: int  # how many the split has
    views: int
    size: int
    seed: int
    nuisances: bool
    distractor: bool = False


def folder(job_split: str, distractor: bool = False) -> str:
    """Where a split's images lie, relative to the Toytown's root."""
    return f"distractors/{job_split}" if distractor else job_split


def view_names(split: str, landmark: int, views: int) -> list[tuple[str, str, int]]:
    """(file, role, view number) of each image of a landmark; view 0 is the query's where there is one."""
    if split == "train":
        return [(f"{landmark:05d}_{view:03d}.jpg", "train", view) for view in range(1, views + 1)]
    database = [
        (f"{landmark:05d}_{view:03d}.jpg", "database", view) for view in range(1, views + 1)
    ]
    return [(f"{landmark:05d}_query.jpg", "query", 0), *database]


def distractor_name(number: int) -> str:
    """The file of a split's distractor `number`."""
    return f"distractor_{number:07d}.jpg"


def write_views(job: Job) -> list[Record]:
    """Render and write the images and masks of `job`; the records of them, in order."""
    root = job.root / folder(job.split, job.distractor)
    if job.distractor:
        return [
            _write_distractor(job, root, number)
            for number in range(job.landmark, job.landmark + job.views)
        ]
    twin = twin_of(job.landmark)
    twin = -1 if twin is None or twin >= job.landmarks else twin
    records: list[Record] = []
    for file, role, view in view_names(job.split, job.landmark, job.views):
        shot = photograph(
            job.seed, STREAMS[job.split], job.landmark, view, job.size, role, job.nuisances
        )
        write_bytes(root / "jpg" / file, encode_jpeg(shot))
        if role != "query":
            write_bytes(root / "masks" / Path(file).with_suffix(".png"), _encode_mask(shot))
        record = _record(file, role, job.landmark, twin, shot)
        if role == "database":
            record["turn"] = round(abs(record["azimuth"] - records[0]["azimuth"]), 2)
            record["difficulty"] = difficulty(record)
        records.append(record)
    return records


def _write_distractor(job: Job, root: Path, number: int) -> Record:
    key = STREAMS["distractors"], DISTRACTOR_START[job.split] + number
    shot = photograph(job.seed, *key, 0, job.size, "distractor", job.nuisances)
    file = distractor_name(number)
    write_bytes(root / "jpg" / file, encode_jpeg(shot))
    return _record(file, "distractor", -1, -1, shot)


def _record(file: str, role: str, landmark: int, twin: int, shot: Photograph) -> Record:
    return {
        "file": file,
        "landmark": landmark,
        "twin": twin,
        "role": role,
        "azimuth": shot.azimuth,
        "turn": "",
        "scale": round(shot.scale, 4),
        "visible": round(shot.visible, 4),
        "clutter": round(shot.clutter, 4),
        **dict(zip(("x1", "y1", "x2", "y2"), shot.box, strict=True)),
        "difficulty": "",
        "weather": shot.weather,
    }


def encode_jpeg(shot: Photograph) -> bytes:
    """The photograph's JPEG file."""
    done, data = cv2.imencode(
        ".jpg", shot.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, shot.quality]
    )
    assert done
    return data.tobytes()


def _encode_mask(shot: Photograph) -> bytes:
    options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 3]
    done, data = cv2.imencode(".png", shot.mask.astype(np.uint8) * np.uint8(255), options)
    assert done
    return data.tobytes()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of a folder that is renamed only when it is whole; a full disk is the user's matter: `UserError`."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"cannot write Toytown to {path.parent}: {error.strerror}; nothing was changed"
        ) from error


def set_up_worker() -> None:
    """One thread, for each worker is one of several; no garbage collection, for nothing here is cyclic."""
    cv2.setNumThreads(1)
    gc.disable()
