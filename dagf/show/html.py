"""HTML that needs nothing from outside: templates, the style sheet, the one script, tables."""

import base64
import hashlib
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from IPython.display import HTML

from dagf.analysis.tables import split, table_of

TEMPLATE = Path(__file__).parent / "template"
NOTHING = "<p><em>Nothing to show: no notebook left a record of it.</em></p>"


def templates() -> jinja2.Environment:
    """Return the templates; whatever is put into them is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def style() -> str:
    return (TEMPLATE / "style.css").read_text(encoding="utf-8")


def with_script(page: str) -> str:
    """Return a finished page with the script that sorts tables, and a policy against others."""
    script = (TEMPLATE / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    policy += f"script-src 'sha256-{digest}'"
    page = page.replace(
        "<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">', 1
    )
    before, end, after = page.rpartition("</body>")
    return f"{before}<script>{script}</script>\n{end}{after}"


def image(data: bytes, kind: str, alt: str, caption: str = "") -> HTML:
    """Return an image (kind: svg, png) as a figure of a page that holds it."""
    mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return HTML(f'<figure><img src="{source}" alt="{escape(alt)}">{below}</figure>')


def table(frame: pd.DataFrame, caption: str, digits: int = 1) -> HTML:
    """Return a table for a notebook; where the mouse rests on a row, the row's runs are shown."""
    if frame.empty:
        return HTML(NOTHING)
    plain, runs = split(frame)
    cells, number = plain.astype(object).where(plain.notna(), float("nan")), f"{{:.{digits}f}}"
    body = cells.to_html(border=0, index=False, float_format=number.format, na_rep="–")
    titles = (f'<tr title="{escape(one)}">' if one else "<tr>" for one in runs)
    head, start, rows = body.partition("<tbody>")
    body = head + start + re.sub("<tr>", lambda tag: next(titles, tag.group()), rows)
    return HTML(f'<figure class="table">{body}<figcaption>{escape(caption)}</figcaption></figure>')


def folded(summary: str, *shown: HTML) -> HTML:
    """Return what is shown, folded away under a line."""
    inside = "".join(str(one.data) for one in shown)
    return HTML(f"<details><summary>{escape(summary)}</summary>{inside}</details>")


def record_table(record: Mapping[str, Any]) -> HTML:
    """Return a table that an earlier run kept (`dagf.analysis.tables.keep_table`)."""
    photographs = record["measured"]["photographs"] + ": " if "measured" in record else ""
    return table(table_of(record), f"{photographs}{record['title']}. {record['caption']}")
