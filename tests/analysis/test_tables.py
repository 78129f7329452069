"""The runs of a table's rows: in words, and apart from what is shown."""

import pandas as pd
import pytest

from dagf.analysis import contrasts
from dagf.analysis.tables import run_words, split, traced
from dagf.study.study import Study


def test_runs_in_words() -> None:
    assert run_words([(0, "a1"), (1, "b2"), (0, "a1")]) == "a1 (seed 0), b2 (seed 1)"
    assert run_words([(0, ""), (1, "b2")]) == "b2 (seed 1)"
    assert run_words([]) == run_words([(0, ""), (1, "")]) == ""


def test_a_table_without_runs_has_no_column_of_them() -> None:
    assert list(traced([{"a": 1, "runs": ""}, {"a": 2, "runs": ""}]).columns) == ["a"]
    assert traced([{"a": 1, "runs": ""}, {"a": 2, "runs": "x"}])["runs"].tolist() == ["", "x"]
    assert traced([]).empty


def test_what_is_shown_and_its_runs() -> None:
    shown, runs = split(pd.DataFrame([{"a": 1, "runs": "x"}, {"a": 2}]))
    assert (list(shown.columns), runs) == (["a"], ["x", ""])
    plain = pd.DataFrame({"a": [1]})
    assert split(plain) == (plain, [])


@pytest.mark.usefixtures("one_process")
def test_the_tables_of_a_study_name_the_runs_of_the_store(toy: Study) -> None:
    ids = {seed: toy.run("dagf", seed).id for seed in toy.profile.seeds}
    expected = ", ".join(f"{run} (seed {seed})" for seed, run in ids.items())
    assert contrasts.summary(toy.table(["dagf"]))["runs"].tolist() == [expected]
    heads = contrasts.summary(toy.table(["mac", "dagf"], heads=True)).set_index("method")["runs"]
    assert heads["MAC"] == ""  # nothing to train
    assert heads["DAGF"] == run_words(
        (seed, toy.run("dagf", seed, heads=True).id) for seed in toy.profile.seeds
    )
    assert heads["DAGF"] != expected
    found = contrasts.contrast(toy, "dagf", "gem", "Medium")
    assert found.runs == contrasts.runs_of(toy, "dagf", "gem")
    assert found.runs.startswith(f"DAGF: {expected}; GeM: ")
    assert set(toy.trials()["run"]) <= {run.id for run in toy.store.all()}
