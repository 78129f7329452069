"""What stays in a page of what a notebook shows: nothing that runs, loads, or leads to code."""

import re

import bs4
import pytest

from dagf.reports.markup import tidy


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", " java\nscript:alert(1)", "vbscript:x", "data:text/html,<b>", "file:///etc"],
)  # fmt: skip
@pytest.mark.parametrize("tag", ["a", "area"])
def test_a_link_leads_to_no_code(tag: str, address: str) -> None:
    made = bs4.BeautifulSoup("<div></div>", "html.parser").new_tag(tag, attrs={"href": address})
    made.string = "text"
    found = bs4.BeautifulSoup(tidy(str(made)), "html.parser").select_one(tag)
    assert found is not None and not found.has_attr("href")
    assert ("text" in found.get_text()) == (tag == "a")  # an area has no text


def test_other_links_stay() -> None:
    links = [
        "#method",
        "tables/main.json",
        "../index.html",
        "https://example.org/a?b=c:d",
        "mailto:a@example.org",
    ]
    page = "".join(f'<a href="{link}">x</a>' for link in links)
    assert [
        link["href"] for link in bs4.BeautifulSoup(tidy(page), "html.parser").select("a")
    ] == links


@pytest.mark.parametrize(
    "css",
    [
        "background: url(https://example.org/a.png)",
        "background: URL ( 'https://example.org/a.png' )",
        r"background: \75rl(https://example.org/a.png)",
        r"background: \000075 rl(https://example.org/a.png)",
        r"background: u\rl(https://example.org/a.png)",
        "background: u/**/rl(x); background: ur/* */l(https://example.org)",
        "background: image-set('https://example.org/a.png' 1x, url(b.png) 2x)",
        "background: -webkit-image-set(url(https://example.org/a.png) 1x)",
        "@import 'https://example.org/a.css';",
        "@font-face { font-family: a; src: url(https://example.org/a) }",
        "width: expression(alert(1))",
        "background: url(https://example.org/not-closed",
    ],
)
def test_css_loads_nothing(css: str) -> None:
    for page in (f'<p style="{css}">kept</p>', f"<style>{css}</style><p>kept</p>"):
        made = tidy(page)
        assert not re.search(
            r"url\s*\(|example\.org/a|@import|expression", re.sub(r"\\u", "u", made), re.I
        ), made
        assert "kept" in made


def test_css_that_loads_nothing_stays() -> None:
    css = 'p::before { content: "\\2014 \\201C"; color: #fff; width: calc(1px + (2px * 3)) } /* a remark */'
    assert css in tidy(f"<style>{css}</style>")
    assert (
        tidy('<p style="color: red; margin: 0">x</p>') == '<p style="color: red; margin: 0">x</p>'
    )


def test_drawings_and_forms_in_a_page_fetch_nothing() -> None:
    page = (
        '<svg><image href="https://example.org/a.png"/><use xlink:href="https://example.org/b#c"/><use href="#d"/>'
        '<a><animate attributeName="href" to="javascript:x"/></a></svg><form action="https://example.org/send">'
        '<button formaction="javascript:x">send</button></form><video poster="https://example.org/p.png"></video>'
        '<body background="https://example.org/q.png"><td background="r.png">x</td></body>'
    )
    made = tidy(page)
    assert "example.org" not in made and "javascript" not in made and "r.png" not in made
    assert 'href="#d"' in made
