"""What would make a figure wrong without a word: copies, collapsed networks, arms that are one and the same.

Each is found where a study is opened, judged or tabled, and named in one line.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from dagf.console import progress
from dagf.datasets.benchmark import Benchmark
from dagf.errors import UserError
from dagf.files import content_hash, file_sha256, read_json, write_json
from dagf.retrieval.search import Descriptors, Rows

SEEN = 1000  # rows by which a collapsed network is known
LEAST = 1e-6  # a difference between two descriptors that single precision can tell
SEEN_FILE = (
    ".seen.json"  # in a drawn set: what its files were when it was first opened; of one machine
)
MANY = 50_000  # so many distractors are known by name and size: reading a million photographs takes hours
ENOUGH = 200  # labelled images that two arms cannot rank alike by chance


class Sums(dict[Path, str]):
    """The sha256 of files, each read once."""

    def __missing__(self, file: Path) -> str:
        self[file] = file_sha256(file)
        return self[file]


def rows_to_read(test: Benchmark) -> list[Path]:
    """The files of the rows that are known by what is in them: all, or without the distractors where they are many."""
    return (
        test.database_paths
        if len(test.distractors) <= MANY
        else test.database_paths[: len(test.database)]
    )


def copies(test: Benchmark, sums: Sums, first: int = 0) -> list[str]:
    """A line for each row from `first` on that is, under whatever name, a query, or right for one and yet wrong for it.

    To find the query is no feat, and to find a copy of what is right no mistake. What the ground truth calls junk for
    the query is no copy of it, nor is the query's own file where it has a label, as in the classic protocols.
    """
    files = rows_to_read(test)
    rows: dict[str, list[int]] = {}
    for row in range(first, len(files)):
        rows.setdefault(sums[files[row]], []).append(row)
    lines: dict[
        tuple[str, ...], str
    ] = {}  # of two rows that are alike, and right for different queries, one is told
    for query in test.queries:
        asked, labelled = test.root / query.file, set(query.labelled.tolist())
        junk = labelled.difference(query.positives.tolist())
        for row in rows.get(sums[asked], []):
            if row not in (labelled if files[row] == asked else junk):
                lines[query.file, str(row)] = f"{asked} is a query and, as {_place(test, row)}"
        for right in query.positives.tolist():
            for row in rows.get(sums[files[right]], []):
                if row not in labelled and sums[files[row]] != sums[asked]:
                    line = f"{files[right]} is right for a query and, as {_place(test, row)}, wrong for it"
                    lines.setdefault((sums[files[right]],), line)
    return list(lines.values())


def _place(test: Benchmark, row: int) -> str:
    number = row - len(test.database)
    return (
        f"{test.database[row]}, in the database"
        if number < 0
        else f"{test.distractors[number]}, a distractor"
    )


def check_apart_from(learned: Sequence[Path], test: Benchmark, sums: Sums) -> None:
    """Raise `UserError` for a photograph that is trained and, under whatever name, tested on or a distractor."""
    rows = zip(rows_to_read(test), (*test.database, *test.distractors), strict=False)
    files = (
        [*rows, *((test.root / query.file, query.file) for query in test.queries)]
        if learned
        else []
    )
    tested = {sums[file]: name for file, name in progress(files, f"{test.name}: reading")}
    both = next((file for file in progress(learned, "reading") if sums[file] in tested), None)
    if both is not None:
        raise UserError(
            f"{both} would be trained on and, as {tested[sums[both]]}, tested on: leave one of them out"
        )


def check_unchanged(root: Path) -> None:
    """Raise `UserError` where files of a drawn set are others than when it was first opened.

    What is cached of them is named by the set, so a changed picture would meet the maps of the old one. Files are read
    again only where a name, a size or a time is another.
    """
    files = sorted(
        path for kind in ("*.jpg", "*.png", "*.csv", "gnd.json") for path in root.rglob(kind)
    )
    names, stats = (
        [path.relative_to(root).as_posix() for path in files],
        [path.stat() for path in files],
    )
    stamps = content_hash(
        [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)]
    )
    known = read_json(root / SEEN_FILE) if (root / SEEN_FILE).is_file() else {}
    if known.get("stamps") == stamps:
        return
    contents = content_hash(
        [[name, file_sha256(path)] for name, path in zip(names, files, strict=True)]
    )
    if known and known.get("contents") != contents:
        raise UserError(
            f"files in {root} were changed since it was drawn: delete {root} and run `dagf data make`"
        )
    with suppress(OSError):  # where nothing can be written nothing can be changed, either
        write_json(root / SEEN_FILE, {"stamps": stamps, "contents": contents})


def check_spread(what: str, rows: Rows, asked: Descriptors) -> None:
    """Raise `UserError`, naming `what`, where all descriptors are one: such a network ranks nothing."""
    seen = [np.asarray(part, np.float32) for part in (rows[:SEEN], asked)]
    together = np.concatenate(seen)
    if len(together) > 1 and np.ptp(together, axis=0).max() < LEAST:
        raise UserError(
            f"{what}: every image has the same descriptor, the network has collapsed: train again at a lower rate, or "
            "from other weights"
        )


def alike(positions: Mapping[tuple[str, int], pd.DataFrame]) -> list[str]:
    """A line for each two arms that rank every labelled image alike with every seed: one of them stands for both.

    That may be true (a mask that drops nothing) or a mistake (one network under two names), which is for the reader to
    see. positions: by (arm, seed), `dagf.retrieval.metrics.positions`. Few images, or a perfect ranking, prove nothing.
    """
    above: dict[str, list[int]] = {}
    for (arm, _), where in sorted(positions.items()):
        above.setdefault(arm, []).extend(where["above"])
    return [
        f"the arms {one} and {other} rank all {len(above[one])} labelled images alike: what sets them apart does "
        "nothing here, or they are one network under two names; look at their runs"
        for one, other in combinations(above, 2)
        if above[one] == above[other] and len(above[one]) >= ENOUGH and any(above[one])
    ]
