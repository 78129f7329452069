"""The public training sets: retrieval-SfM (Radenovic et al., TPAMI 2019) and Google Landmarks v2, clean.

Both are lists that come with the photographs. A photograph is named by what is in it (SfM) or by an id that is never
given twice (GLDv2), so the hash of the list stands for the set: nobody waits for the sum of a million files.
"""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dagf.datasets.benchmark import Benchmark, Query
from dagf.datasets.folder import held_benchmark, held_instances
from dagf.datasets.lists import read_csv
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256

LIST_BYTES = 2**28  # 200,000 names of 32 letters and as many pairs are about 15 MB
HELD_SEED = 2023  # which landmarks of GLDv2 are held out

# Training images, validation images (SfM: as its author counts them); landmarks, images (GLDv2).
COUNTS = {"retrieval-SfM-120k": (91642, 6403), "train_clean.csv": (81313, 1580470)}


@dataclass(frozen=True)
class PublicSet:
    """Training images, their landmarks (0 .. n-1), query-positive pairs (rows), a validation benchmark, a hash."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    validation: Benchmark
    id: str
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Split:
    """A part of an SfM list: names, clusters (empty in the whitening split), and rows of queries and positives."""

    files: tuple[str, ...]
    clusters: tuple[int, ...]
    pairs: NDArray[np.int64]


def image_path(cid: str) -> str:
    """Where the photograph of a content id lies under `ims`."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def load_sfm(folder: Path, name: str = "retrieval-SfM-120k") -> PublicSet:
    """The set in `folder`: NAME.pkl (or the same as NAME.json) and `ims/`; clusters are its landmarks.

    A pair whose query and positive are one file teaches nothing and is left out (47 of the 181,697). The validation
    queries are those of the list's own split; what shares their cluster without being a listed positive is junk.
    Raises `UserError`, naming the file, for what is missing or does not fit together.
    """
    path = _list_file(folder, name)
    value = load_ground_truth(path, LIST_BYTES)
    train, val = (_split(path, value, part) for part in ("train", "val"))
    _check_counts(path, name, (len(train.files), len(val.files)))
    root = folder / "ims"
    _check_present(path, root, [*train.files, *val.files])
    labels = np.unique(train.clusters, return_inverse=True)[1]
    pairs = tuple(
        (int(query), int(positive)) for query, positive in train.pairs if query != positive
    )
    files = tuple(root / file for file in train.files)
    validation = Benchmark(f"{name}-validation", root, val.files, tuple(_queries(val)))
    return PublicSet(
        files, tuple(labels.tolist()), validation, f"{name}-{file_sha256(path)[:12]}", pairs
    )


def load_whitening_split(
    folder: Path, name: str = "retrieval-SfM-120k"
) -> tuple[list[Path], NDArray[np.int64]]:
    """Files, and rows (M, 2) of matching pairs of them, for `dagf.retrieval.whitening.learned_whitening`.

    From NAME-whiten.pkl (or .json) and `ims/` in `folder`. Raises `UserError` as `load_sfm`.
    """
    path = _list_file(folder, f"{name}-whiten")
    split = _split(path, {"whiten": load_ground_truth(path, LIST_BYTES)}, "whiten", clustered=False)
    _check_present(path, folder / "ims", split.files)
    return [folder / "ims" / file for file in split.files], split.pairs


def load_gldv2(folder: Path, held_out: int) -> PublicSet:
    """Google Landmarks v2 clean in `folder`: train_clean.csv and `train/`; the lines of the list are its landmarks.

    It has no validation split: `held_out` landmarks are kept, as `dagf.datasets.folder.validation_split` does.
    Raises `UserError`, naming the file and the line, for what is missing or does not fit together.
    """
    path = folder / "train_clean.csv"
    members = _clean_list(path)
    _check_counts(path, path.name, (len(members), sum(map(len, members.values()))))
    root = folder / "train"
    _check_present(path, root, [file for its in members.values() for file in its])
    held = held_instances(
        {name: len(its) for name, its in members.items()}, held_out, HELD_SEED, str(path)
    )
    validation = held_benchmark(
        "gldv2-validation", root, {name: sorted(members[name]) for name in held}
    )
    kept = [its for name, its in members.items() if name not in held]
    files = tuple(root / file for its in kept for file in its)
    labels = tuple(label for label, its in enumerate(kept) for _ in its)
    return PublicSet(
        files, labels, validation, content_hash(["gldv2", file_sha256(path), sorted(held)])
    )


