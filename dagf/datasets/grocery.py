"""The Grocery Store data set (Klasson, Zhang, Kjellstrom, WACV 2019), split by product family.

Photographs in shops, of 81 kinds of goods. The juices are searched for: every third photograph of
the authors' test list is a query, the studio picture of each juice another (query set
`query-iconic`), all other photographs of juices are the database. The other packages are trained
on, but for the yoghurts, which are left out; fruit and vegetables, where the class is a sort and
not one product, are the further training role `train-category`, every second photograph.

Layout, from the root of the repository: dataset/classes.csv; dataset/{train,test,val}.txt with
lines "path, class, coarse class"; dataset/iconic-images-and-descriptions/.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from dagf.errors import UserError

TESTED, LEFT_OUT = "Juice", "Yoghurt"
_ORDER = ("train", "train-category", "query", "query-iconic", "database")
_COLUMNS = {
    "Class ID (int)": "kind",
    "Class Name (str)": "instance",
    "Coarse Class Name (str)": "family",
    "Iconic Image Path (str)": "file",
}


def is_grocery(folder: Path) -> bool:
    """Whether the folder is a copy of the repository."""
    return (folder / "dataset" / "classes.csv").is_file()


def grocery_labels(folder: Path) -> pd.DataFrame:
    """Return file, instance and role of each photograph that has a role, role by role.

    Files are relative to `folder`. Raise `UserError` for a list that is missing or has another
    form.
    """
    home = folder / "dataset"
    try:
        kinds = pd.read_csv(home / "classes.csv")[[*_COLUMNS]].rename(columns=_COLUMNS)
        photographs = pd.concat([_photographs(home, part) for part in ("train", "test", "val")])
        photographs = photographs.merge(kinds.drop(columns="file"), how="left", on="kind")
        if photographs.isna().any(axis=None):
            raise ValueError("a photograph without its class")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{home} is no whole copy of the Grocery Store data set ({error}): get it again"
        ) from None
    number = photographs.groupby("kind").cumcount()
    number_in_list = photographs.groupby(["part", "kind"]).cumcount()
    tested = photographs["family"] == TESTED
    packages = photographs["file"].str.contains("/Packages/")
    photographs["role"] = np.select(
        [
            tested & (photographs["part"] == "test") & (number_in_list % 3 == 0),
            tested,
            packages & (photographs["family"] != LEFT_OUT),
            ~packages & (number % 2 == 0),
        ],
        ["query", "database", "train", "train-category"],
        "",
    )
    iconic = kinds[kinds["family"] == TESTED].sort_values("instance").assign(role="query-iconic")
    rows = pd.concat([photographs, iconic])[["file", "instance", "role"]]
    rows["file"] = "dataset/" + rows["file"].str.lstrip("/")
    return pd.concat([rows[rows["role"] == role] for role in _ORDER], ignore_index=True)


def _photographs(home: Path, part: str) -> pd.DataFrame:
    """Return a list's photographs in the order of their own names, which number those of a class"""
    names = ["file", "kind", "family number"]
    found = pd.read_csv(home / f"{part}.txt", names=names, skipinitialspace=True)
    found["part"] = part
    return found.sort_values("file", key=lambda file: file.str.split("/").str[-1], kind="stable")
