"""Every benchmark by one mechanism: the name of a public set under data/, or a folder.

A public set lies in data/test/NAME (cnnimageretrieval's layout, and where `dagf data get` puts it)
or in data/datasets/NAME (revisitop's). A new one is a loader and a line of `LOADERS`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dagf.datasets.benchmark import Benchmark, Query, check_present, from_ground_truth
from dagf.datasets.folder import LABELS, TRUTH, by_instance, load_folder, read_labels
from dagf.datasets.manifest import check_counts, read_manifest
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError, choose

LAYOUTS = ("test", "datasets")
PHOTOGRAPHS_OF = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}  # those of the classic sets
# Files of Paris6k that cannot be decoded: no version of the ground truth names them.
CORRUPT = {
    f"paris_{name}"
    for name in (  # noqa: SIM905
        "louvre_000136 louvre_000146 moulinrouge_000422 museedorsay_001059 notredame_000188 "
        "pantheon_000284 pantheon_000960 pantheon_000974 pompidou_000195 pompidou_000196 "
        "pompidou_000201 pompidou_000467 pompidou_000640 sacrecoeur_000299 sacrecoeur_000330 "
        "sacrecoeur_000353 triomphe_000662 triomphe_000833 triomphe_000863 triomphe_000867"
    ).split()
}


def load_oxford(name: str, home: Path) -> Benchmark:
    """Load Oxford5k, Paris6k (Philbin et al., 2007, 2008) or a revisited set (Radenovic, 2018).

    The ground truth is gnd_NAME.json or .pkl in `home`, else (classic) the authors' text files, in
    `home`, in its folder `gt`, or in NAME-gt beside it. Photographs lie in `jpg`, of `home` or of
    the classic set beside it. In the classic sets the query stays in the database, as 'ok'.
    """
    classic = PHOTOGRAPHS_OF.get(name, name)
    root = home / "jpg" if (home / "jpg").is_dir() else home.parent / classic / "jpg"
    truth = plain_file(home, f"gnd_{name}")
    if truth.is_file():
        return from_ground_truth(name, root, load_ground_truth(truth), truth)
    for folder in (home, home / "gt", home.with_name(f"{name}-gt")):
        if classic == name and any(folder.glob("*_query.txt")):
            return from_ground_truth(name, root, _text_truth(folder, root), folder)
    raise UserError(
        f"no ground truth of {name}: {truth} does not exist; get it with `dagf data get`"
    )


def _text_truth(folder: Path, root: Path) -> dict[str, Any]:
    """Return imlist, qimlist and gnd from QUERY_query.txt, _good, _ok and _junk of `folder`.

    'ok' is good and ok together. The database is what lies in `root` or has a label, without
    Paris's corrupt files.
    """
    queries, images = [], {path.stem for path in root.glob("*.jpg")}
    entries: list[dict[str, Any]] = []
    try:
        for path in sorted(folder.glob("*_query.txt")):
            name, *box = path.read_text("utf-8").split()
            good, ok, junk = (
                set(path.with_name(path.name.replace("_query", f"_{label}")).read_text().split())
                for label in ("good", "ok", "junk")
            )
            queries.append(name.removeprefix("oxc1_"))  # Oxford's queries have it, and nothing else
            entries.append({"bbx": [*map(float, box)], "ok": good | ok, "junk": junk})
            images |= good | ok | junk
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} or its labels ({error}): get it again") from None
    row = {image: index for index, image in enumerate(sorted(images - CORRUPT))}
    for entry in entries:
        for label in ("ok", "junk"):
            entry[label] = [row[image] for image in entry[label] - CORRUPT]
    return {"imlist": [*row], "qimlist": queries, "gnd": entries}


def load_holidays(name: str, home: Path) -> Benchmark:
    """Load INRIA Holidays (Jegou et al., ECCV 2008), the original or the "upright" photographs.

    home/jpg holds NNNNMM.jpg: NNNN the group, MM its photographs from 00. The first is the query,
    and stays in the database as junk for itself. Results of the two versions differ.
    """
    images = _grouped(name, home / "jpg", r"(\d{4})\d\d\.jpg")
    made = by_instance(name, home / "jpg", images.drop_duplicates("instance"), images)
    own = [(query.file, query.positives) for query in made.queries]
    queries = [Query(file, {"ok": rows[1:], "junk": rows[:1]}) for file, rows in own]
    return replace(made, queries=tuple(queries))


def load_ukbench(name: str, home: Path) -> Benchmark:
    """Load UKBench (Nister, Stewenius, CVPR 2006): full/ukbenchNNNNN.jpg, NNNNN // 4 the group.

    Each photograph is a query, and its own is one of the four to be found.
    """
    images = _grouped(name, home / "full", r"ukbench(\d{5})\.jpg", size=4)
    return by_instance(name, home / "full", images, images)


def _grouped(name: str, root: Path, pattern: str, size: int = 1) -> pd.DataFrame:
    """Return the sorted files of `root`, and their groups: the number in a name // size."""
    files = sorted(path.name for path in root.glob("*.jpg"))
    if not files:
        raise UserError(
            f"the images of {name} are not in {root}: unpack them there, without sub-folders"
        )
    if foreign := [file for file in files if not re.fullmatch(pattern, file)]:
        raise UserError(f"{root / foreign[0]} is no image of {name}: move it away")
    table = pd.DataFrame({"file": files, "role": "query"})
    table["instance"] = table["file"].str.extract(pattern, expand=False).astype(int) // size
    return table


