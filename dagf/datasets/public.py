"""Public data sets (data/manifest.json says where they are and what each must hold), by name.

`dagf data get` puts a benchmark into data/test/NAME: gnd_NAME.json (or a labels.csv) and jpg/.
Training sets are lists with photographs, which are named by what is in them (SfM) or by an id that
is never given twice (GLDv2), so the hash of the list stands for a million files.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from dagf.datasets.benchmark import (
    Benchmark,
    Query,
    TrainingSet,
    check_present,
    first_mistake,
    from_ground_truth,
)
from dagf.datasets.decode import find_images
from dagf.datasets.folder import has_labels, hold_out, load_folder, read_csv, read_labels
from dagf.errors import UserError, choose
from dagf.files import content_hash, file_sha256, read_json, walk

HELD_SEED = 2023  # which landmarks of GLDv2 are held out
SFM = "retrieval-SfM-120k"
GET_AGAIN = "get the set again with `dagf data get`"
PUBLIC = (
    *("oxford5k", "paris6k", "roxford5k", "rparis6k"),  # r: revisited, on the others' photographs
    *("holidays", "holidays-upright", "ukbench", "grocery", "flickrlogos27"),
)
TRAINING_SETS = {"sfm120k": "train/retrieval-SfM-120k", "gldv2": "train/gldv2"}
CAVEATS = {  # what must stand beside every figure of a network that was trained on a set
    "gldv2": "Trained on Google Landmarks v2, which overlaps the test sets: 38 of the 70 "
    "evaluation images of ROxford5k and 36 of the 70 of RParis6k show landmarks of 18 of its "
    "classes (arXiv 2404.01524).",
}
DISTRACTORS = {"r1m": "distractors/revisitop1m", "oxford100k": "distractors/oxford100k"}


class RemoteFile(BaseModel):
    """A file of a set: where it is, and how it is laid out in the set's folder.

    mirrors: addresses, in the order to try. bytes: its size, of archives roughly. md5_from: the
    address of a text with its md5. members: of a zip or tar the members to unpack, as a pattern of
    their whole path whose group is their name; other files stay as they are. into: a sub-folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    mirrors: tuple[str, ...]
    sha256: str | None = None
    bytes: int = 0
    md5_from: str | None = None
    members: str = ""
    into: str = ""


class DataSet(BaseModel):
    """A public data set; `needs` names the sets without which it is of no use.

    holds: pattern -> number of files (None: one or more). counts: of a benchmark the queries,
    database images, boxes, and each label summed over the queries; of a training set the images.
    unmeasured: what no source states, and is therefore left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    folder: str
    files: tuple[RemoteFile, ...]
    needs: tuple[str, ...] = ()
    holds: Mapping[str, int | None] = {}
    counts: Mapping[str, int] = {}
    unmeasured: str = ""
    notes: str = ""

    @field_validator("files", mode="before")
    @classmethod
    def _numbered(cls, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write out entries with `numbers`: one file a number, which takes the place of {}."""
        found = []
        for entry in files:
            text = json.dumps({key: value for key, value in entry.items() if key != "numbers"})
            first, last, digits = entry.get("numbers", (0, 0, 1))
            names = [f"{number:0{digits}d}" for number in range(first, last + 1)]
            found += [json.loads(text.replace("{}", name)) for name in names]
        return found


