"""The ground truth of the public sets: read without trusting the file, and counted.

Ground truth of this field is passed around as pickles, and unpickling a file runs whatever code it names. These files
need none of that: they are dictionaries, lists, strings and numbers, and `load_ground_truth` reads nothing else.
"""

import io
import json
import pickle
import pickletools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dagf.datasets.benchmark import LABELS, Benchmark
from dagf.errors import UserError, choose
from dagf.files import atomic_path, read_json

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
    """What a set must hold: queries, database images, and each label summed over the queries.

    `without`: label -> the queries that have none of it, where some have. `own`: the label that each query's own
    photograph has in the database; '' where it is not in the database. `boxes`: each query is cropped.
    """

    queries: int
    database: int
    easy: int = 0
    hard: int = 0
    ok: int = 0
    junk: int = 0
    without: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    own: str = ""
    boxes: bool = False


COUNTS = {  # Philbin et al. 2007, 2008; Radenovic et al. 2018; Jegou et al. 2008; Nister and Stewenius 2006
    "oxford5k": Counts(queries=55, database=5063, ok=2840, junk=1495, own="ok", boxes=True),
    "paris6k": Counts(queries=55, database=6392, ok=8955, junk=8245, own="ok", boxes=True),
    "roxford5k": Counts(
        queries=70,
        database=4993,
        easy=3029,
        hard=2497,
        junk=1356,
        without={"easy": (11, 66)},
        boxes=True,
    ),
    "rparis6k": Counts(
        queries=70,
        database=6322,
        easy=6874,
        hard=10350,
        junk=7153,
        without={"junk": (25, 26, 27, 28, 29)},
        boxes=True,
    ),
    "holidays": Counts(queries=500, database=1491, ok=991, junk=500, own="junk"),
    "holidays-upright": Counts(queries=500, database=1491, ok=991, junk=500, own="junk"),
    "ukbench": Counts(queries=10200, database=10200, ok=40800, own="ok"),
    "grocery": Counts(queries=88, database=417, ok=3761),
}


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
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file: put the set's ground truth there")
        size = path.stat().st_size
        if size > limit:
            raise UserError(
                f"{path} has {size} bytes, too many for a ground truth (limit {limit}): check the file"
            )
        if path.suffix == ".pkl":
            value = _unpickle(path, path.read_bytes())
        elif path.suffix == ".json":
            value = read_json(path, "mend it, or get the set's ground truth again")
        else:
            raise UserError(
                f"{path} is neither .pkl nor .json: give the ground truth in one of these formats"
            )
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; it should be the set's ground truth"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} holds a {type(value).__name__}, not a dictionary of imlist, qimlist and gnd"
        )
    return value


def plain_file(folder: Path, stem: str) -> Path:
    """STEM.json where it is in `folder`, for that needs no unpickling, or else STEM.pkl."""
    path = folder / f"{stem}.json"
    return path if path.is_file() else folder / f"{stem}.pkl"


def keep_as_json(path: Path) -> None:
    """Write the same as a ground-truth pickle beside it, as .json, atomically.

    Raises `UserError` as `load_ground_truth`, and for what JSON cannot hold in `MAX_BYTES`: a pickle of a few bytes may
    name one list a million times.
    """
    size = 0
    try:
        with (
            atomic_path(path.with_suffix(".json")) as temporary,
            temporary.open("w", encoding="utf-8") as stream,
        ):
            for part in json.JSONEncoder(allow_nan=False).iterencode(load_ground_truth(path)):
                size += stream.write(part)
                if size > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be kept as JSON ({error}): get another copy of it"
        ) from error


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
                raise UserError(
                    f"{path} is refused: its opcode {opcode.name} has the index {argument}; get it again"
                )
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the unpickler raises nearly anything on broken bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is not a valid pickle ({reason}): download it again") from None


def counted(benchmark: Benchmark) -> dict[str, int]:
    """The number of queries and of database images, and of each label summed over the queries."""
    found = {"queries": len(benchmark.queries), "database": len(benchmark.database)}
    return found | {
        label: sum(len(query.labels.get(label, ())) for query in benchmark.queries)
        for label in LABELS
    }


def check_counts(benchmark: Benchmark) -> None:
    """Raise `UserError`, naming the ground truth, where `benchmark` differs from what its set must hold (`COUNTS`).

    Checked are the counts, which labels each query has, and the label of a query's own photograph.
    """
    expected = COUNTS[choose("public set", benchmark.name, COUNTS)]
    queries = benchmark.queries
    wrong = [
        f"{count} {key} (expected {getattr(expected, key)})"
        for key, count in counted(benchmark).items()
        if count != getattr(expected, key)
    ]
    for label in LABELS if not wrong else ():
        without = {n for n, query in enumerate(queries) if not len(query.labels.get(label, ()))}
        differ = sorted(
            without ^ set(expected.without.get(label, () if getattr(expected, label) else without))
        )
        if differ:
            wrong.append(f"other queries without {label}, as {_named(benchmark, differ)}")
    whole = [n for n, query in enumerate(queries) if expected.boxes and query.box is None]
    if whole:  # searched for uncropped it would find more, and its figures could not be compared with any other
        wrong.append(f"{len(whole)} queries without a box, as {_named(benchmark, whole)}")
    row = {file: index for index, file in enumerate(benchmark.database)}
    labels = [_label_of(query.labels, row.get(query.file)) for query in queries]
    if others := [n for n, label in enumerate(labels) if label != expected.own]:
        where = f"labelled {expected.own} for itself" if expected.own else "outside the database"
        wrong.append(f"{len(others)} queries that are not {where}, as {_named(benchmark, others)}")
    if wrong:
        source = (
            benchmark.truth or benchmark.root
        )  # without a file of its own the names of the photographs are it
        raise UserError(
            f"{source}: {benchmark.name} has {', '.join(wrong)}: another version of the set, get it again"
        )


def _label_of(labels: Mapping[str, Any], row: int | None) -> str:
    return (
        ""
        if row is None
        else next((label for label, rows in labels.items() if row in rows), "no label")
    )


def _named(benchmark: Benchmark, queries: list[int]) -> str:
    return ", ".join(f"number {n} ({benchmark.queries[n].file})" for n in queries[:3])
