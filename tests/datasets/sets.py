"""Miniature copies of the public sets' real layouts: their folders, file names and truth."""

import hashlib
import http.server
import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dagf.datasets.convert import convert_public
from dagf.datasets.public import SFM, image_path
from tests.fixtures import photograph

OXFORD = [f"all_souls_{n:06d}" for n in range(4)] + [f"oxford_{n:06d}" for n in range(3)]
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
CLASSIC = {"queries": 2, "database": 7, "boxes": 2, "ok": 5, "junk": 1}
GRADED = {"queries": 1, "database": 6, "boxes": 1, "easy": 1, "hard": 1, "junk": 1}
UPRIGHT = {"queries": 2, "database": 5, "ok": 3, "junk": 2}
SMALL = {  # what the miniatures hold
    "oxford5k": CLASSIC, "paris6k": CLASSIC, "roxford5k": GRADED, "rparis6k": GRADED,
    "holidays": UPRIGHT, "holidays-upright": UPRIGHT,
    "ukbench": {"queries": 8, "database": 8, "ok": 32},
    "grocery": {"queries": 6, "database": 14, "ok": 42},
    "flickrlogos27": {"queries": 4, "database": 7, "ok": 14},
}  # fmt: skip
MANIFEST = Path(__file__).parents[2] / "data" / "manifest.json"
# Class, its number, family, its number, folder, photographs in the lists train, test and val.
KINDS = [
    ("Bravo-Apple-Juice", 28, "Juice", 19, "Packages/Juice", (3, 4, 1)),
    ("Tropicana-Juice-Smooth", 36, "Juice", 19, "Packages/Juice", (4, 5, 1)),
    ("Oatly-Oat-Milk", 45, "Oat-Milk", 22, "Packages/Oat-Milk", (2, 1, 1)),
    ("Arla-Sour-Milk", 48, "Sour-Milk", 24, "Packages/Sour-Milk", (2, 0, 0)),
    ("Yoggi-Vanilla-Yoghurt", 58, "Yoghurt", 27, "Packages/Yoghurt", (2, 1, 1)),
    ("Anjou", 20, "Pear", 13, "Fruit/Pear", (3, 4, 0)),
]
LOGOS = "flickr_logos_27_dataset"
VIEWS = 4  # images of each landmark to train on


def write_manifest(data: Path) -> None:
    """The manifest as it is, but for the counts of the miniatures."""
    whole = json.loads(MANIFEST.read_text(encoding="utf-8"))
    for one in whole:
        one["counts"] = SMALL.get(one["name"], {})
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


def write_set(name: str, data: Path) -> Path:
    """The miniature of a public set as `dagf data get` lays it out, with what it needs."""
    home = data / "test" / name
    home.mkdir(parents=True, exist_ok=True)
    write_manifest(data)
    photographs, names = home / "jpg", [f"{one}.jpg" for one in OXFORD]
    if name in ("roxford5k", "rparis6k"):
        photographs = data / "test" / name[1:] / "jpg"
    elif name.startswith("holidays"):
        names = [f"{one}.jpg" for one in HOLIDAYS]
    elif name == "ukbench":
        names = [f"ukbench{number:05d}.jpg" for number in range(8)]
    if name == "grocery":
        write_grocery(home)
    elif name == "flickrlogos27":
        write_logos(home)
    else:
        write_images(photographs, names)
    if name in ("oxford5k", "paris6k", "roxford5k", "rparis6k"):
        truth = REVISITED if name.startswith("r") else PICKLE
        (home / f"gnd_{name}.pkl").write_bytes(pickle.dumps(truth, 2))
    convert_public(name, home)
    return home


def write_grocery(root: Path, kinds: Iterable[Any] = KINDS, pixels: bool = True) -> None:
    """The Grocery Store repository: lists, classes.csv, photographs (or empty files)."""
    home = root / "dataset"
    home.mkdir(parents=True, exist_ok=True)
    head = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
    head += "Iconic Image Path (str),"
    classes = [head + "Product Description Path (str)"]
    lists: dict[str, list[str]] = {"train": [], "test": [], "val": []}
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


