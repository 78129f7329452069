"""HTML that needs nothing from outside: the templates, the one style sheet, and the one script."""

import base64
import hashlib
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).parent / "template"


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
    """Return the style sheet, to put into a page."""
    return (TEMPLATE / "style.css").read_text(encoding="utf-8")


def with_script(page: str) -> str:
    """Return a finished page with the script that sorts tables, and a policy (CSP) against others."""
    script = (TEMPLATE / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    page = page.replace(
        "<head>", f'<head>\n<meta http-equiv="Content-Security-Policy" content="{policy}">', 1
    )
    before, end, after = page.rpartition("</body>")
    return f"{before}<script>{script}</script>\n{end}{after}"
