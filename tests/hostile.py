"""Files as a stranger may give them, and what may come of reading one: a valid result, or one line that names it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dagf.errors import UserError

T = TypeVar("T")
LONGEST = 1500  # letters of a message, beside those of the path: a file's content must not flood the terminal
# The same examples every time: a test that fails by chance helps nobody.
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30]),
    st.floats(), st.text(max_size=8), st.sampled_from(["", "..", "../x", "/etc/passwd", "a\nb", "\0", "x" * 5000]),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
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


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """A value of JSON with one part of it, however deep, replaced, removed or joined by another."""
    value = copy.deepcopy(good)
    here, depth = value, draw(st.integers(0, 4))
    while isinstance(here, dict | list) and here:
        key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if depth == 0 or not isinstance(here[key], dict | list) or not here[key]:
            match draw(st.integers(0, 3)):
                case 0:
                    del here[key]
                case 1 if isinstance(here, dict):
                    here[draw(st.text(max_size=6))] = draw(values)
                case _:
                    here[key] = draw(values)
            return value
        here, depth = here[key], depth - 1
    return draw(values)


def as_json(value: Any) -> str:
    """JSON of any of `values`: NaN as Python writes it, half surrogates escaped."""
    return json.dumps(value)


def read_or_refuse(read: Callable[[], T], *names: object) -> T | None:
    """What `read` gives, or None where it raises a `UserError` of one line that has one of `names` in it."""
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
