"""Oxford5k and Paris6k (Philbin et al., CVPR 2007 and 2008), and their revisited versions (Radenovic et al., 2018).

One loader: a folder of photographs, and a ground truth as the field's pickle or JSON, or, of the classic sets, as
the authors' text files. In the classic sets the query stays in the database and counts as found ('ok').
"""

from pathlib import Path
from typing import Any

from dagf.datasets.benchmark import Benchmark, from_ground_truth
from dagf.datasets.revisited import load_ground_truth, plain_file
from dagf.errors import UserError

IMAGES_OF = {
    "roxford5k": "oxford5k",
    "rparis6k": "paris6k",
}  # the photographs are those of the classic sets
CORRUPT = {  # files of Paris6k that cannot be decoded: no version of the ground truth names them
    f"paris_{place}_{number}"
    for place, numbers in {
        "louvre": "000136 000146",
        "moulinrouge": "000422",
        "museedorsay": "001059",
        "notredame": "000188",
        "pantheon": "000284 000960 000974",
        "pompidou": "000195 000196 000201 000467 000640",
        "sacrecoeur": "000299 000330 000353",
        "triomphe": "000662 000833 000863 000867",
    }.items()
    for number in numbers.split()
}
_PREFIX = "oxc1_"  # of the names of Oxford's queries, and of nothing else


def load_oxford(name: str, home: Path) -> Benchmark:
    """The set `name` in the folder `home`: its gnd_NAME.json or .pkl, else (classic) its text files, and `jpg`.

    The text files lie in `home`, in its folder `gt`, or in NAME-gt beside it. Where a revisited set has no `jpg`,
    that of the classic set beside it is used. Raises `UserError` for what is missing.
    """
    images = IMAGES_OF.get(name, name)
    roots = [home / "jpg", home.parent / images / "jpg"]
    root = next((path for path in roots if path.is_dir()), None)
    if root is None:
        raise UserError(
            f"the images of {name} are not at {roots[0]}: unpack them there, without sub-folders"
        )
    truth = plain_file(home, f"gnd_{name}")
    if truth.is_file():
        return from_ground_truth(name, root, load_ground_truth(truth), truth)
    texts = [home, home / "gt", home.with_name(f"{name}-gt")] if images == name else []
    folder = next((path for path in texts if any(path.glob("*_query.txt"))), None)
    if folder is None:
        also = f", or the text files in {texts[-1]}" if texts else ""
        raise UserError(
            f"no ground truth of {name}: expected {truth}{also}; get it with `dagf data get`"
        )
    return from_ground_truth(name, root, read_text_truth(folder, root), folder)


def read_text_truth(folder: Path, root: Path) -> dict[str, Any]:
    """The text files QUERY_query.txt, _good, _ok and _junk of a folder, as imlist, qimlist and gnd.

    'ok' is good and ok together. The database is what lies in `root`, Paris's corrupt files left out. Raises
    `UserError` for a file of another form, and for names that are not in `root`.
    """
    images = sorted({path.stem for path in root.glob("*.jpg")} - CORRUPT)
    row = {image: index for index, image in enumerate(images)}
    asked, truth, unknown = [], [], set()
    for path in sorted(folder.glob("*_query.txt")):
        words = _words(path)
        stem = path.name.removesuffix("_query.txt")
        labels = {label: _words(folder / f"{stem}_{label}.txt") for label in ("good", "ok", "junk")}
        try:
            asked.append(words[0].removeprefix(_PREFIX))
            box = [float(word) for word in words[1:]]
            if len(box) != 4:
                raise ValueError(f"{len(box)} numbers")
        except (IndexError, ValueError) as error:
            raise UserError(
                f"{path}: expected 'NAME x1 y1 x2 y2' ({error}); get it again"
            ) from None
        named = {
            "ok": {*labels["good"], *labels["ok"]} - CORRUPT,
            "junk": set(labels["junk"]) - CORRUPT,
        }
        unknown |= {asked[-1], *named["ok"], *named["junk"]} - row.keys()
        rows = {
            label: sorted(row[one] for one in some if one in row) for label, some in named.items()
        }
        truth.append({"bbx": box, **rows})
    if unknown:
        raise UserError(
            f"{folder} names {len(unknown)} images that are not in {root}, as {', '.join(sorted(unknown)[:3])}: unpack "
            "the whole archive there, or take the ground truth of this set"
        )
    return {"imlist": images, "qimlist": asked, "gnd": truth}


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): get the ground truth again") from None
