"""The Grocery Store data set (Klasson, Zhang, Kjellstrom, WACV 2019) as instances: split by product family.

Photographs in shops, of 81 kinds of goods. The juices are searched for: every third photograph of the authors' test
list is a query, the studio picture of each juice another (query set `query-iconic`), all other photographs of juices
are the database. The other packages are trained on, but for the yoghurts, which are left out; fruit and vegetables,
where the class is a sort and not one product, are the further training role `train-category`, every second photograph.

Layout, from the root of the repository: dataset/classes.csv; dataset/{train,test,val}.txt with lines "path, class,
coarse class"; dataset/iconic-images-and-descriptions/.
"""

from pathlib import Path, PurePosixPath

from dagf.datasets.lists import check_size, read_csv
from dagf.errors import UserError

LISTS = ("train", "test", "val")
TESTED, LEFT_OUT = "Juice", "Yoghurt"
EVERY = {"query": 3, "train-category": 2}  # of the photographs of a kind, in the order of the lists
_REMEDY = "get the set again"
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
    """(file, instance, role) of each photograph that has a role, in the order of `labels.csv`: role by role.

    Files are relative to `folder`. Raises `UserError` for a list that is missing or has another form.
    """
    home = folder / "dataset"
    classes = _classes(home / "classes.csv")
    rows: dict[str, list[tuple[str, str, str]]] = {
        role: [] for role in ("train", "train-category", "query", "query-iconic", "database")
    }
    seen = dict.fromkeys(classes, 0)  # photographs of a kind so far
    photographs = [(part, *one) for part in LISTS for one in _list(home / f"{part}.txt", classes)]
    for part, file, number in photographs:
        name, family, _ = classes[number]
        if family == TESTED:
            role = "query" if part == "test" and seen[number] % EVERY["query"] == 0 else "database"
            seen[number] += part == "test"
        elif "Packages" in PurePosixPath(file).parts:
            role = "" if family == LEFT_OUT else "train"
        else:
            role = "train-category" if seen[number] % EVERY["train-category"] == 0 else ""
            seen[number] += 1
        if role:
            rows[role].append((f"dataset/{file}", name, role))
    for name, family, iconic in sorted(classes.values()):
        if family == TESTED:
            rows["query-iconic"].append((f"dataset/{iconic.lstrip('/')}", name, "query-iconic"))
    return [row for part in rows.values() for row in part]


def _classes(path: Path) -> dict[str, tuple[str, str, str]]:
    """Number of a class, as text -> its name, its family and its studio picture."""
    found = {}
    for line, cells in read_csv(path, _COLUMNS, remedy=_REMEDY):
        number, *about = (cells[column] for column in _COLUMNS)
        if not number or not all(about):
            raise UserError(f"{path}, line {line}: an empty cell; {_REMEDY}")
        found[number] = (about[0], about[1], about[2])
    return found


def _list(path: Path, classes: dict[str, tuple[str, str, str]]) -> list[tuple[str, str]]:
    """(file, number of its class) of a list, by the file's own name, as the photographs of a class are numbered."""
    found = []
    for count, line in enumerate(_read(path), 1):
        cells = [cell.strip() for cell in line.split(",")]
        if not line.strip():
            continue
        if len(cells) != 3 or cells[1] not in classes:
            raise UserError(
                f"{path}, line {count}: expected 'path, class, coarse class' with a class of classes.csv"
            )
        found.append((cells[0], cells[1]))
    return sorted(found, key=lambda one: PurePosixPath(one[0]).name)


def _read(path: Path) -> list[str]:
    try:
        check_size(path, _REMEDY)
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): {_REMEDY}") from None
