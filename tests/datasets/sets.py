"""Miniature copies of the public sets' real layouts: their folders, file names and truth."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from dagf.datasets.manifest import Counts
from tests.fixtures import photograph

OXFORD = [f"all_souls_{n:06d}" for n in range(4)] + [f"oxford_{n:06d}" for n in range(3)]
TEXTS = {  # of the query all_souls_1, then of oxford_1
    "all_souls_1": ("oxc1_all_souls_000001 1.5 2 30 28.25", [0, 1], [2], [3]),
    "oxford_1": ("oxc1_oxford_000000 0 0 32 32", [4], [5], []),
}
PICKLE = {
    "imlist": OXFORD,
    "qimlist": ["all_souls_000001", "oxford_000000"],
    "gnd": [
        {"bbx": [1.5, 2, 30, 28.25], "ok": [0, 1, 2], "junk": [3]},
        {"bbx": [0, 0, 32, 32], "ok": [4, 5], "junk": []},
    ],
}
REVISITED = {
    "imlist": OXFORD[1:],
    "qimlist": OXFORD[:1],
    "gnd": [{"bbx": [1, 2, 30, 31], "easy": [0], "hard": [1], "junk": [2]}],
}
HOLIDAYS = ["100000", "100001", "100002", "100100", "100101"]
SMALL = {  # what the miniatures hold
    "oxford5k": Counts(queries=2, database=7, ok=5, junk=1, without={"junk": (1,)}, own="ok"),
    "paris6k": Counts(queries=2, database=7, ok=5, junk=1, without={"junk": (1,)}, own="ok"),
    "roxford5k": Counts(queries=1, database=6, easy=1, hard=1, junk=1),
    "rparis6k": Counts(queries=1, database=6, easy=1, hard=1, junk=1),
    "holidays": Counts(queries=2, database=5, ok=3, junk=2, own="junk"),
    "ukbench": Counts(queries=8, database=8, ok=32, own="ok"),
    "grocery": Counts(queries=6, database=14, ok=42),
}


MANIFEST = Path(__file__).parents[2] / "data" / "manifest.json"


def write_manifest(data: Path) -> None:
    """The manifest as it is, but for the counts of the miniatures and lists of any size."""
    whole = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for one in whole["sets"]:
        one["expected"].pop("lists", None)
        if one["name"] in SMALL:
            one["expected"]["benchmark"] = SMALL[one["name"]].model_dump()
    data.mkdir(parents=True, exist_ok=True)
    (data / "manifest.json").write_text(json.dumps(whole))


def write_images(folder: Path, names: Iterable[str], size: int = 32) -> None:
    """A small photograph under each name; names that differ in their last digit look alike."""
    groups: dict[str, int] = {}
    for view, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        instance = groups.setdefault(path.stem[:-1], len(groups))
        photograph(instance, view, size).save(path, quality=92)


def write_text_truth(folder: Path, prefix: str = "") -> None:
    """The text files of the classic sets; names are those of `OXFORD` behind `prefix`."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, (query, *labels) in TEXTS.items():
        (folder / f"{stem}_query.txt").write_text(query.replace("oxc1_", prefix or "oxc1_") + "\n")
        for label, rows in zip(("good", "ok", "junk"), labels, strict=True):
            (folder / f"{stem}_{label}.txt").write_text(
                "".join(f"{prefix}{OXFORD[row]}\n" for row in rows)
            )


def write_pickle(path: Path, truth: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(truth, 2))


def write_set(name: str, data: Path, layout: str = "test") -> Path:
    """The miniature of a public set under data/LAYOUT, with what it needs; its own folder."""
    home = data / layout / name
    home.mkdir(parents=True, exist_ok=True)
    write_manifest(data)
    if name in ("oxford5k", "paris6k"):
        write_images(home / "jpg", [f"{one}.jpg" for one in OXFORD])
        write_pickle(home / f"gnd_{name}.pkl", PICKLE)
    elif name in ("roxford5k", "rparis6k"):
        write_images(data / layout / name[1:] / "jpg", [f"{one}.jpg" for one in OXFORD])
        write_pickle(home / f"gnd_{name}.pkl", REVISITED)
    elif name.startswith("holidays"):
        write_images(home / "jpg", [f"{one}.jpg" for one in HOLIDAYS])
    elif name == "ukbench":
        write_images(home / "full", [f"ukbench{number:05d}.jpg" for number in range(8)])
    else:
        write_grocery(home)
    return home


# Class, its number, family, its number, folder, photographs in the lists train, test and val.
KINDS = [
    ("Bravo-Apple-Juice", 28, "Juice", 19, "Packages/Juice", (3, 4, 1)),
    ("Tropicana-Juice-Smooth", 36, "Juice", 19, "Packages/Juice", (4, 5, 1)),
    ("Oatly-Oat-Milk", 45, "Oat-Milk", 22, "Packages/Oat-Milk", (2, 1, 1)),
    ("Arla-Sour-Milk", 48, "Sour-Milk", 24, "Packages/Sour-Milk", (2, 0, 0)),
    ("Yoggi-Vanilla-Yoghurt", 58, "Yoghurt", 27, "Packages/Yoghurt", (2, 1, 1)),
    ("Anjou", 20, "Pear", 13, "Fruit/Pear", (3, 4, 0)),
]


def write_grocery(
    root: Path, kinds: Iterable[tuple[Any, ...]] = KINDS, pixels: bool = True
) -> None:
    """The Grocery Store repository: lists, classes.csv, photographs (or empty files)."""
    home = root / "dataset"
    home.mkdir(parents=True, exist_ok=True)
    head = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    head += "Iconic Image Path (str),"
    classes, lists = (
        [head + "Product Description Path (str)"],
        dict[str, list[str]](train=[], test=[], val=[]),
    )
    for place, (name, number, family, coarse, folder, counts) in enumerate(kinds):
        iconic = f"iconic-images-and-descriptions/{folder}/{name}/{name}_Iconic.jpg"
        classes.append(
            f"{name},{number},{family},{coarse},/{iconic},"
            f"/{iconic.replace('_Iconic.jpg', '_Description.txt')}"
        )
        files = [iconic]
        for part, count in zip(lists, counts, strict=True):
            found = [f"{part}/{folder}/{name}/{name}_{n:03d}.jpg" for n in range(1, count + 1)]
            lists[part] += [f"{file}, {number}, {coarse}" for file in found]
            files += found
        for view, file in enumerate(files):
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            if pixels:
                photograph(place, view).save(home / file, quality=92)
            else:
                (home / file).touch()
    (home / "classes.csv").write_text("\n".join(classes) + "\n")
    for part, lines in lists.items():
        (home / f"{part}.txt").write_text("\n".join(reversed(lines)) + "\n")


def white(path: Path, width: int, height: int) -> Path:
    """A white picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "white").save(path)
    return path
