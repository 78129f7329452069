"""Toytown as a data set: its images, ground truth, records and masks, once it is drawn."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, TrainingSet, from_ground_truth
from dagf.datasets.contents import Contents, remembered
from dagf.errors import UserError, choose
from dagf.files import read_json, write_text
from dagf.toytown.generate import SPLITS, WITH_QUERIES, ToytownSpec, jobs, make_toytown

SEEN = ".contents"  # in a drawn set: the hash of its files when it was first opened


def open_toytown(spec: ToytownSpec, folder: Path) -> Path:
    """Return the root of a Toytown below `folder`, drawn if it is not there.

    Raise `UserError` if files of it are missing, or others than when it was first opened.
    """
    root = make_toytown(spec, folder)
    contents = remembered(folder)
    check_toytown(root, contents)
    contents.save()
    return root


def toytown_spec(root: Path) -> ToytownSpec:
    """Return the values with which the Toytown at `root` was drawn."""
    file = root / "spec.json"
    try:
        values = read_json(file)
        names = [field.name for field in dataclasses.fields(ToytownSpec)]
        return ToytownSpec(**{name: values[name] for name in names})
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{file} does not describe a Toytown ({error}): {_remedy(root)}") from error


def _remedy(root: Path) -> str:
    return f"delete {root} and run `dagf data make`"


def check_toytown(root: Path, contents: Contents) -> None:
    """Raise `UserError` unless all files are there, as they were when it was first opened.

    What is cached of them is named by the set: a changed picture would meet the old one's maps.
    """
    wanted = [Path(split, "gnd.json") for split in WITH_QUERIES]
    for job in jobs(toytown_spec(root)):
        wanted.append(job.folder / "records.csv")
        for file, role, _ in job.images:
            wanted.append(job.folder / "jpg" / file)
            if role != "query":
                wanted.append(job.folder / "masks" / f"{Path(file).stem}.png")
    present = {path.relative_to(root) for path in root.rglob("*")}
    missing = [path for path in wanted if path not in present]
    if missing:
        rest = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        raise UserError(f"Toytown at {root} lacks {missing[0]}{rest}: {_remedy(root)}")
    found = contents.folder_hash(root)
    if not (root / SEEN).is_file():
        with suppress(OSError, UserError):  # where nothing can be written nothing can be changed
            write_text(root / SEEN, found)
    elif (root / SEEN).read_text(encoding="utf-8") != found:
        raise UserError(f"files in {root} were changed since it was drawn: {_remedy(root)}")


def load_toytown(root: Path, split: str) -> Benchmark:
    """Return the benchmark of `split` ('validation' or 'test'), with the split's distractors."""
    choose("Toytown split", split, WITH_QUERIES)
    distractors = [
        root / job.folder / "jpg" / file
        for job in jobs(toytown_spec(root))
        for file, _, _ in job.images
        if job.split == split and job.distractors
    ]
    truth = read_json(root / split / "gnd.json")
    benchmark = from_ground_truth(f"toytown-{split}", root / split / "jpg", truth)
    return dataclasses.replace(benchmark, distractors=tuple(distractors))


def toytown_training(root: Path) -> TrainingSet:
    """Return the training images, their landmarks and the validation split."""
    of_split = [job for job in jobs(toytown_spec(root)) if job.split == "train"]
    pairs = [(job, file) for job in of_split for file, _, _ in job.images]
    files = tuple(root / job.folder / "jpg" / file for job, file in pairs)
    labels = tuple(job.number for job, _ in pairs)
    return TrainingSet(files, labels, load_toytown(root, "validation"), root.name)


def toytown_records(root: Path, split: str) -> pd.DataFrame:
    """Return one row an image of `split`, its distractors last: what is in it, and how hard it is.

    `role` is train, query, database or distractor; `landmark` and `twin` are -1 where there is
    none; `azimuth` and `turn` (from the query's azimuth) are in degrees, NaN where undefined;
    `scale`, `visible` and `clutter` are fractions; x1, y1, x2, y2 in pixels. A distractor's figures
    are its main building's.
    """
    choose("Toytown split", split, SPLITS)
    folders = [root / split, *([root / "distractors" / split] if split in WITH_QUERIES else [])]
    kinds, missing = {"turn": float, "difficulty": str, "azimuth": float}, {"turn": [""]}
    files = [folder / "records.csv" for folder in folders]
    tables = [
        pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=missing) for file in files
    ]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def load_mask(root: Path, split: str, file: str) -> NDArray[np.bool_]:
    """Return the pixels (height, width) in which the landmark is seen; `file` as in the records."""
    path = root / split / "masks" / f"{Path(file).stem}.png"
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise UserError(f"{path} is no readable PNG: {_remedy(root)}")
    return np.asarray(pixels) > 127
