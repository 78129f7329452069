"""What every test may ask for."""

from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: a busy machine must not fail one.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["tests.fixtures"]

LONGEST = (
    *("test_smoke", "test_jupyterlab", "test_faults", "test_runner", "test_training"),
    *("test_index", "test_export"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: else one of several processes is left alone with them at the end."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and published ground truth beside the project, or a skip."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real photographs are not here")
    return folder