def write_logos(home: Path) -> None:
    """FlickrLogos-27: four images and two queries of each logo, one image of two logos."""
    home.mkdir(parents=True, exist_ok=True)
    lists = {"training": ["33.jpg Mini 4 0 0 9 9 "], "query": ["900.jpg\tnone"]}
    for place, logo in enumerate(("HP", "Heineken", "Mini", "Pepsi")):
        for subset in (1, 2, 3, 4):  # each with all before it
            seen = [
                f"{place}{view}.jpg {logo} {subset} 2 3 {60 + view} 62 " for view in range(subset)
            ]
            lists["training"] += [*seen, f"{place}0.jpg {logo} {subset} 4 5 30 40 "]
        lists["query"] += [f"{place}{view}.jpg\t{logo}" for view in (8, 9)]
    for part, lines in lists.items():
        (home / f"{part}_set_annotation.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    names = {line.split()[0] for lines in lists.values() for line in lines}
    write_images(home / "images", sorted(names), size=64)


def pack_logos(home: Path, path: Path) -> None:
    """Pack FlickrLogos-27 as its authors do: the images in an archive of their own inside."""
    images = {f"{LOGOS}_images/{one.name}": one.read_bytes() for one in home.glob("images/*")}
    inner = make_tar(path.with_name("inner"), images).read_bytes()
    lists = {f"{LOGOS}/{LOGOS}_{one.name}": one.read_bytes() for one in home.glob("*.txt")}
    make_tar(path, {**lists, f"{LOGOS}/{LOGOS}_images.tar.gz": inner})


def smvs_files() -> dict[str, list[str]]:
    """The files of three categories of Stanford's set; of buildings more than are taken."""
    buildings = ["0000", *(f"{number:03d}" for number in range(1, 106))]
    things = {"dvd": [f"{number:03d}" for number in range(1, 101)], "street": buildings}
    things["books"] = [f"{number:03d}" for number in range(1, 102)]
    cameras = {"dvd": ("Canon", "Droid", "E63", "Palm"), "street": ("Query",), "books": ("5800",)}
    return {
        part: [f"{one}/{number}.jpg" for one in (*cameras[part], "Reference") for number in numbers]
        for part, numbers in things.items()
    }


def white(path: Path, width: int, height: int) -> Path:
    """A white picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "white").save(path)
    return path


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(what: Path | Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a server of a folder, or with a handler."""
    handler = partial(Quiet, directory=str(what)) if isinstance(what, Path) else what
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made.server_port
        made.shutdown()
        thread.join()


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    """A tar of the given files."""
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A zip of the given files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def mat(path: Path) -> dict[str, Any]:
    """A .mat ground truth, from 1, in our form from 0."""
    raw = pytest.importorskip("scipy.io").loadmat(path)
    names = [str(one[0]) for one in raw["imlist"].ravel()]
    gnd = []
    for entry in raw["gnd"].ravel():
        one = {key: [int(row) - 1 for row in entry[key].ravel()] for key in ("ok", "junk")}
        if "bbx" in entry.dtype.names:
            one["bbx"] = entry["bbx"].ravel().tolist()
        gnd.append(one)
    queries = [names[int(one) - 1] for one in raw["qidx"].ravel()]
    return {"imlist": names, "qimlist": queries, "gnd": gnd}


def write_sfm(folder: Path) -> dict[str, Any]:
    """Write and return the list (five clusters and two held out); its whitening split, `ims/`."""
    parts: dict[str, Any] = {}
    for part, numbers in (("train", range(5)), ("val", range(50, 52))):
        cids: list[str] = []
        for instance in numbers:
            for view in range(VIEWS):
                cid = hashlib.md5(f"{instance} {view}".encode()).hexdigest()
                path = folder / "ims" / image_path(cid)
                path.parent.mkdir(parents=True, exist_ok=True)
                photograph(instance, view, 40).resize((40, 32)).save(path, "JPEG")
                cids.append(cid)
        cluster = [7 * number for number in numbers for _ in range(VIEWS)]  # with gaps
        pairs = [(row, row + 1) for row in range(len(cids) - 1) if cluster[row] == cluster[row + 1]]
        qidxs, pidxs = (list(column) for column in zip(*pairs, strict=True))
        parts[part] = {"cids": cids, "cluster": cluster, "qidxs": qidxs, "pidxs": pidxs}
    (folder / f"{SFM}.json").write_text(json.dumps(parts))
    train = parts["train"]  # ten times each: as many pairs as descriptors have dimensions
    whiten = {"cids": train["cids"], "qidxs": train["qidxs"] * 10, "pidxs": train["pidxs"] * 10}
    (folder / f"{SFM}-whiten.json").write_text(json.dumps(whiten))
    return parts


def write_gldv2(folder: Path) -> None:
    """train_clean.csv and `train/` of six landmarks."""
    lines = ["landmark_id,images"]
    for landmark in range(6):
        keys = [f"g {landmark} {view}".encode() for view in range(VIEWS)]
        names = [hashlib.md5(key).hexdigest()[:16] for key in keys]
        for view, name in enumerate(names):
            path = folder / "train" / name[0] / name[1] / name[2] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(landmark, view, 40).save(path)
        lines.append(f"{3 * landmark + 1},{' '.join(names)}")
    (folder / "train_clean.csv").write_text("\n".join(lines) + "\n")
