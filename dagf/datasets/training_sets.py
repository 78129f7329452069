"""Public training sets: retrieval-SfM (Radenovic et al., TPAMI 2019), Google Landmarks v2 clean.

Both are lists that come with the photographs. A photograph is named by what is in it (SfM) or by an
id that is never given twice (GLDv2), so the hash of the list stands for the set: nobody waits for
the hash of a million files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Indices, Query, TrainingSet, check_present
from dagf.datasets.folder import hold_out, read_csv
from dagf.datasets.manifest import list_differences, read_manifest
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError, choose
from dagf.files import content_hash, file_sha256

HELD_SEED = 2023  # which landmarks of GLDv2 are held out
_SFM = "retrieval-SfM-120k"
_UNPACK = "get the archives again, or unpack them there"


def image_path(cid: str) -> str:
    """Return where the photograph of a content id lies under `ims`."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def load_sfm(folder: Path) -> TrainingSet:
    """Load retrieval-SfM-120k from `folder`: its list, as .pkl or .json, and `ims/`.

    Clusters are its landmarks. A pair whose query and positive are one file teaches nothing and is
    left out (47 of the 181,697). The validation queries are those of the list's own split; what
    shares their cluster without being a listed positive is junk.
    """
    path, parts = _sfm_lists(folder, _SFM, "train", "val")
    (files, pairs, clusters), (database, asked, groups) = parts
    queries = []
    for query in np.unique(asked[:, 0]):
        positives = np.setdiff1d(asked[asked[:, 0] == query, 1], [query])
        same = np.flatnonzero(groups == groups[query])
        labels = {"ok": positives, "junk": np.setdiff1d(same, positives)}
        queries.append(Query(database[query], labels))
    root = folder / "ims"
    return TrainingSet(
        tuple(root / file for file in files),
        tuple(np.unique(clusters, return_inverse=True)[1].tolist()),
        Benchmark(f"{_SFM}-validation", root, tuple(database), tuple(queries)),
        f"{_SFM}-{file_sha256(path)[:12]}",
        tuple((query, positive) for query, positive in pairs.tolist() if query != positive),
    )


def load_whitening_split(folder: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """Return files, and rows (M, 2) of matching pairs of them, of SfM's whitening split."""
    _, [(files, pairs, _)] = _sfm_lists(folder, f"{_SFM}-whiten")
    return [folder / "ims" / file for file in files], pairs


def _sfm_lists(
    folder: Path, stem: str, *parts: str
) -> tuple[Path, list[tuple[list[str], NDArray[np.int64], Indices]]]:
    """Return the file of a list and, of each part or the whole: files, pairs, clusters.

    Pairs are (M, 2) rows of queries and positives; the whitening split has no clusters.
    """
    path = plain_file(folder, stem)
    if not path.is_file():
        raise UserError(f"{path} does not exist: get it with `dagf data get sfm120k`")
    lists, found = load_ground_truth(path), []
    try:
        for one in [lists[part] for part in parts] or [lists]:
            files = [image_path(cid) for cid in one["cids"]]
            pairs = np.array([one["qidxs"], one["pidxs"]], np.int64).T
            clusters = np.array(one["cluster"] if parts else [-1] * len(files), np.int64)
            if len(clusters) != len(files) or not 0 <= pairs.min() <= pairs.max() < len(files):
                raise ValueError("clusters or pairs of other images")
            found.append((files, pairs, clusters))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no list of images ({error}): get it again") from error
    check_present(path, folder / "ims", [file for files, *_ in found for file in files], _UNPACK)
    return path, found


def load_gldv2(folder: Path, held_out: int) -> TrainingSet:
    """Load Google Landmarks v2 clean: train_clean.csv, a landmark a line, and `train/`.

    It has no validation split: `held_out` landmarks are kept for it (`hold_out`).
    """
    path, root = folder / "train_clean.csv", folder / "train"
    table = read_csv(path, ("landmark_id", "images"))
    rows = table.assign(instance=table["landmark_id"], file=table["images"].str.split())
    rows = rows.explode("file", ignore_index=True)
    rows["file"] = [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in rows["file"]]
    check_present(path, root, rows["file"], _UNPACK)
    validation, held = hold_out("gldv2-validation", root, rows, held_out, HELD_SEED)
    kept = rows[~rows["instance"].isin(held)]
    return TrainingSet(
        tuple(root / file for file in kept["file"]),
        tuple(pd.factorize(kept["instance"])[0].tolist()),
        validation,
        content_hash(["gldv2", file_sha256(path), sorted(held)]),
    )


@dataclass(frozen=True)
class TrainingSource:
    """Where a training set lies under data/ (as in the manifest), and its loader.

    load: (folder, number of landmarks to hold out) -> the set. caveat: what must stand beside every
    figure of a network that was trained on it.
    """

    folder: str
    load: Callable[[Path, int], TrainingSet]
    caveat: str = ""


TRAINING_SETS: Mapping[str, TrainingSource] = {  # by the name of `dagf data get`
    "sfm120k": TrainingSource("train/retrieval-SfM-120k", lambda folder, _: load_sfm(folder)),
    "gldv2": TrainingSource(
        "train/gldv2",
        load_gldv2,
        "Trained on Google Landmarks v2, which overlaps the test sets: 38 of the 70 evaluation "
        "images of ROxford5k and 36 of the 70 of RParis6k show landmarks of 18 of its classes "
        "(arXiv 2404.01524).",
    ),
}


def open_training_set(name: str, data: Path, held_out: int) -> TrainingSet:
    """Return a public training set; a `UserError` says how to get what is missing."""
    source = TRAINING_SETS[choose("training set", name, TRAINING_SETS)]
    folder, again = data / source.folder, f"`dagf data get {name}`"
    if not folder.is_dir():
        raise UserError(f"the training set {name} is not in {folder}: run {again}")
    if wrong := list_differences(read_manifest(data / "manifest.json")[name], folder):
        raise UserError(f"{folder} has {'; '.join(wrong)}: get it again with {again}")
    return source.load(folder, held_out)
