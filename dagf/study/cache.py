"""Tables and arrays that are made once: each in a file named by all that decides it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dagf.files import atomic_path, content_hash
from dagf.study.parallel import side_by_side

K = TypeVar("K")


def table_file(folder: Path, name: str, *decides: object) -> Path:
    """Return folder/name-HASH.csv, the hash being that of all that decides what is in the table.

    decides: what JSON can hold, dataclasses, and the `code_hash` of the module that makes it.
    """
    return folder / f"{name}-{content_hash(decides)}.csv"


def cached_table(file: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return the table in `file`, made first where it is missing."""
    if not file.exists():
        table = make()
        with atomic_path(file) as temporary:
            table.to_csv(temporary, index=False)
    return pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])


def cached_tables(
    files: Mapping[K, Path], make: Callable[[K], pd.DataFrame], what: str
) -> dict[K, pd.DataFrame]:
    """Return the tables in `files` by key; those that are missing are made first, side by side.

    make: key -> table, in a worker process, where torch's generators are in no known state.
    """

    def table(key: K) -> pd.DataFrame:
        return cached_table(files[key], lambda: make(key))

    side_by_side(table, [key for key, file in files.items() if not file.exists()], what)
    return {key: table(key) for key in files}


def cached_arrays(
    files: Sequence[Path], make: Callable[[], Iterable[NDArray[Any]]]
) -> list[NDArray[Any]]:
    """Return the arrays in `files`, all of them made first where one is missing."""
    if not all(file.exists() for file in files):
        for file, array in zip(files, make(), strict=True):
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, array)
    return [np.load(file) for file in files]
