"""Pages that are read offline: a notebook that ran, as HTML. Nothing is loaded from outside.

The one script of a page is ours and sorts tables by their headings; without it a page is whole. The
same notebook run twice gives the same bytes: whatever depends on the clock or the machine is in the
record of the run, which the overview shows, and not in the page.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bs4
import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

import dagf
from dagf.files import slug
from dagf.show.html import TEMPLATE, style, with_script

TAKEN_OUT = "script, iframe, object, embed, link, base, meta[http-equiv]"  # from what a cell shows
SHOWN = (
    *("text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg"),
    *("text/latex", "text/plain"),
)


@dataclass(frozen=True)
class About:
    """What a page says beside what its notebook shows."""

    name: str
    parameters: Mapping[str, Any]
    helps: Mapping[str, str]
    content: str
    siblings: Sequence[tuple[str, str]]  # (link, title) of each page of the study
    files: Sequence[str]  # links to its results
    root: str  # the project's folder: its place on this machine does not show in a page


@dataclass(frozen=True)
class Page:
    """A finished page, its title, and its first paragraph as plain text."""

    html: str
    title: str
    summary: str


def render_page(executed: Path, about: About) -> Page:
    """Return the page of a notebook that ran to its end."""
    notebook = nbformat.read(executed, as_version=4)  # type: ignore[no-untyped-call]
    renderer = Renderer(Path(about.root) / "notebooks")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.metadata["html"] = renderer.markdown(cell.source)
    title = renderer.headings[0].text if renderer.headings else about.name
    page = {"about": about, "headings": renderer.headings, "title": title, "style": style()}
    page |= {"version": dagf.__version__, "profile": about.parameters.get("profile", "")}
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name=TEMPLATE.name,
        extra_template_basedirs=[str(TEMPLATE.parent)],
        filters={
            "markdown_output": lambda text: Renderer(Path()).markdown(text),
            "tex": lambda tex: mathml(tex.strip().strip("$"), "block"),
        },
    )
    exporter.config.NbConvertBase.display_data_priority = list(SHOWN)
    made, _ = exporter.from_notebook_node(notebook, resources={"page": page})
    soup = bs4.BeautifulSoup(made.replace(f"{about.root}/", ""), "html.parser")
    tidy(soup)
    first = soup.select_one("main .prose p")
    summary = " ".join(first.get_text().split()) if first else ""
    return Page(with_script(str(soup)), title, summary)


@dataclass(frozen=True)
class Heading:
    """A heading of a page: its level, its anchor, and its text as HTML and as plain text."""

    level: int
    anchor: str
    html: str
    text: str


@dataclass
class Renderer(IPythonRenderer):
    """Markdown -> HTML, with mathematics as MathML; remembers the headings."""

    folder: Path  # in which the pictures of the text lie
    headings: list[Heading] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(escape=False, embed_images=True, path=str(self.folder))

    def markdown(self, text: str) -> str:
        """Return the HTML of a text."""
        return str(MarkdownWithMath(renderer=self).render(text))

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """Return a heading with an anchor of its own, however often its words occur."""
        plain = bs4.BeautifulSoup(text, "html.parser").get_text().strip()
        anchor, times = slug(plain), sum(one.text == plain for one in self.headings)
        anchor += f"-{times + 1}" if times else ""
        self.headings.append(Heading(level, anchor, re.sub(r"</?a\b[^>]*>", "", text), plain))
        link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text}{"" if level == 1 else link}</h{level}>\n'

    def inline_math(self, body: str) -> str:
        """$ ... $"""
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        """$$ ... $$"""
        return mathml(body, "block")


def mathml(tex: str, display: str) -> str:
    """Return TeX as MathML; the TeX stays with it, for screen readers and those who copy it."""
    tex = tex.strip()
    try:
        made = convert(tex, display=display)
    except Exception:  # whatever it does not know: a formula as TeX is better than no page
        return f'<code class="tex">{html.escape(tex)}</code>'
    # HTML needs no name space, and a page has no address in it that is not its own.
    space = '<math xmlns="http://www.w3.org/1998/Math/MathML"'
    formula = made.replace(space, f'<math alttext="{html.escape(tex)}"', 1)
    return (
        f'<span class="equation" tabindex="0">{formula}</span>' if display == "block" else formula
    )


def tidy(soup: bs4.BeautifulSoup) -> None:
    """Take out what runs or loads, let wide tables scroll in a box of their own, align numbers.

    What gets past this (a handler, CSS) the policy that `with_script` puts into the page stops.
    """
    for element in soup.select(TAKEN_OUT):
        element.decompose()
    for element in soup.select("[src]:not([src^='data:'])"):
        element.replace_with(f"[{element.get('alt') or 'picture'}: not in this page]")
    for table in soup.select("table"):
        del table["border"]
        if "parameters" not in table.get_attribute_list("class"):
            _align_numbers(table)
        box = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"}
        table.wrap(soup.new_tag("div", attrs=box))


def _align_numbers(table: bs4.Tag) -> None:
    """Align the columns of numbers to the right, their headings too."""
    rows = [row.find_all(["td", "th"]) for row in table.select("tr")]
    for column in zip(*rows, strict=False):
        texts = [text for cell in column[1:] if (text := cell.get_text().strip())]
        if texts and all(map(is_number, texts)):
            for cell in column:
                cell["class"] = "number"


def is_number(text: str) -> bool:
    """Return whether `text` is shown as a number: 3, −1.5, 41.2 %, .41 ± .02, [.38, .42]."""
    number = r"[—–]|[-+−±≤≥<>~\[(]*[.\d][\d.,:;%±+−()\[\]\s×e–-]*"
    return bool(re.fullmatch(number, text.strip()))
