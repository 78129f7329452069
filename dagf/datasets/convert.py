"""Other people's ground truth as ours: folder names, a CSV with other columns, pairs, pickles.

Instances become a labels.csv; pairs, where each query has positives of its own, a ground_truth.json
in the field's form (imlist, qimlist, gnd). `dagf.datasets.folder.load_folder` reads both.
"""

import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from dagf.datasets.benchmark import spelling
from dagf.datasets.decode import find_images
from dagf.datasets.folder import (
    BOXES,
    COLUMNS,
    CORNERS,
    LABELS,
    TRUTH,
    load_folder,
    read_csv,
    read_labels,
)
from dagf.errors import UserError, shown
from dagf.files import ANY_NAME, atomic_path, natural, write_json, write_text

PAIRS = ("query", "positives", "junk")
GROCERY_ROLES = ("train", "train-category", "query", "query-iconic", "database")
GROCERY_COLUMNS = {  # theirs -> ours
    "Class ID (int)": "kind",
    "Class Name (str)": "instance",
    "Coarse Class Name (str)": "family",
    "Iconic Image Path (str)": "file",
}
ROLES = {  # what others call our roles
    **dict.fromkeys(("gallery", "index", "reference", "ref"), "database"),
    "probe": "query",
}


def convert(
    folder: Path,
    listing: Path | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> list[str]:
    """Write the ground truth of `folder`, check it by loading it, and return lines on it.

    listing: a CSV with the columns file and instance (and role), or query and positives (and junk),
    whose names are parted by spaces, or by ; or | where they have spaces. columns: our name of a
    column -> its name there. Without a listing the sub-folder of an image is its instance. Where
    nobody says which images are queries, the first of each instance is one, if it has another image
    to find. Raise `UserError`, and writes nothing, where that is no ground truth; what exists is
    only replaced with `force`.
    """
    found = find_images([folder])
    if found.unread:
        raise UserError("\n".join(found.unread))
    images = [path.relative_to(folder).as_posix() for path in found.files]
    for file in images:
        if any("\udc80" <= letter <= "\udcff" for letter in file):  # bytes, as Python keeps them
            raise UserError(f"{folder}: the name {shown(file)} is no UTF-8: rename the file")
    table = pd.DataFrame({"file": images, "instance": [file.rpartition("/")[0] for file in images]})
    if listing:
        table = _read(listing, columns or {})
    spelled = spelling(folder)

    def inside(file: str) -> str:
        """Return a name as seen from the folder, where it is a whole path into it."""
        path = Path(file)
        for home in (folder.absolute(), folder.resolve()):
            path = path.relative_to(home) if path.is_relative_to(home) else path
        return spelled(path.as_posix())

    for column in {"file", "query"} & {*table}:
        table[column] = [*map(inside, table[column])]
    name, other = (TRUTH, LABELS) if "query" in table else (LABELS, TRUTH)
    path = folder / name
    if (folder / other).exists():
        raise UserError(
            f"{folder / other} exists, and a folder has one ground truth: move it away first"
        )
    if path.exists() and not force:
        raise UserError(f"{path} exists already: give --force to replace it")
    text, said = _pairs(images, table, inside) if name == TRUTH else _labels(folder, table)
    with atomic_path(path) as temporary:  # which takes its place only once it could be loaded
        temporary.write_text(text, encoding="utf-8", errors=ANY_NAME)
        try:
            if name == TRUTH or read_labels(folder, temporary)["role"].str.match("query").any():
                load_folder(folder, listing=temporary)
        except UserError as error:  # under the name that it would have had
            raise UserError(str(error).replace(temporary.name, path.name)) from None
    return [f"{path}: {said[0]}", *said[1:], *found.lines()]


def _read(listing: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the cells of a CSV by our names of columns, in small or large letters there."""
    first = listing.read_bytes().partition(b"\n")[0].decode(errors="replace")
    table = read_csv(listing, [*columns.values()], max(",;\t", key=first.count))
    theirs = {name.lower(): name for name in sorted(table.columns)} | {**columns}
    kind = PAIRS if {*PAIRS[:2]} <= theirs.keys() else COLUMNS
    if not {*kind[:2]} <= theirs.keys() or table.empty:
        raise UserError(
            f"{listing} has {len(table)} lines with {', '.join(table.columns)}: say with --column"
            " OURS=THEIRS which are file and instance (or query and positives)"
        )
    return pd.DataFrame({name: table[theirs[name]] for name in kind if name in theirs})


def _labels(folder: Path, rows: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the text of a labels.csv, and what to say of it."""
    table = rows.reindex(columns=COLUMNS, fill_value="")
    table["role"] = [ROLES.get(role.lower(), role) for role in table["role"]]
    counts = table["instance"][table["instance"] != ""].value_counts()
    if not table["role"].any():
        several = table["instance"].map(counts) > 1
        order = sorted(table.index[several], key=lambda row: natural(Path(table.loc[row, "file"])))
        if not order:
            raise UserError(
                f"{folder}: no instance has two images: put those of one instance into one"
                " sub-folder, or give a list with --from"
            )
        table["role"] = np.where(table["instance"] == "", "distractor", "database")
        table.loc[table.loc[order].drop_duplicates("instance").index, "role"] = "query"
    roles = table["role"].value_counts().sort_index()
    return table.to_csv(index=False), [
        f"{len(table)} images of {len(counts)} instances",
        *(f"{role}: {count} images" for role, count in roles.items()),
    ]


def _pairs(
    images: list[str], rows: pd.DataFrame, inside: Callable[[str], str]
) -> tuple[str, list[str]]:
    """Return the text of a ground_truth.json, and what to say of it."""
    for query in rows["query"][rows["query"].duplicated()]:
        raise UserError(f"the query {query} is in two lines: make one of them")
    lists = rows.set_index("query").reindex(columns=PAIRS[1:], fill_value="")
    lists = lists.map(lambda cell: {*map(inside, _names(cell))})
    listed = set[str]().union(*lists["positives"], *lists["junk"])
    database = sorted(({*images} - {*lists.index}) | listed)
    row = {file: index for index, file in enumerate(database)}
    entries = []
    for query, right, neither in lists.itertuples():
        own = {query} & row.keys()  # a query never finds itself
        parts = {"ok": right - own - neither, "junk": neither | own}
        entries.append({key: sorted(row[name] for name in part) for key, part in parts.items()})
    table = pd.DataFrame(entries, lists.index).map(len)
    truth = {"imlist": database, "qimlist": [*lists.index], "gnd": entries}
    return json.dumps(truth, ensure_ascii=False) + "\n", [
        f"{len(entries)} queries, {len(database)} database images",
        f"{table['ok'].sum()} positives, {table['junk'].sum()} junk",
    ]


def _names(cell: str) -> list[str]:
    parts = re.split("[;|]", cell) if re.search("[;|]", cell) else cell.split()
    return [part.strip() for part in parts if part.strip()]


def grocery_labels(folder: Path) -> pd.DataFrame:
    """Return labels of the Grocery Store data set (Klasson, Zhang, Kjellstrom, WACV 2019).

    Photographs in shops, of 81 kinds of goods, split by product family. The juices are searched
    for: every third photograph of the authors' test list is a query, the studio picture of each
    juice another (query set `query-iconic`), all other photographs of juices are the database. The
    other packages are trained on, but for the yoghurts, which are left out; fruit and vegetables,
    where the class is a sort and not one product, are the further training role `train-category`,
    every second photograph.

    folder: a copy of the repository, with dataset/classes.csv and dataset/{train,test,val}.txt,
    whose lines are "path, class, coarse class". Raise `UserError` where it has another form.
    """
    home, parts = folder / "dataset", []
    try:
        kinds = pd.read_csv(home / "classes.csv")[[*GROCERY_COLUMNS]].rename(
            columns=GROCERY_COLUMNS
        )
        for part in ("train", "test", "val"):
            names = ["file", "kind", "family number"]
            listed = pd.read_csv(home / f"{part}.txt", names=names, skipinitialspace=True)
            # in the order of their own names, which number those of a class
            own = listed["file"].str.split("/").str[-1].sort_values(kind="stable").index
            parts.append(listed.loc[own].assign(part=part))
        photographs = pd.concat(parts).merge(kinds.drop(columns="file"), on="kind")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{home} is no whole copy of the Grocery Store data set ({error}): get it again"
        ) from None
    number = photographs.groupby("kind").cumcount()
    number_in_list = photographs.groupby(["part", "kind"]).cumcount()
    tested = photographs["family"] == "Juice"
    packages = photographs["file"].str.contains("/Packages/")
    photographs["role"] = np.select(
        [
            tested & (photographs["part"] == "test") & (number_in_list % 3 == 0),
            tested,
            packages & (photographs["family"] != "Yoghurt"),
            ~packages & (number % 2 == 0),
        ],
        ["query", "database", "train", "train-category"],
        "",
    )
    iconic = kinds[kinds["family"] == "Juice"].sort_values("instance").assign(role="query-iconic")
    rows = pd.concat([photographs, iconic])[[*COLUMNS]]
    rows["file"] = "dataset/" + rows["file"].str.lstrip("/")
    return pd.concat([rows[rows["role"] == role] for role in GROCERY_ROLES], ignore_index=True)


def flickrlogos27(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labels and boxes of FlickrLogos-27 (Kalantidis et al., ICMR 2011), split by class.

    Every second class by name, the first among them, is trained on. Of the others the authors'
    queries are queries, and their training images, which have boxes, the database. The queries
    without a logo are distractors. An image with logos of two classes is left out.

    folder: images/ and the authors' lists, with lines "file class subset x1 y1 x2 y2" (a subset has
    all boxes of those before it, too) and "file class".
    """
    columns = ["file", "instance", "subset", *CORNERS]
    boxes, queries = (
        pd.read_csv(folder / f"{part}_set_annotation.txt", sep=r"\s+", names=names)
        for part, names in (("training", columns), ("query", columns[:2]))
    )
    boxes = boxes.drop(columns="subset").drop_duplicates().sort_values("file", kind="stable")
    boxes = boxes[boxes.groupby("file")["instance"].transform("nunique") == 1]
    images = boxes.drop_duplicates("file").assign(role="database")
    rows = pd.concat([images, queries.assign(role="query")], ignore_index=True)[[*COLUMNS]]
    rows.loc[rows["instance"].isin(sorted({*boxes["instance"]})[::2]), "role"] = "train"
    rows.loc[rows["instance"] == "none", ["instance", "role"]] = ["", "distractor"]
    return rows.assign(file="images/" + rows["file"]), boxes.assign(file="images/" + boxes["file"])


def boxed_queries(boxes: pd.DataFrame) -> dict[str, Any]:
    """Return a ground truth among images with boxes whose queries are cut to their box.

    Of the images of an instance with one logo, and that at least 48 pixels wide and high, every
    third is a query, eight at most; all other images are the database. One logo: the largest of
    the image's boxes is at least 0.6 of the box around them all, which is that of the query.
    """
    of_image = boxes.groupby(["instance", "file"])
    around = of_image[["x1", "y1"]].min().join(of_image[["x2", "y2"]].max())
    width, height = around["x2"] - around["x1"], around["y2"] - around["y1"]
    area = (boxes["x2"] - boxes["x1"]) * (boxes["y2"] - boxes["y1"])
    largest = area.groupby([boxes["instance"], boxes["file"]]).max()
    fit = around[(width >= 48) & (height >= 48) & (largest >= 0.6 * width * height)]
    number = fit.groupby("instance").cumcount()
    queries = fit[(number % 3 == 0) & (number < 24)]
    database = around.drop(queries.index).reset_index()
    rows = database.groupby("instance").indices
    return {
        "imlist": [*database["file"]],
        "qimlist": [file for _, file in queries.index],
        "gnd": [
            {"bbx": box, "ok": [int(row) for row in rows[instance]], "junk": []}
            for (instance, _), box in zip(queries.index, queries.to_numpy().tolist(), strict=True)
        ],
    }


def smvs_labels(folder: Path) -> pd.DataFrame:
    """Return labels of dvd, street or books, categories of the Stanford Mobile Visual Search data
    set (Chandrasekhar et al., MMSys 2011): CAMERA/NUMBER.jpg, and Reference/NUMBER.jpg.

    Covers of DVDs with an even number are trained on; of the others the Canon's photographs are
    queries. Of the buildings the first 101 by name are taken, with a query each. All books are
    trained on.
    """
    category = folder.name
    rows = pd.DataFrame(
        {"file": sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.jpg"))}
    )
    number = rows["file"].str.extract(r"(\d+)\.jpg", expand=False)
    trained = (category == "books") | ((category == "dvd") & (number.astype(int) % 2 == 0))
    queries = rows["file"].str.match("Canon/|Query/")
    rows["instance"] = f"{category}-" + number
    rows["role"] = np.select([trained, queries], ["train", "query"], "database")
    return rows[(category != "street") | (number.rank(method="dense") <= 101)]


def convert_public(name: str, folder: Path) -> None:
    """Write beside what a public set comes with its ground truth as gnd_NAME.json or labels.csv.

    Raise `UserError` for lists that are broken, and for a pickle that is not plain data.
    """
    for pickled in folder.glob("*.pkl"):
        write_json(pickled.with_suffix(".json"), unpickled(pickled))
    if name == "grocery":
        write_text(folder / LABELS, grocery_labels(folder).to_csv(index=False))
    elif name == "flickrlogos27":
        rows, boxes = flickrlogos27(folder)
        write_text(folder / LABELS, rows.to_csv(index=False))
        write_text(folder / BOXES, boxes.to_csv(index=False))
        tested = boxes[boxes["file"].isin(rows["file"][rows["role"] == "database"])]
        write_json(folder / f"gnd_{name}_boxed.json", boxed_queries(tested))
    elif name == "smvs":
        for part in ("dvd", "street", "books"):
            write_text(folder / part / LABELS, smvs_labels(folder / part).to_csv(index=False))
    elif name.startswith(("holidays", "ukbench")):
        files = sorted(path.name for path in (folder / "jpg").glob("*.jpg"))
        write_json(folder / f"gnd_{name}.json", groups(files, 4 if name == "ukbench" else 100))


def groups(files: Sequence[str], size: int) -> dict[str, Any]:
    """Return the ground truth of INRIA Holidays (Jegou et al., ECCV 2008) or UKBench (Nister,
    Stewenius, CVPR 2006), whose names are numbers: // `size` they give the group.

    Of a group of Holidays (NNNNMM.jpg, 100) the first is the query, and stays in the database as
    junk for itself. In UKBench (ukbenchNNNNN.jpg, 4) each is a query, and one of those to be found.
    """
    numbers = pd.Series(files).str.extract(r"(\d{5,6})\.jpg", expand=False).fillna("0").astype(int)
    queries, entries = [], []
    for rows in numbers.groupby(numbers // size).indices.values():
        same = [int(row) for row in rows]
        first = [same[0]] if size == 100 else []
        for query in first or same:
            queries.append(files[query])
            entries.append({"ok": same[len(first) :], "junk": first})
    return {"imlist": [*files], "qimlist": queries, "gnd": entries}


class _PlainUnpickler(pickle.Unpickler):
    """Dictionaries, lists, strings and numbers alone: what names a class or function is refused."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")


def unpickled(path: Path) -> Any:
    """Return the plain data in a pickle, without running any code; else raise `UserError`."""
    try:
        with path.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="latin-1").load()
    except Exception as error:  # the unpickler raises nearly anything on broken bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is no pickle of plain data ({reason}): get it again") from None
