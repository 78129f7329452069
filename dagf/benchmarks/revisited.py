"""ROxford5k and RParis6k (Radenovic et al., CVPR 2018), and any set in their layout.

Ground truth of this field is passed around as pickles, and unpickling a file runs whatever code it names. These files
need none of that: they are dictionaries, lists, strings and numbers, and `load_ground_truth` reads nothing else.
"""

import io
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dagf.benchmarks.protocol import Benchmark, from_ground_truth
from dagf.common import UserError, choose, read_json

MAX_BYTES = 16 * 2**20  # the known ones are below 1 MB

# What plain data needs, and no more. Tuples are not among it: hashing nested ones can take for ever.
_PLAIN = frozenset(
    """
    PROTO FRAME STOP MARK MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST APPEND APPENDS
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG1 FLOAT BINFLOAT
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING
    """.split()  # noqa: SIM905 (to be read as a table)
)


@dataclass(frozen=True)
class Counts:
    """What a set must hold: number of queries, of database images, and of labels summed over the queries."""

    queries: int
    database: int
    easy: int
    hard: int
    junk: int


REVISITED = {
    "roxford5k": Counts(queries=70, database=4993, easy=3029, hard=2497, junk=1356),
    "rparis6k": Counts(queries=70, database=6322, easy=6874, hard=10350, junk=7153),
}
_IMAGES_OF = {"roxford5k": "oxford5k", "rparis6k": "paris6k"}  # the photographs are those of the classic sets


class _PlainUnpickler(pickle.Unpickler):
    """A second wall: even a pickle that passed the opcode list cannot get at a class or a function."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def load_ground_truth(path: Path, limit: int | None = None) -> dict[str, Any]:
    """The dictionary in a ground-truth file, .pkl or .json, of at most `limit` bytes (by default `MAX_BYTES`).

    A pickle may hold dictionaries, lists, strings, numbers, booleans and None: any other opcode is refused, by
    name, before anything is built from the file. Raises `UserError` for that and for a missing, oversized or
    broken file.
    """
    limit = MAX_BYTES if limit is None else limit
    try:
        size = path.stat().st_size
        if size > limit:
            raise UserError(f"{path} has {size} bytes, too many for a ground truth (limit {limit}): check the file")
        if path.suffix == ".pkl":
            value = _unpickle(path, path.read_bytes())
        elif path.suffix == ".json":
            value = read_json(path)
        else:
            raise UserError(f"{path} is neither .pkl nor .json: give the ground truth in one of these formats")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; it should be the set's ground truth") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a dictionary of imlist, qimlist and gnd")
    return value


def _unpickle(path: Path, data: bytes) -> Any:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name not in _PLAIN:
                raise UserError(
                    f"{path} is refused: its opcode {opcode.name} is not needed for plain data and may run code; get "
                    "the file from its authors, or save the same as .json"
                )
            if opcode.name.endswith("PUT") and not 0 <= int(argument or 0) <= count:
                # the memo is an array up to this index: ten bytes could ask for gigabytes
                raise UserError(f"{path} is refused: its opcode {opcode.name} has the index {argument}; get it again")
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the unpickler raises nearly anything on broken bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a valid pickle ({reason}): download it again") from None


def load_layout(name: str, folder: Path) -> Benchmark:
    """The set `name` under the data folder, in either public layout, with all its images in place.

    Both `folder/test/NAME` (cnnimageretrieval) and `folder/datasets/NAME` (revisitop) are accepted, holding
    `gnd_NAME.pkl` or `gnd_NAME.json` and `jpg/`; where a revisited set has no `jpg`, that of the classic set beside
    it is used. Raises `UserError` for what is missing.
    """
    homes = [folder / layout / name for layout in ("test", "datasets")]
    truths = [home / f"gnd_{name}{suffix}" for home in homes for suffix in (".pkl", ".json")]
    truth = next((path for path in truths if path.is_file()), None)
    if truth is None:
        raise UserError(f"no ground truth of {name} under {folder}: expected {truths[0]} or {truths[2]}")
    home = truth.parent
    roots = [home / "jpg", home.parent / _IMAGES_OF.get(name, name) / "jpg"]
    root = next((path for path in roots if path.is_dir()), None)
    if root is None:
        raise UserError(f"the images of {name} are not at {roots[0]}: unpack them there, without sub-folders")
    benchmark = from_ground_truth(name, root, load_ground_truth(truth))
    files = [*benchmark.database, *(query.file for query in benchmark.queries)]
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} images of {name} are not in {root}, as {', '.join(missing[:3])}: "
            "unpack the whole archive there, without sub-folders"
        )
    return benchmark


def load_revisited(name: str, folder: Path) -> Benchmark:
    """'roxford5k' or 'rparis6k' from the data folder (see `load_layout`), its counts checked."""
    benchmark = load_layout(choose("revisited set", name.lower(), REVISITED), folder)
    check_counts(benchmark)
    return benchmark


def check_counts(benchmark: Benchmark) -> None:
    """Raise `UserError` where `benchmark` differs from the published counts of the set of its name."""
    expected = REVISITED[choose("revisited set", benchmark.name, REVISITED)]
    found = Counts(
        queries=len(benchmark.queries),
        database=len(benchmark.database),
        **{label: sum(len(q.labels.get(label, ())) for q in benchmark.queries) for label in ("easy", "hard", "junk")},
    )
    wrong = [
        f"{getattr(found, key)} {key} (expected {value})"
        for key, value in vars(expected).items()
        if getattr(found, key) != value
    ]
    if wrong:
        raise UserError(f"{benchmark.name} has {', '.join(wrong)}: its ground truth is another version, get it again")