def read_manifest(path: Path) -> dict[str, DataSet]:
    """Return the public data sets by name; raise `UserError` where the file has another form."""
    try:
        sets = TypeAdapter(list[DataSet]).validate_python(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is no manifest ({first_mistake(error)}): get it again") from None
    return {one.name: one for one in sets}


def check_counts(name: str, found: Mapping[str, int], data: Path) -> None:
    """Raise `UserError` where a public set does not hold what the manifest in `data` says."""
    expected = read_manifest(data / "manifest.json")[name].counts
    wrong = [
        f"{found.get(what, 0)} {what} (expected {count})"
        for what, count in expected.items()
        if found.get(what, 0) != count
    ]
    if wrong:
        raise UserError(
            f"{name} has {', '.join(wrong)}: it is not whole or another version, get it again"
        )


def differences(one: DataSet, folder: Path) -> list[str]:
    """Return which files in `folder` are not as expected, in a few words a pattern."""
    names = [file.relative_to(folder).as_posix() for file in walk(folder).files]
    found = {
        pattern: sum(bool(re.fullmatch(expression, name)) for name in names)
        for pattern, expression in zip(one.holds, map(_expression, one.holds), strict=True)
    }
    return [
        f"{found[pattern]} files {pattern} (expected {count or 'some'})"
        for pattern, count in one.holds.items()
        if not found[pattern] or (count and found[pattern] != count)
    ]


def _expression(pattern: str) -> str:
    """Return as a regular expression what `Path.glob` means by a pattern."""
    escaped = re.escape(pattern).replace(r"\*\*/", "(.+/)?")
    return escaped.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def spelled(what: str, names: Iterable[str] = PUBLIC, kind: str = "benchmark") -> str:
    """Return `what` as the study keeps it: one of `names` in small letters, or a whole path.

    That of a folder or, of a benchmark, of a ground truth in the field's form (.json). Raise
    `UserError` for what is none of them, with the nearest name.
    """
    path = Path(what)
    if what.lower() not in names and (path.is_dir() or (path.suffix == ".json" and path.is_file())):
        return str(path.resolve())
    try:
        return choose(kind, what.lower(), names)
    except UserError as error:
        raise UserError(f"{error}; or name a folder that exists") from None


def called(what: str) -> str:
    """Return the name of a benchmark: a public set's, a folder's, or gnd_NAME.json's NAME."""
    path = Path(what).resolve()
    return path.stem.removeprefix("gnd_") if path.suffix == ".json" else path.name


def folders_of(what: str, data: Path) -> list[Path]:
    """Return the folders that hold a part of a set: of a public one under `data`, or its own."""
    if what in DISTRACTORS:
        return [data / DISTRACTORS[what]]
    if what not in PUBLIC:
        return [place(what, data)]
    return [data / "test" / name for name in sorted({what, what.removeprefix("r")})]


def place(what: str, data: Path) -> Path:
    """Return the folder of a benchmark: under `data`, the named one, or that of a ground truth.

    Raise `UserError` as `spelled`, and for a public set that is not there.
    """
    what = spelled(what)
    path = Path(what)
    home = data / "test" / what if what in PUBLIC else path.parent if path.is_file() else path
    if not home.is_dir():
        raise UserError(f"{what} is not in {home}: get it with `dagf data get {what}`")
    return home


def open_benchmark(what: str, data: Path, distractors: Sequence[str] = ()) -> Benchmark:
    """Return the benchmark `what`, with further distractors.

    It is a public set under `data`, a folder, or a ground truth in the field's form (a .json whose
    images lie beside it or in jpg/). Raise `UserError` for anything that is missing, not as it must
    be, or two sets mixed up.
    """
    home, name = place(what, data), spelled(what)
    if name in PUBLIC and not has_labels(home):
        root = home.with_name(name.removeprefix("r")) / "jpg"
        benchmark = from_ground_truth(name, root, home / f"gnd_{name}.json")
        check_present(name, root, benchmark.files, GET_AGAIN)
    elif Path(name).is_file():
        benchmark = replace(load_folder(home, Path(name)), name=called(name))
    else:
        benchmark = load_folder(home)
    if name in PUBLIC:
        check_counts(name, benchmark.counts, data)
    extra = [file for one in distractors for file in distractor_files(one, data)]
    if both := {*benchmark.database_paths} & {*extra}:
        raise UserError(f"{len(both)} distractors, as {min(both)}, are in {name}: name another set")
    return replace(benchmark, distractors=(*benchmark.distractors, *extra))


def distractor_files(what: str, data: Path) -> list[Path]:
    """Return the images of a public distractor set, or those of a folder with that role.

    Raise `UserError` as `spelled`, where there is no image, and where some cannot be read.
    """
    what = spelled(what, DISTRACTORS, "distractor set")
    if what in DISTRACTORS:
        try:
            found = find_images([data / DISTRACTORS[what]])
        except UserError as error:
            remedy = f"get it with `dagf data get {what}`, and unpack what is still packed"
            raise UserError(f"{error}: {remedy}") from None
        if found.unread:
            raise UserError("\n".join(found.unread))
        return sorted(found.files)
    rows = read_labels(Path(what))
    files = [Path(what) / file for file in rows["file"][rows["role"] == "distractor"]]
    if not files:
        remedy = "give the role distractor to some lines of its labels"
        raise UserError(f"{what} has no image here: {remedy}")
    return files


def open_training_set(name: str, data: Path, held_out: int) -> TrainingSet:
    """Return a public training set; a `UserError` says how to get what is missing.

    held_out: the number of landmarks to validate on, of a set without a split of its own.
    """
    folder = data / TRAINING_SETS[choose("training set", name, TRAINING_SETS)]
    if not folder.is_dir():
        raise UserError(f"{name} is not in {folder}: run `dagf data get {name}`")
    found = load_sfm(folder) if name == "sfm120k" else load_gldv2(folder, held_out)
    kept = found.validation
    queries = {query.file for query in kept.queries} - {*kept.database}
    check_counts(name, {"images": len(found.files) + len(kept.database) + len(queries)}, data)
    return found


def image_path(cid: str) -> str:
    """Return where the photograph of a content id lies under `ims`."""
    return f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}"


