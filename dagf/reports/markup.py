"""Notebook -> HTML without scripts and outside addresses: MathML, headings with anchors, tables that scroll."""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bs4
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from dagf.analysis.tables import is_number
from dagf.files import slug

LOADING = (
    *(
        "script",
        "iframe",
        "frame",
        "object",
        "embed",
        "applet",
        "link",
        "base",
        "meta[http-equiv]",
        "style[scoped]",
    ),
    *(
        "animate",
        "set",
        "animateTransform",
        "foreignObject",
    ),  # of SVG: they can change an address, or hold a page
)
LEADING = {"http", "https", "mailto"}  # where a link may lead, beside the page's neighbours
FETCHED = ("poster", "background", "action", "formaction", "ping", "data", "dynsrc", "lowsrc")
# CSS may write any letter as a backslash and its number.
_ESCAPED = re.compile(r"\\0{0,4}([4-7][0-9a-fA-F])\s?|\\([g-zG-Z])")
_IN_CSS = re.compile(
    r"@import[^;}]*;?|@(?:font-face|namespace)\b[^}]*}?|[\w-]*url\s*\([^)]*\)?|image-set\s*\((?:[^()]|\([^)]*\))*\)?"
    r"|\b(?:image|src|expression)\s*\([^)]*\)?|-moz-binding|behavior\s*:",
    re.IGNORECASE,
)
SHOWN = [
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]


@dataclass(frozen=True)
class Heading:
    """A heading of a page: its level, its anchor, and its text as HTML and as plain text."""

    level: int
    anchor: str
    html: str
    text: str


class Renderer(IPythonRenderer):
    """Markdown -> HTML, with math as MathML; remembers the headings."""

    def __init__(
        self, folder: Path, headings: list[Heading], attachments: dict[str, Any] | None = None
    ) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder), attachments=attachments)
        self.headings = headings

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        """A heading with an anchor of its own, however often its words occur."""
        plain = bs4.BeautifulSoup(text, "html.parser").get_text().strip()
        anchor, taken = slug(plain), {one.anchor for one in self.headings}
        free = next(
            name
            for n in range(1, 10_000)
            if (name := anchor if n == 1 else f"{anchor}-{n}") not in taken
        )
        self.headings.append(Heading(level, free, re.sub(r"</?a\b[^>]*>", "", text), plain))
        link = f'<a class="anchor" href="#{free}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{free}">{text}{"" if level == 1 else link}</h{level}>\n'

    def inline_math(self, body: str) -> str:
        """$ ... $"""
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        """$$ ... $$"""
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        """\\begin{name} ... \\end{name}"""
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def mathml(tex: str, display: str) -> str:
    """TeX as MathML; the TeX stays with it, for those who copy it and for readers of the screen."""
    tex = tex.strip()
    try:
        converted = convert(tex, display=display)
    except (
        Exception
    ):  # the converter knows no common error; a formula as TeX is better than no page
        return f'<code class="tex">{html.escape(tex)}</code>'
    plain = converted.replace(
        ' xmlns="http://www.w3.org/1998/Math/MathML"', ""
    )  # HTML needs no name space
    formula = plain.replace("<math", f'<math alttext="{html.escape(tex)}"', 1)
    return (
        f'<span class="equation" tabindex="0">{formula}</span>' if display == "block" else formula
    )


def render_markdown(notebook: NotebookNode, folder: Path) -> list[Heading]:
    """Put the HTML of each Markdown cell into its metadata; the headings, in order."""
    headings: list[Heading] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            renderer = Renderer(folder, headings, cell.get("attachments"))
            cell.metadata["html"] = MarkdownWithMath(renderer=renderer).render(cell.source)
    return headings


def exporter(template: Path) -> HTMLExporter:
    """nbconvert's exporter with the template of the study."""
    made = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name=template.name,
        extra_template_basedirs=[str(template.parent)],
        filters={
            "markdown_output": _markdown_output,
            "tex": lambda tex: mathml(tex.strip().strip("$"), "block"),
        },
    )
    made.config.NbConvertBase.display_data_priority = SHOWN
    return made


def tidy(page: str) -> str:
    """Take out what would run, load or lead to code, let wide tables scroll in a box of their own, align numbers."""
    soup = bs4.BeautifulSoup(page, "html.parser")
    for element in soup.select(", ".join(LOADING)):
        element.decompose()
    for element in soup.find_all(True):
        for name in [name for name in element.attrs if name.startswith("on") or name in FETCHED]:
            del element[name]
        for name in ("href", "xlink:href"):
            if element.has_attr(name) and not _leads(element.name, str(element[name])):
                del element[name]
        if element.has_attr("style"):
            element["style"] = still(str(element["style"]))
    for sheet in soup.select("style"):
        sheet.string = still(sheet.get_text())
    for element in soup.select("[src], [srcset]"):
        if not str(element.get("src", "")).startswith("data:") or element.get("srcset"):
            element.replace_with(f"[{element.get('alt') or 'picture'}: not in this page]")
    for table in soup.select("table"):
        del table["border"]
        if "parameters" not in table.get_attribute_list("class"):
            _align_numbers(table)
        if not table.find_parent(class_="scroll"):
            attributes = {
                "class": "scroll",
                "tabindex": "0",
                "role": "region",
                "aria-label": "table",
            }
            table.wrap(soup.new_tag("div", attrs=attributes))
    return str(soup)


def _leads(tag: str, address: str) -> bool:
    """Whether an address may stay: of a link one that a reader may follow, of all else a part of the page."""
    address = re.sub(r"[\x00-\x20]", "", address)  # browsers pass over these
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):", address)
    if tag in ("a", "area"):
        return not scheme or scheme[1].lower() in LEADING
    return address.startswith(("#", "data:image/png", "data:image/jpeg"))


def still(css: str) -> str:
    """CSS without what loads or runs something."""
    plain = _ESCAPED.sub(
        lambda found: found[2] or chr(int(found[1], 16)),
        re.sub(r"/\*.*?(\*/|$)", "", css, flags=re.S),
    )
    return _IN_CSS.sub("none", plain) if _IN_CSS.search(plain) else css


def _align_numbers(table: bs4.Tag) -> None:
    """Numbers to the right, with their heading: column by column, or a label that is a number would leave its place."""
    lines = [row.find_all(["td", "th"]) for row in table.select("tr")]
    heads = [line for line in lines if all(cell.name == "th" for cell in line)]
    for place, cells in enumerate(
        zip(*(line for line in lines if line not in heads), strict=False)
    ):
        texts = [text for cell in cells if (text := cell.get_text().strip())]
        if texts and all(map(is_number, texts)):
            for cell in (*cells, *(line[place] for line in heads if len(line) > place)):
                cell["class"] = f"{cell.get('class', '')} number".strip()


def _markdown_output(text: str) -> str:
    return str(MarkdownWithMath(renderer=Renderer(Path(), [])).render(text))
