"""data/published.csv row by row, and the tables made from it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dagf.analysis.published import COLUMNS, published_table, read_published
from dagf.errors import UserError

FILE = Path(__file__).parents[2] / "data" / "published.csv"
REVISITED = ["ROxford5k", "RParis6k", "ROxford5k+1M", "RParis6k+1M"]
CLASSIC = ["Oxford5k", "Oxford105k", "Paris6k", "Paris106k", "Holidays"]


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return read_published(FILE)


def test_every_row_is_of_a_known_kind(published: pd.DataFrame) -> None:
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


def test_no_figure_stands_there_twice(published: pd.DataFrame) -> None:
    assert not published.duplicated(["method", "dim", "dataset", "protocol", "metric"]).any()


def test_what_was_trained_on_google_landmarks_carries_its_caveat(published: pd.DataFrame) -> None:
    second = published["training_set"].str.startswith("GLDv2")
    assert second.sum() == 12 * 8
    assert (
        published[second]["caveat"]
        .str.contains("overlaps the test sets (arXiv 2404.01524)", regex=False)
        .all()
    )
    other = published["training_set"].str.contains("Google Landmarks|GLDv1")
    assert published[other]["caveat"].str.contains("overlap with the test sets not stated").all()
    told = published["method"].str.contains(
        "GLDv|DELG|R50-DOLG|R101-DOLG|Token|gl18|LM18|SuperGlobal|SOLAR"
    )
    assert (second | other).equals(told)
    assert not published[~told]["caveat"].str.contains("overlap").any()


def test_uncropped_queries_are_told(published: pd.DataFrame) -> None:
    uncropped = published["method"].str.contains("not cropped")
    assert uncropped.sum() == 8
    assert published["caveat"].str.contains("queries not cropped: superseded").equals(uncropped)
    assert not (published["note"].str.contains("overlap|cropped")).any()


MADE = pd.DataFrame(
    [
        ("A", "8", "One", "Medium", "mAP", 50.0, "S", "p", "", ""),
        ("B", "", "One", "Hard", "mAP", 20.5, "", "q", "c", ""),
        ("A", "8", "One", "Hard", "mAP", 30.0, "S", "p", "", ""),
        ("A", "8", "One", "Hard", "mP@1", 99.0, "S", "p", "", ""),
        ("A", "16", "Two", "Medium", "mAP", 60.0, "S", "p", "", ""),
        ("A", "8", "Else", "Medium", "mAP", 70.0, "S", "p", "", ""),
    ],
    columns=COLUMNS,
)


def test_a_table_by_hand() -> None:
    table = published_table(MADE, ["One", "Two"], ["Medium", "Hard"])
    assert list(table) == [
        "method", "dim", "One Medium", "One Hard", "Two Medium", "Two Hard", "trained on", "caveats", "source",
    ]  # fmt: skip
    assert table["method"].tolist() == ["A", "B", "A"] and table["dim"].tolist() == ["8", "", "16"]
    figures = table[["One Medium", "One Hard", "Two Medium", "Two Hard"]].to_numpy()
    nan = np.nan
    np.testing.assert_array_equal(
        figures, [[50, 30, nan, nan], [nan, 20.5, nan, nan], [nan, nan, 60, nan]]
    )
    assert table["caveats"].tolist() == ["", "c", ""]
    assert "Else" in published_table(MADE, ["Else"], ["Medium"])


def test_no_figure_is_lost_in_a_table(published: pd.DataFrame) -> None:
    """However the sources and caveats of a method differ."""
    for datasets, protocols in ((REVISITED, ["Medium", "Hard"]), (CLASSIC, ["classic"])):
        table = published_table(published, datasets, protocols)
        rows = (
            published["dataset"].isin(datasets)
            & published["protocol"].isin(protocols)
            & (published.metric == "mAP")
        )
        assert table.select_dtypes("number").notna().sum().sum() == rows.sum()
        assert not table.duplicated(["method", "dim"]).any()


def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it comes with the project"):
        read_published(tmp_path / "none.csv")
    for text in ("method,value\na,1\n", ",".join(COLUMNS) + "\na,,x,classic,mAP,many,,s,,\n", ""):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(UserError, match="no table of published figures"):
            read_published(tmp_path / "p.csv")
