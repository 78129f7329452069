"""The Grocery Store data set (Klasson, Zhang, Kjellstrom, WACV 2019), split by product family.

Photographs in shops, of 81 kinds of goods. The juices are searched for: every third photograph of
the authors' test list is a query, the studio picture of each juice another (query set
`query-iconic`), all other photographs of juices are the database. The other packages are trained
on, but for the yoghurts, which are left out; fruit and vegetables, where the class is a sort and
not one product, are the further training role `train-category`, every second photograph.

Layout, from the root of the repository: dataset/classes.csv; dataset/{train,test,val}.txt with
lines "path, class, coarse class"; dataset/iconic-images-and-descriptions/.
"""

import csv
from pathlib import Path, PurePosixPath

from dagf.errors import UserError

TESTED, LEFT_OUT = "Juice", "Yoghurt"
_ORDER = ("train", "train-category", "query", "query-iconic", "database")
_COLUMNS = (
    "Class ID (int)",
    "Class Name (str)",
    "Coarse Class Name (str)",
    "Iconic Image Path (str)",
)


def is_grocery(folder: Path) -> bool:
    """Whether the folder is a copy of the repository."""
    return (folder / "dataset" / "classes.csv").is_file()


def grocery_rows(folder: Path) -> list[tuple[str, str, str]]:
    """Return (file, instance, role) of each photograph that has a role, role by role.

    Files are relative to `folder`. Raise `UserError` for a list that is missing or has another
    form.
    """
    home = folder / "dataset"
    try:
        kinds, photographs = _read(home)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{home} is no whole copy of the Grocery Store data set ({error}): get it again"
        ) from None
    rows = []
    seen = dict.fromkeys(kinds, 0)  # photographs of a kind so far
    for part, file, kind in photographs:
        name, family, _ = kinds[kind]
        role = ""
        if family == TESTED:
            role = "query" if part == "test" and seen[kind] % 3 == 0 else "database"
            seen[kind] += part == "test"
        elif "Packages" in PurePosixPath(file).parts:
            role = "" if family == LEFT_OUT else "train"
        else:
            role = "train-category" if seen[kind] % 2 == 0 else ""
            seen[kind] += 1
        if role:
            rows.append((f"dataset/{file}", name, role))
    for name, family, iconic in sorted(kinds.values()):
        if family == TESTED:
            rows.append((f"dataset/{iconic.lstrip('/')}", name, "query-iconic"))
    return sorted(rows, key=lambda row: _ORDER.index(row[2]))


def _read(home: Path) -> tuple[dict[str, tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return class -> (name, family, studio picture), and (list, file, class) of photographs.

    Photographs of a list are in the order of their files' own names, which number those of a class.
    """
    with (home / "classes.csv").open(encoding="utf-8-sig", newline="") as stream:
        lines = [[line[column] for column in _COLUMNS] for line in csv.DictReader(stream)]
    kinds = {number: (name, family, iconic) for number, name, family, iconic in lines}
    photographs = []
    for part in ("train", "test", "val"):
        found = []
        for line in filter(str.strip, (home / f"{part}.txt").read_text("utf-8").splitlines()):
            file, kind, _ = (cell.strip() for cell in line.split(","))
            kinds[kind]  # a class that is not listed is an error
            found.append((part, file, kind))
        photographs += sorted(found, key=lambda one: PurePosixPath(one[1]).name)
    return kinds, photographs
