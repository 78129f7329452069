"""A result table as LaTeX, for a paper: booktabs' rules, the caption above and the note below."""

from collections.abc import Mapping
from typing import Any

from dagf.analysis.tables import columns

_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$",
    "α": r"$\alpha$", "λ": r"$\lambda$", "–": "--", "—": "---", "’": "'", "“": "``", "”": "''",
}  # fmt: skip


def escaped(text: str) -> str:
    """`text` on one line, as LaTeX that prints it as it is."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def tabular(record: Mapping[str, Any]) -> str:
    """The record of a kept table (`dagf.analysis.contrasts.keep_table`) as a table environment.

    Values are written as the reports show them: the floats of a column with equally many decimals, numbers to the
    right, nothing for nothing.
    """
    shown = columns(record)
    heads = [escaped(one.title) for one in shown]
    rows = list(zip(*([escaped(text) for text in one.cells] for one in shown), strict=True))
    note = (
        [rf"\par\smallskip{{\footnotesize {escaped(record['note'])}}}"]
        if record.get("note")
        else []
    )
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(record['title'])}. {escaped(record['caption'])}}}",
        rf"\begin{{tabular}}{{{''.join('r' if one.numeric else 'l' for one in shown)}}}",
        r"\toprule",
        _line(heads),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
        *note,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Any) -> str:
    # an empty group first: a cell that begins with [ would be read as an argument of the line break before it
    return "{}" + " & ".join(cells) + r" \\"