@dataclass(frozen=True)
class TrainingSource:
    """Where a training set lies under data/ (as in data/manifest.json), and (folder, held out) -> the set.

    caveat: what must stand beside every figure of a network that was trained on it.
    """

    folder: str
    load: Callable[[Path, int], PublicSet]
    caveat: str = ""


TRAINING_SETS: Mapping[str, TrainingSource] = {  # by the name of `dagf data get`
    "sfm120k": TrainingSource("train/retrieval-SfM-120k", lambda folder, _: load_sfm(folder)),
    "gldv2": TrainingSource(
        "train/gldv2",
        load_gldv2,
        "Trained on Google Landmarks v2, which overlaps the test sets: 38 of the 70 evaluation images of ROxford5k and "
        "36 of the 70 of RParis6k show landmarks of 18 of its classes (arXiv 2404.01524).",
    ),
}


def _list_file(folder: Path, stem: str) -> Path:
    path = plain_file(folder, stem)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: get it with `dagf data get sfm120k`, or put it there"
        )
    return path


def _split(path: Path, value: Mapping[str, Any], part: str, clustered: bool = True) -> Split:
    try:
        one = value[part]
        cids = one["cids"]
        rows = [[operator.index(row) for row in one[key]] for key in ("qidxs", "pidxs")]
        clusters = tuple(operator.index(number) for number in one["cluster"]) if clustered else ()
        if not all(
            isinstance(cid, str) and len(cid) > 6 and "/" not in cid and "\\" not in cid
            for cid in cids
        ):
            raise ValueError("a content id that is no name of a file")
        if clustered and len(clusters) != len(cids):
            raise ValueError(f"{len(cids)} images, but {len(clusters)} clusters")
        if len(rows[0]) != len(rows[1]) or not rows[0]:
            raise ValueError(f"{len(rows[0])} queries, but {len(rows[1])} positives")
        pairs = np.array(rows, np.int64).T
        if pairs.min() < 0 or pairs.max() >= len(cids):
            raise ValueError(f"a pair outside its {len(cids)} images")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        why = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path}: its part '{part}' is not cids, cluster, qidxs, pidxs ({why}): get it again"
        ) from error
    return Split(tuple(map(image_path, cids)), clusters, pairs)


def _queries(split: Split) -> Iterable[Query]:
    """One query for each query image: its listed positives are right, the rest of its cluster is junk."""
    clusters = np.array(split.clusters)
    for query in np.unique(split.pairs[:, 0]):
        positives = np.unique(split.pairs[split.pairs[:, 0] == query, 1])
        positives = positives[positives != query]
        same = np.flatnonzero(clusters == clusters[query])
        yield Query(split.files[query], {"ok": positives, "junk": np.setdiff1d(same, positives)})


def _check_counts(path: Path, name: str, found: tuple[int, int]) -> None:
    expected = COUNTS.get(name, found)
    if found != expected:
        raise UserError(
            f"{path} lists {found[0]} and {found[1]}, expected {expected[0]} and {expected[1]} "
            f"({'landmarks and' if name.endswith('.csv') else 'training and validation'} images): get it again"
        )


def _check_present(path: Path, root: Path, files: Sequence[str]) -> None:
    """Each folder is listed once: quicker than asking for a million files."""
    there: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, _, name = file.rpartition("/")
        if parent not in there:
            folder = root / parent
            there[parent] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if name not in there[parent]:
            missing.append(file)
    if missing:
        raise UserError(
            f"{path} lists {len(missing)} photographs that are not in {root}, as {', '.join(missing[:3])}: get the "
            "archives again, or unpack them there"
        )


def _clean_list(path: Path) -> dict[str, list[str]]:
    """Landmark -> its files under `train`, in the order of the list."""
    members: dict[str, list[str]] = {}
    seen: set[str] = set()
    remedy = "get it again with `dagf data get gldv2`"
    for line, cells in read_csv(path, ("landmark_id", "images"), remedy=remedy):
        name, images = cells["landmark_id"], cells["images"].split()
        if not name or name in members or not images or not all(len(image) > 3 for image in images):
            raise UserError(f"{path}, line {line}: no landmark, or no images of it; {remedy}")
        if not seen.isdisjoint(images) or not all(image.isalnum() for image in images):
            raise UserError(f"{path}, line {line}: an image is listed twice or is no id; {remedy}")
        seen.update(images)
        members[name] = [f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg" for image in images]
    return members
