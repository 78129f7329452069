"""Extraction for a list of images that changes: rows that were made before are copied, only new contents described.

`contents.json`, beside the shards, says of which images each of them is, by the hashes of their files. A shard is named
by these and by all else that decides its rows (`dagf.retrieval.extract`), so an entry that is not of its shard, or
of another encoder, is seen and counts for nothing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dagf.console import progress
from dagf.datasets.contents import Contents
from dagf.datasets.images import ImageSpec
from dagf.distributed import Group
from dagf.errors import UserError
from dagf.files import atomic_path, content_hash, read_json, write_json
from dagf.retrieval.extract import (
    READERS,
    SHARD,
    SHARDS,
    Extracted,
    Precision,
    ShardedDescriptors,
    extract_shards,
    is_whole,
)

CONTENTS = "contents.json"
HASH = "[0-9a-f]" * 16  # as `content_hash` ends the names of what is ours
OWN_SHARDS = SHARDS.replace("*", HASH)
Sums = Sequence[str]  # of images, in the order of their rows


def extract_changes(
    encode: nn.Module,
    about: Any,
    files: Sequence[Path],
    spec: ImageSpec,
    folder: Path,
    precision: Precision,
    group: Group,
) -> Extracted:
    """The same shards as `extract` makes of `files`; `made` are only those whose contents no shard in `folder` has.

    Those are described first, in shards of their own, which a stopped job finds again, also where the list of files
    has changed since. Which shards are left over is for the caller to see. Rows kept in single precision also serve
    for half. Every process waits for all.

    Raises `UserError` for an image that cannot be read, or that changes meanwhile.
    """
    started = time.perf_counter()
    maker, sums = _Maker(about, spec, precision), hashes(files, group)
    wanted = {maker.name(part): part for part in _parts(sums)}
    listed = _listed(folder)
    missing = {
        shard: part for shard, part in wanted.items() if not is_whole(folder / shard, len(part))
    }
    ours = {one: part for one, part in listed.items() if maker.made(one, part)}
    known = _places({one: part for one, part in ours.items() if is_whole(folder / one, len(part))})
    new = [one for one in dict.fromkeys(chain.from_iterable(missing.values())) if one not in known]
    fresh = {maker.name(part): part for part in _parts(new)}
    group.wait()  # until all have seen what is there
    if group.rank == 0:
        write_json(folder / CONTENTS, listed | fresh | wanted)
    path = dict(zip(sums, files, strict=True))
    found = extract_shards(
        encode, about, [path[one] for one in new], spec, folder, precision, group
    )
    if found.descriptors.names != tuple(fresh):
        raise UserError(
            "images were changed while they were described; start again: the others are kept"
        )
    known |= _places(fresh)
    arranged = [shard for shard in missing if shard not in fresh]
    for shard in progress(arranged[group.rank :: group.size], "arranging", unit="shard"):
        with atomic_path(folder / shard) as temporary:
            np.save(temporary, _copied(folder, [known[one] for one in missing[shard]], precision))
    group.wait()
    if group.rank == 0:
        write_json(folder / CONTENTS, wanted)
    names = [maker.name(part) for part in _parts(sums)]
    return Extracted(ShardedDescriptors(folder, names), found.made, time.perf_counter() - started)


def begun(folder: Path) -> bool:
    """Whether `CONTENTS` in a folder is that of an extraction, begun or finished: the images of each shard."""
    listed = _listed(folder)
    parts = [part for shard, part in listed.items() if fnmatchcase(shard, OWN_SHARDS)]
    return 0 < len(parts) == len(listed) and all(
        isinstance(part, list) and all(isinstance(one, str) and len(one) == 64 for one in part)
        for part in parts
    )


def hashes(files: Sequence[Path], group: Group) -> list[str]:
    """The sha256 of each file, as 64 hex digits; each process reads its share. A `UserError` names a bad one."""
    mine = files[group.rank :: group.size]
    pool = ThreadPoolExecutor(READERS)
    try:
        share = list(progress(pool.map(Contents().sha256, mine), "reading", len(mine)))
    finally:
        pool.shutdown(cancel_futures=True)
    every = [""] * len(files)
    for rank, its in enumerate(group.gather(share)):
        every[rank :: group.size] = its
    return every


@dataclass(frozen=True)
class _Maker:
    """What, beside the images, decides the rows of a shard."""

    about: Any
    spec: ImageSpec
    precision: Precision

    def name(self, part: Sums, precision: str = "") -> str:
        """The name that `extract` gives the shard of these images."""
        made_of = [self.about, asdict(self.spec), precision or self.precision, part]
        return SHARDS.replace("*", content_hash(made_of, 16))

    def made(self, shard: str, part: Sums) -> bool:
        """Whether a shard of that name has the rows of these images, in this precision or a better one."""
        return shard in {self.name(part), self.name(part, "float32")}


def _parts(sums: Sums) -> Iterator[Sums]:
    return (sums[first : first + SHARD] for first in range(0, len(sums), SHARD))


def _listed(folder: Path) -> dict[str, Sums]:
    try:
        listed = read_json(folder / CONTENTS)
    except UserError:  # a new folder; or a broken file, and then what it knew is described again
        return {}
    return listed if isinstance(listed, dict) else {}


def _places(shards: Mapping[str, Sums]) -> dict[str, tuple[str, int]]:
    """Where the row of each image is: its shard, and its number there."""
    return {one: (shard, row) for shard, part in shards.items() for row, one in enumerate(part)}


def _copied(
    folder: Path, places: Sequence[tuple[str, int]], precision: Precision
) -> NDArray[np.floating]:
    """The rows (N, D) at `places`; of the shards that hold them one is open at a time."""
    rows: dict[int, NDArray[np.floating]] = {}
    for shard in dict.fromkeys(shard for shard, _ in places):
        numbers = {place: row for place, (one, row) in enumerate(places) if one == shard}
        rows |= dict(
            zip(numbers, np.load(folder / shard, mmap_mode="r")[[*numbers.values()]], strict=True)
        )
    return np.stack([rows[place] for place in range(len(places))]).astype(precision)
