import errno
import os

import pytest

from dagf.errors import choose, place_fault, shown
from tests.fixtures import fails


def test_the_nearest_name_is_suggested() -> None:
    assert choose("variant", "gem", ["spoc", "gem"]) == "gem"
    known = ["spoc", "gem"]
    fails("unknown variant 'spok': did you mean 'spoc'", choose, "variant", "spok", known)
    fails("^unknown variant 'xyz': known: gem, spoc$", choose, "variant", "xyz", known)


@pytest.mark.parametrize("value", ["a\nb" * 1000, [["x"] * 9] * 9, {"a": [[["b"]]] * 99}])
def test_a_value_in_a_message_is_short_and_one_line(value: object) -> None:
    assert len(shown(value)) < 300
    assert "\n" not in shown(value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a"), "Permission denied"),
        (RuntimeError("write error in a.faiss: 3 != 7 (No space left on device)"), "No space left"),
        (OSError("4096 requested and 512 written"), "the disk took only a part of it"),  # NumPy's
        (OSError("encoder error -2 when writing image file"), "the disk took only a part"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), ""),
        (ValueError("a mistake of ours"), ""),
    ],
)
def test_what_is_wrong_with_a_disk_as_libraries_tell_it(error: Exception, words: str) -> None:
    assert place_fault(error).startswith(words)
    assert bool(place_fault(error)) == bool(words)
