import pytest

from dagf.errors import choose, shown
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
