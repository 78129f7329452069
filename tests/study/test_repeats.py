"""The same seed again: to the bit with as many threads, and nearly so with others."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from dagf.files import read_json, write_json
from dagf.study.runs import Run, RunStore
from tests.fixtures import PROFILE, same_bits
from tests.forks import Order, run

POINTS = 5.0  # of validation mAP
CLOSE = 0.02  # of a weight

pytestmark = pytest.mark.study


@pytest.fixture(scope="module")
def runs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One configuration, trained in new processes: twice by one thread and twice by two."""
    base = tmp_path_factory.mktemp("repeats")
    made = {}
    for name, threads in (("one", 1), ("one again", 1), ("two", 2), ("two again", 2)):
        (ended,) = run(
            Order("training", base / name, {"photographs": photographs}, threads=threads)
        )
        assert ended.status == 0, ended.said
        (made[name],) = RunStore(base / name / "runs").all()
    return made


@pytest.mark.parametrize("threads", ["one", "two"])
def test_the_same_threads_give_the_same_bits(runs: dict[str, Run], threads: str) -> None:
    assert same_bits(runs[threads], runs[f"{threads} again"])
    assert runs[threads].record["machine"]["threads"] == (1 if threads == "one" else 2)
    assert (
        runs[threads].record["weights_sha256"] == runs[f"{threads} again"].record["weights_sha256"]
    )


def test_other_threads_give_nearly_the_same(runs: dict[str, Run]) -> None:
    one, two = (load_file(runs[name].folder / "weights.safetensors") for name in ("one", "two"))
    assert max(float((one[key].float() - two[key].float()).abs().max()) for key in one) < CLOSE
    marks = [runs[name].record["validation_mAP"] for name in ("one", "two")]
    assert abs(marks[0] - marks[1]) <= POINTS


def test_a_study_gives_the_same_table_whatever_the_threads(tmp_path: Path) -> None:
    """It trains and judges each arm by one thread, however many its process has."""
    profile = tmp_path / "tiny.yaml"
    write_json(profile, PROFILE | {"seeds": [0]})
    tables = []
    for threads in (1, 2):
        folder = tmp_path / f"{threads}"
        folder.mkdir()
        (ended,) = run(Order("study", folder, {"profile": profile}, threads=threads))
        assert ended.status == 0, ended.said
        tables.append(read_json(folder / "data" / "scratch" / "tables" / "main.json"))
    assert tables[0] == tables[1]
    assert len(tables[0]["rows"]) == 6  # two arms under three settings