LOADERS: Mapping[str, Callable[[str, Path], Benchmark]] = {
    "oxford5k": load_oxford,
    "paris6k": load_oxford,
    "roxford5k": load_oxford,
    "rparis6k": load_oxford,
    "holidays": load_holidays,
    "holidays-upright": load_holidays,
    "ukbench": load_ukbench,
    "grocery": lambda name, home: load_folder(home, name),
}


DISTRACTORS: Mapping[str, tuple[str, str]] = {  # folder of data/, and its images
    "r1m": ("distractors/revisitop1m", "jpg/**/*"),
    "oxford100k": ("distractors/oxford100k", "**/*.jpg"),
}


def spelled(what: str, names: Iterable[str] = LOADERS, kind: str = "benchmark") -> str:
    """Return `what` as the study keeps it: one of `names` in small letters, or a whole path.

    Raise `UserError` for what is neither, with the nearest name.
    """
    if what.lower() not in names and Path(what).is_dir():
        return str(Path(what).resolve())
    try:
        return choose(kind, what.lower(), names)
    except UserError as error:
        raise UserError(f"{error}; or name a folder that exists") from None


def place(what: str, data: Path) -> Path:
    """Return the folder of a benchmark: of a public set under `data`, or the named one itself.

    Raise `UserError` as `spelled`, and for a public set that is not there.
    """
    what = spelled(what)
    if what not in LOADERS:
        return Path(what)
    homes = [data / layout / what for layout in LAYOUTS]
    if home := next(filter(Path.is_dir, homes), None):
        return home
    raise UserError(f"{what} is not in {homes[0]}: get it with `dagf data get {what}`")


def folders_of(what: str, data: Path) -> list[Path]:
    """Return the folders under `data` that hold a part of a public set; none for others."""
    if what in DISTRACTORS:
        return [data / DISTRACTORS[what][0]]
    names = {what, PHOTOGRAPHS_OF.get(what, what)} & LOADERS.keys()
    homes = [data / layout / name for layout in LAYOUTS for name in sorted(names)]
    return [home for home in homes if home.is_dir()]


def open_benchmark(what: str, data: Path, distractors: Sequence[str] = ()) -> Benchmark:
    """Return the benchmark `what`, a public set under `data` or a folder, with further distractors.

    A folder is taken for a public set where it has its name and no labels of its own. Raise
    `UserError` for anything that is missing, not as it must be, or two sets mixed up.
    """
    home = place(what, data)
    name = home.name.lower().replace("_", "-")
    if name in LOADERS and not any((home / file).exists() for file in (LABELS, TRUTH)):
        benchmark = LOADERS[name](name, home)
        check_counts(benchmark, read_manifest(data / "manifest.json"))
        check_present(name, benchmark.root, benchmark.files, "unpack the whole archive there")
    else:
        benchmark = load_folder(home)
    extra = [file for one in distractors for file in distractor_files(one, data)]
    both = set(map(Path.absolute, benchmark.database_paths)) & set(map(Path.absolute, extra))
    if both:
        raise UserError(f"{len(both)} distractors, as {min(both)}, are in {name}: name another set")
    return replace(benchmark, distractors=(*benchmark.distractors, *extra))


def distractor_files(what: str, data: Path) -> list[Path]:
    """Return the images of a public distractor set, or those of a folder with that role.

    Raise `UserError` as `spelled`, and where there is no image.
    """
    what = spelled(what, DISTRACTORS, "distractor set")
    if what in DISTRACTORS:
        folder, pattern = DISTRACTORS[what]
        files = sorted(path for path in (data / folder).glob(pattern) if path.is_file())
        remedy = f"get it with `dagf data get {what}`, and unpack what is still packed"
    else:
        rows = read_labels(Path(what))
        files = [Path(what) / file for file in rows["file"][rows["role"] == "distractor"]]
        remedy = "give the role distractor to some lines of its labels"
    if not files:
        raise UserError(f"{what} has no image here: {remedy}")
    return files
