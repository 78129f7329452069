"""Pages that are read offline: a notebook that ran, as HTML. Nothing is loaded from outside.

The one script of a page is ours and sorts tables by their headings; without it a page is whole. The
same notebook run twice gives the same bytes: whatever depends on the clock or the machine is in the
record of the run, which the overview shows, and not in the page.
"""

import html
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bs4
import nbformat
import papermill
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from dagf.files import slug
from dagf.show.html import TEMPLATE, style, with_script

NUMBER = re.compile(r"[—–]|[-+−±≤≥<>~\[(]*[.\d][\d.,:;%±+−()\[\]\s×e–-]*")


def render_page(executed: Path, about: Mapping[str, Any], root: Path) -> tuple[str, str, str]:
    """Return the page of a notebook that ran to its end, its title, and its first paragraph.

    about: the record of the run, with the links to its `files`, and its `siblings`, the notebooks
    to whose pages it leads. root: the project's folder: its place does not show in a page.
    """
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    renderer = Renderer(root / "notebooks")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.metadata["html"] = renderer.markdown(cell.source)
    title = _text(renderer.headings[0][2])
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        filters={"markdown_output": lambda text: Renderer(root).markdown(text)},
    )
    page = {**about, "headings": renderer.headings, "title": title, "style": style()}
    page["declared"] = papermill.inspect_notebook(str(executed))
    made, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    soup = bs4.BeautifulSoup(made.replace(f"{root}/", ""), "html.parser")
    tidy(soup)
    first = soup.select_one("main .prose p")
    return with_script(str(soup)), title, " ".join(first.get_text().split()) if first else ""


class Renderer(IPythonRenderer):
    """Markdown -> HTML, with mathematics as MathML.

    headings: (level, anchor, HTML) of each that there was; no two have the same anchor.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder))
        self.headings: list[tuple[int, str, str]] = []
        self._anchors = Counter[str]()

    def markdown(self, text: str) -> str:
        return str(MarkdownWithMath(renderer=self).render(text))

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        anchor = slug(_text(text))
        self._anchors[anchor] += 1
        anchor += f"-{times}" if (times := self._anchors[anchor]) > 1 else ""
        self.headings.append((level, anchor, re.sub(r"</?a\b[^>]*>", "", text)))
        link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text}{"" if level == 1 else link}</h{level}>\n'

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<span class="equation" tabindex="0">{mathml(body, "block")}</span>'


def _text(words: str) -> str:
    return bs4.BeautifulSoup(words, "html.parser").get_text().strip()


def mathml(tex: str, display: str) -> str:
    """Return TeX as MathML; the TeX stays with it, for screen readers and those who copy it."""
    tex = tex.strip()
    try:
        made = convert(tex, display=display)
    except Exception:  # whatever it does not know: a formula as TeX is better than no page
        return f'<code class="tex">{html.escape(tex)}</code>'
    # HTML needs no name space, and a page has no address in it that is not its own.
    space = '<math xmlns="http://www.w3.org/1998/Math/MathML"'
    return made.replace(space, f'<math alttext="{html.escape(tex)}"', 1)


def tidy(soup: bs4.BeautifulSoup) -> None:
    """Let wide tables scroll in a box of their own; align columns of numbers to the right."""
    for table in soup.select("table"):
        del table["border"]
        box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}
        table.wrap(soup.new_tag("div", attrs=box))
    for table in soup.select("table:not(.parameters)"):
        rows = [row.find_all(["td", "th"]) for row in table.select("tr")]
        for column in zip(*rows, strict=False):
            texts = [text for cell in column[1:] if (text := cell.get_text().strip())]
            if texts and all(map(NUMBER.fullmatch, texts)):
                for cell in column:
                    cell["class"] = "number"
