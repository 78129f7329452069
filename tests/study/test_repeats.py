"""The same seed again: to the bit with as many threads, and nearly so with others."""

from pathlib import Path

import pytest

from dagf.study.runs import RunStore
from tests.fixtures import same_bits
from tests.forks import run

CLOSE = 0.02  # of a weight

pytestmark = pytest.mark.study


def test_the_same_threads_give_the_same_bits(photographs: Path, tmp_path: Path) -> None:
    """One configuration, trained in new processes: twice by one thread and twice by two."""
    runs = []
    for number, threads in enumerate((1, 1, 2, 2)):
        given = {"photographs": photographs}
        (ended,) = run("training", tmp_path / f"{number}", given, threads=threads)
        assert ended.status == 0, ended.said
        (made,) = RunStore(tmp_path / f"{number}" / "runs").all()
        assert made.record["machine"]["threads"] == threads
        runs.append(made)
    one, again, two, two_again = runs
    assert same_bits(one, again) and same_bits(two, two_again)
    ours, theirs = one.weights(), two.weights()
    assert max(float((ours[key].float() - theirs[key].float()).abs().max()) for key in ours) < CLOSE
    assert abs(one.record["validation_mAP"] - two.record["validation_mAP"]) <= 5.0  # points
