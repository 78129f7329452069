"""INRIA Holidays (Jegou et al., ECCV 2008) and UKBench (Nister, Stewenius, CVPR 2006): the file's name says all.

Photographs of one scene or object have consecutive numbers, so there is no ground-truth file.
"""

import re
from pathlib import Path

import numpy as np

from dagf.datasets.benchmark import Benchmark, Query
from dagf.errors import UserError


def load_holidays(name: str, home: Path) -> Benchmark:
    """Holidays in home/jpg: NNNNMM.jpg, NNNN the group, MM its photographs from 00; the first is the query.

    The query stays in the database, as junk for itself. `name` says which version it is: the photographs as they
    came, or the "upright" ones, turned by hand; their results differ. Raises `UserError` for missing files.
    """
    files, groups = _groups(name, home / "jpg", r"(\d{4})(\d\d)\.jpg")
    queries = [
        Query(
            files[rows[0]],
            {"ok": np.array(rows[1:], np.int64), "junk": np.array(rows[:1], np.int64)},
        )
        for rows in groups
    ]
    return Benchmark(name, home / "jpg", files, tuple(queries))


def load_ukbench(name: str, home: Path) -> Benchmark:
    """UKBench in home/full: ukbenchNNNNN.jpg, NNNNN // 4 the group; each photograph is a query.

    Its own photograph is one of the four to be found. Raises `UserError` for missing files.
    """
    files, groups = _groups(name, home / "full", r"ukbench(\d{5})\.jpg", size=4)
    queries = [
        Query(files[row], {"ok": np.array(rows, np.int64)}) for rows in groups for row in rows
    ]
    return Benchmark(name, home / "full", files, tuple(queries))


def _groups(
    name: str, root: Path, pattern: str, size: int = 0
) -> tuple[tuple[str, ...], list[list[int]]]:
    """The files of `root`, sorted, and the rows of each group.

    A name has the group's number and the photograph's within it, or (with `size`) one number that counts through
    groups of `size`.
    """
    files = tuple(sorted(path.name for path in root.glob("*.jpg")))
    if not files:
        raise UserError(
            f"the images of {name} are not in {root}: unpack them there, without sub-folders"
        )
    matches = [re.fullmatch(pattern, file) for file in files]
    odd = [file for file, match in zip(files, matches, strict=True) if match is None]
    if odd:
        raise UserError(
            f"{root} has {len(odd)} files that are not of {name}, as {', '.join(odd[:3])}: move them away"
        )
    numbers = [[int(number) for number in match.groups()] for match in matches if match]
    members: dict[int, dict[int, int]] = {}
    for row, found in enumerate(numbers):
        group, place = divmod(found[0], size) if size else found
        members.setdefault(group, {})[place] = row
    lost = [
        f"{place} of group {group}"
        for group, rows in members.items()
        for place in range(size or max(rows) + 1)
        if place not in rows
    ]
    if lost:
        raise UserError(
            f"{len(lost)} photographs of {name} are not in {root}, as {', '.join(lost[:3])}: unpack the whole archive"
        )
    return files, [[rows[place] for place in sorted(rows)] for rows in members.values()]
