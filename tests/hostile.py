"""Damaged files, and what may come of reading one: a valid result, or one line that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dagf.errors import UserError

T = TypeVar("T")
LONGEST = 1500  # letters of a message beside its path: a file's content must not flood the terminal
# The same examples every time: a test that fails by chance helps nobody.
FEW = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes with some of them changed, left out, said twice, put in or cut off."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(1, 40))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[at : at + size]
            case 3:
                data[at:at] = draw(st.binary(max_size=12))
            case _:
                del data[at:]
    return bytes(data)


def read_or_refuse(read: Callable[[], T], *names: object) -> T | None:
    """What `read` gives, or None for a `UserError` of one line that has one of `names` in it."""
    try:
        return read()
    except UserError as error:
        said = str(error)
        assert "\n" not in said, said
        assert any(str(name) in said for name in names), said
        assert len(said) < LONGEST + 3 * max(len(str(name)) for name in names), said
        return None


def tree(folder: Path) -> set[str]:
    """All that is in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
