"""Toytown as a data set: its images, ground truth, records and masks, once it is drawn."""

from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd

from dagf.datasets.benchmark import Benchmark, TrainingSet, from_ground_truth
from dagf.datasets.contents import Contents, remembered
from dagf.errors import UserError
from dagf.files import read_json, write_text
from dagf.toytown.generate import WITH_QUERIES, ToytownSpec, make_toytown

SEEN = ".contents"  # in a drawn set: the hash of its files when it was first opened


def open_toytown(spec: ToytownSpec, folder: Path) -> Path:
    """Return the root of a Toytown below `folder`, drawn if it is not there.

    Raise `UserError` if its files are others than when it was first opened.
    """
    root = make_toytown(spec, folder)
    contents = remembered(folder)
    check_toytown(root, contents)
    contents.save()
    return root


def check_toytown(root: Path, contents: Contents) -> None:
    """Raise `UserError` unless all files are as they were when it was first opened.

    What is cached of them is named by the set: a changed picture would meet the old one's maps.
    """
    found = contents.folder_hash(root)
    if not (root / SEEN).is_file():
        with suppress(OSError, UserError):  # where nothing can be written nothing can be changed
            write_text(root / SEEN, found)
    elif (root / SEEN).read_text(encoding="utf-8") != found:
        raise UserError(
            f"files in {root} were changed since it was drawn: delete it and run `dagf data make`"
        )


def load_toytown(root: Path, split: str) -> Benchmark:
    """Return the benchmark of `split` ('validation' or 'test'), with the split's distractors."""
    truth, records = root / split / "gnd.json", toytown_records(root, split)
    behind = root / "distractors" / split / "jpg"
    distractors = [behind / file for file in records["file"][records["role"] == "distractor"]]
    benchmark = from_ground_truth(f"toytown-{split}", root / split / "jpg", truth)
    return replace(benchmark, distractors=tuple(distractors))


def toytown_training(root: Path) -> TrainingSet:
    """Return the training images, their landmarks and the validation split.

    They are named by what decides them: a run serves every test split.
    """
    known = read_json(root / "spec.json")
    spec = ToytownSpec(**{one.name: known[one.name] for one in fields(ToytownSpec)})
    spec = replace(spec, test_landmarks=0, distractors=0, test_seed=ToytownSpec.test_seed)
    records = toytown_records(root, "train")
    files = tuple(root / "train" / "jpg" / file for file in records["file"])
    labels = tuple(records["landmark"].tolist())
    return TrainingSet(files, labels, load_toytown(root, "validation"), f"toytown-{spec.id}")


def toytown_records(root: Path, split: str) -> pd.DataFrame:
    """Return one row an image of `split`, its distractors last: what is in it, and how hard it is.

    `role` is train, query, database or distractor; `landmark` and `twin` are -1 where there is
    none; `azimuth` and `turn` (from the query's azimuth) are in degrees, NaN where undefined;
    `scale`, `visible` and `clutter` are fractions; x1, y1, x2, y2 in pixels. A distractor's figures
    are its main building's.
    """
    folders = [root / split, *([root / "distractors" / split] if split in WITH_QUERIES else [])]
    kinds, missing = {"turn": float, "difficulty": str, "azimuth": float}, {"turn": [""]}
    files = [folder / "records.csv" for folder in folders]
    tables = [
        pd.read_csv(file, dtype=kinds, keep_default_na=False, na_values=missing) for file in files
    ]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
