"""What a result table is: the runs of its rows, its three files, and the published figures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.analysis import contrasts, tables
from dagf.files import read_json, write_json
from dagf.paths import ROOT
from dagf.study.study import Study
from tests.fixtures import fails

HERE = Path(__file__).parents[2]
REVISITED = ["ROxford5k", "RParis6k", "ROxford5k+1M", "RParis6k+1M"]
CLASSIC = ["Oxford5k", "Oxford105k", "Paris6k", "Paris106k", "Holidays"]
MADE = pd.DataFrame(
    [
        ("A", "8", "One", "Medium", "mAP", 50.0, "S", "p", "", ""),
        ("B", "", "One", "Hard", "mAP", 20.5, "", "q", "c", ""),
        ("A", "8", "One", "Hard", "mAP", 30.0, "S", "p", "", ""),
        ("A", "8", "One", "Hard", "mP@1", 99.0, "S", "p", "", ""),
        ("A", "16", "Two", "Medium", "mAP", 60.0, "S", "p", "", ""),
        ("A", "8", "Else", "Medium", "mAP", 70.0, "S", "p", "", ""),
    ],
    columns=tables.PUBLISHED,
)


def test_runs_in_words() -> None:
    assert tables.run_words([(0, "a1"), (1, "b2"), (0, "a1")]) == "a1 (seed 0), b2 (seed 1)"
    assert tables.run_words([(0, ""), (1, "b2")]) == "b2 (seed 1)"
    assert tables.run_words([]) == tables.run_words([(0, ""), (1, "")]) == ""


def test_what_is_shown_and_its_runs() -> None:
    some, none = [{"a": 1, "runs": "x"}, {"a": 2}], [{"a": 1, "runs": ""}]
    for rows, runs in (some, ["x", ""]), (none, []), ([{"a": 1}], []):
        shown, found = tables.split(pd.DataFrame(rows))
        assert (list(shown.columns), found) == (["a"], runs)


@pytest.mark.usefixtures("one_process")
def test_the_tables_of_a_study_name_the_runs_of_the_store(toy: Study) -> None:
    ids = {seed: toy.run("dagf", seed).id for seed in toy.profile.seeds}
    expected = ", ".join(f"{run} (seed {seed})" for seed, run in ids.items())
    assert contrasts.summary(toy.table(["dagf"]))["runs"].tolist() == [expected]
    heads = contrasts.summary(toy.table(["mac", "dagf"], heads=True)).set_index("method")["runs"]
    assert heads["MAC"] == ""  # nothing to train
    runs = [(seed, toy.run("dagf", seed, heads=True).id) for seed in toy.profile.seeds]
    assert heads["DAGF"] == tables.run_words(runs)
    assert heads["DAGF"] != expected
    found = contrasts.contrast(toy, "dagf", "gem", "Medium")
    assert found.runs == contrasts.runs_of(toy, "dagf", "gem")
    assert found.runs.startswith(f"DAGF: {expected}; GeM: ")
    assert set(toy.trials()["run"]) <= {run.id for run in toy.store.all()}


def test_a_kept_table_has_three_forms(project: Path) -> None:
    columns = {"a": [1, 2], "b": ["x_1", None], "c": [0.5, np.nan]}
    frame = pd.DataFrame(columns | {"n": pd.array([1, None], dtype="Int64"), "runs": ["a1", None]})
    tables.keep_table("kept", frame, "T & U", "50 %", note="N")
    folder = project / "data" / "scratch" / "tables"
    assert read_json(folder / "kept.json") == {
        "title": "T & U", "caption": "50 %", "note": "N", "columns": ["a", "b", "c", "n"],
        "rows": [[1, "x_1", 0.5, 1], [2, None, None, None]], "runs": ["a1", ""],
    }  # fmt: skip
    read = pd.read_csv(folder / "kept.csv", dtype={"n": "Int64"})
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    lines = (folder / "kept.tex").read_text().splitlines()
    assert r"\caption{T \& U. 50 \%}" in lines
    assert r"\begin{tabular}{rlrr}" in lines
    assert lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")] == [
        r"1 & x\_1 & 0.50 & 1 \\", r"2 &  &  &  \\",
    ]  # fmt: skip


def test_what_latex_would_take_for_itself() -> None:
    found = tables.latex(pd.DataFrame({"a_b": ["−0.5 < 3×3", "50 % & {c} #1"]}), "p_1 ± 2")
    assert r"$-$0.5 \textless{} 3$\times$3 \\" in found
    assert r"50 \% \& \{c\} \#1 \\" in found
    assert r"a\_b" in found and r"\caption{p\_1 $\pm$ 2}" in found


def test_figures_of_the_last_benchmarks(project: Path) -> None:
    assert tables.benchmark_figures().empty  # before the first `make bench`
    write_json(project / "benchmarks" / "results.json", {"figures": [{"what": "a"}]})
    assert tables.benchmark_figures().dropna(axis=1).to_dict("records") == [{"what": "a"}]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setenv(ROOT, str(HERE))
    return tables.read_published()


def test_every_row_is_of_a_known_kind(published: pd.DataFrame) -> None:
    assert not published.duplicated(["method", "dim", "dataset", "protocol", "metric"]).any()
    assert len(published) == 269 + 18  # the collected ones, and the golden mP@k
    for row in published.itertuples():
        assert (row.dataset, row.protocol) in [
            *((name, level) for name in REVISITED for level in ("Easy", "Medium", "Hard")),
            *((name, "classic") for name in CLASSIC),
        ], row
        assert row.metric in ("mAP", "mP@1", "mP@5", "mP@10"), row
        assert 0 < row.value <= 100, row
        assert row.method and row.source, row
        assert row.dim == "" or int(row.dim) > 0, row
        assert all(text == str(text).strip() for text in row[1:] if isinstance(text, str)), row


def test_what_was_trained_on_google_landmarks_carries_its_caveat(published: pd.DataFrame) -> None:
    second = published["training_set"].str.startswith("GLDv2")
    assert second.sum() == 12 * 8
    caveats = published[second]["caveat"]
    assert caveats.str.contains(r"overlaps the test sets \(arXiv 2404.01524\)").all()
    other = published["training_set"].str.contains("Google Landmarks|GLDv1")
    assert published[other]["caveat"].str.contains("overlap with the test sets not stated").all()
    names = "GLDv|DELG|R50-DOLG|R101-DOLG|Token|gl18|LM18|SuperGlobal|SOLAR"
    told = published["method"].str.contains(names)
    assert (second | other).equals(told)
    assert not published[~told]["caveat"].str.contains("overlap").any()


def test_uncropped_queries_are_told(published: pd.DataFrame) -> None:
    uncropped = published["method"].str.contains("not cropped")
    assert uncropped.sum() == 8
    assert published["caveat"].str.contains("queries not cropped: superseded").equals(uncropped)
    assert not (published["note"].str.contains("overlap|cropped")).any()


def test_a_table_by_hand() -> None:
    names = ["One Medium", "One Hard", "Two Medium", "Two Hard"]
    table = tables.published_table(MADE, ["One", "Two"], ["Medium", "Hard"])
    assert list(table) == ["method", "dim", *names, "trained on", "caveats", "source"]
    assert table["method"].tolist() == ["A", "B", "A"] and table["dim"].tolist() == ["8", "", "16"]
    nan = np.nan
    figures = [[50, 30, nan, nan], [nan, 20.5, nan, nan], [nan, nan, 60, nan]]
    np.testing.assert_array_equal(table[names], figures)
    assert table["caveats"].tolist() == ["", "c", ""]
    assert "Else" in tables.published_table(MADE, ["Else"], ["Medium"])


def test_no_figure_is_lost_in_a_table(published: pd.DataFrame) -> None:
    """However the sources and caveats of a method differ."""
    for datasets, protocols in ((REVISITED, ["Medium", "Hard"]), (CLASSIC, ["classic"])):
        table = tables.published_table(published, datasets, protocols)
        rows = published.query("dataset in @datasets and protocol in @protocols")
        assert table.select_dtypes("number").notna().sum().sum() == (rows["metric"] == "mAP").sum()
        assert not table.duplicated(["method", "dim"]).any()


@pytest.mark.parametrize(
    "text", ["method,value\na,1\n", f"{','.join(tables.PUBLISHED)}\na,,x,c,mAP,many,,s,,\n", None]
)
def test_a_file_that_is_something_else(text: str | None, project: Path) -> None:
    if text:
        (project / "data").mkdir()
        (project / "data" / "published.csv").write_text(text)
    fails("no table of published figures", tables.read_published)
