"""Kept tables as LaTeX."""

from pathlib import Path

import numpy as np
import pandas as pd

from dagf.analysis.contrasts import keep_table
from dagf.analysis.latex import escaped, tabular
from dagf.files import read_json
from dagf.reports.publish import _results


def test_what_latex_would_take_for_itself() -> None:
    assert escaped("50 % of a_b & {c} #1 $x") == r"50 \% of a\_b \& \{c\} \#1 \$x"
    assert escaped("a\\b ~ ^") == r"a\textbackslash{}b \textasciitilde{} \textasciicircum{}"
    assert escaped("−0.5 < 3×3\n  p") == r"$-$0.5 \textless{} 3$\times$3 p"


def test_a_table_by_hand() -> None:
    record = {
        "title": "T & U", "caption": "mAP (%).", "note": "N_1", "columns": ["method", "mAP", "CI"],
        "rows": [["a_b", 1.5, "[0, 2]"], ["c", -0.25, None]],
    }  # fmt: skip
    assert tabular(record).splitlines() == [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        r"\caption{T \& U. mAP (\%).}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"{}method & mAP & CI \\",
        r"\midrule",
        r"{}a\_b & 1.50 & [0, 2] \\",
        r"{}c & $-$0.25 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip{\footnotesize N\_1}",
        r"\end{table}",
    ]
    assert "footnotesize" not in tabular(
        {key: value for key, value in record.items() if key != "note"}
    )


def test_an_empty_table_has_its_frame() -> None:
    lines = tabular({"title": "T", "caption": "C", "columns": ["a"], "rows": []}).splitlines()
    assert lines[lines.index(r"\midrule") + 1] == r"\bottomrule"


def test_every_kept_table_has_all_three_forms(project: Path) -> None:
    frame = pd.DataFrame({"m": ["GeM"], "x": [np.nan], "n": pd.array([None], dtype="Int64")})
    keep_table("kept", frame, "T", "C", note="N")
    scratch = project / "data" / "scratch"
    files = _results("06", scratch)  # what a report takes over
    assert [file.name for file in files] == ["kept.csv", "kept.json", "kept.tex"]
    assert files[2].read_text() == tabular(read_json(files[1]))
    assert "{}GeM &  &  \\\\" in files[2].read_text()