def load_sfm(folder: Path) -> TrainingSet:
    """Load retrieval-SfM-120k from `folder`: its list, and the photographs in `ims/`.

    Clusters are its landmarks. A pair whose query and positive are one file teaches nothing and is
    left out (47 of the 181,697). The validation queries are those of the list's own split; what
    shares their cluster without being a listed positive is junk.
    """
    path, root = folder / f"{SFM}.json", folder / "ims"
    lists = read_json(path, GET_AGAIN)
    files, pairs = _listed(path, lists["train"])
    database, asked = _listed(path, lists["val"])
    groups, queries = np.array(lists["val"]["cluster"]), []
    for query in np.unique(asked[:, 0]):
        positives = np.setdiff1d(asked[asked[:, 0] == query, 1], [query])
        same = np.flatnonzero(groups == groups[query])
        labels = {"ok": positives, "junk": np.setdiff1d(same, positives)}
        queries.append(Query(database[query], labels))
    return TrainingSet(
        tuple(root / file for file in files),
        tuple(pd.factorize(np.array(lists["train"]["cluster"]), sort=True)[0].tolist()),
        Benchmark(f"{SFM}-validation", root, tuple(database), tuple(queries)),
        f"{SFM}-{file_sha256(path)[:12]}",
        tuple((query, positive) for query, positive in pairs.tolist() if query != positive),
    )


def load_whitening_split(data: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """Return files, and rows (M, 2) of matching pairs of them, of SfM's whitening split."""
    folder = data / TRAINING_SETS["sfm120k"]
    path = folder / f"{SFM}-whiten.json"
    files, pairs = _listed(path, read_json(path, GET_AGAIN))
    return [folder / "ims" / file for file in files], pairs


def _listed(path: Path, part: Mapping[str, Any]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the photographs of a part of SfM's list, and its pairs (M, 2), query and positive."""
    files = [image_path(cid) for cid in part["cids"]]
    check_present(path, path.parent / "ims", files, GET_AGAIN)
    return files, np.array([part["qidxs"], part["pidxs"]], np.int64).T


def load_gldv2(folder: Path, held_out: int) -> TrainingSet:
    """Load Google Landmarks v2 clean: train_clean.csv, a landmark a line, and `train/`.

    It has no validation split: `held_out` landmarks are kept for it (`hold_out`).
    """
    path, root = folder / "train_clean.csv", folder / "train"
    table = read_csv(path, ("landmark_id", "images"))
    rows = table.assign(instance=table["landmark_id"], file=table["images"].str.split())
    rows = rows.explode("file", ignore_index=True)
    rows["file"] = [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in rows["file"]]
    check_present(path, root, rows["file"], GET_AGAIN)
    kept, validation = hold_out("gldv2-validation", root, rows, held_out, HELD_SEED)
    held = {*rows["instance"]} - {*kept["instance"]}
    return TrainingSet(
        tuple(root / file for file in kept["file"]),
        tuple(pd.factorize(kept["instance"])[0].tolist()),
        validation,
        content_hash(["gldv2", file_sha256(path), sorted(held)]),
    )
