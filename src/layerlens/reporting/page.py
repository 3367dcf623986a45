"""The page around the sections: head, verdict, contents, charts, and a policy that lets the browser reach nothing outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from layerlens.reporting.chart import charts_json
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.section import Section
from layerlens.reporting.summary import Tile
from layerlens.reporting.verdict import Statement

#: Name of the page in the folder that it is about, unless another one is given.
PAGE_FILE = "report.html"


def render_page(
    *,
    title: str,
    kicker: str,
    headline: str,
    tiles: Sequence[Tile],
    statements: Sequence[Statement],
    sections: Sequence[Section],
    missing: Sequence[str],
) -> str:
    """Put the page together; the same content gives the same bytes."""
    charts = [chart for section in sections for chart in section.charts]
    scripts = [_plotly(), _asset("page.js")] if charts else [_asset("page.js")]
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(_asset("page.css"))),
        ]
    )
    body = join(
        [
            element("a", "Skip to the results", href="#main", class_="skip"),
            element("header", _masthead(kicker, headline, tiles), class_="wrap"),
            element(
                "main",
                _findings(statements),
                _contents(sections),
                _missing(missing),
                join(_section(section) for section in sections),
                id="main",
                class_="wrap",
            ),
            element(
                "footer", "Made by LayerLens from the files of one run. This page loads nothing from anywhere.", class_="wrap"
            ),
            element("script", Markup(charts_json(charts)), type="application/json", id="charts"),
            join(element("script", Markup(script)) for script in scripts),
        ]
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _masthead(kicker: str, headline: str, tiles: Sequence[Tile]) -> Markup:
    shown = [
        element("div", element("dt", tile.label), element("dd", tile.value), element("dd", tile.note, class_="note"))
        for tile in tiles
    ]
    return join(
        [
            element("p", kicker, class_="kicker"),
            element("h1", headline),
            element("dl", join(shown), class_="tiles") if shown else None,
        ]
    )


def _findings(statements: Sequence[Statement]) -> Markup | None:
    if not statements:
        return None
    rows = [
        element("li", element("strong", statement.topic), element("span", statement.text), class_=f"tone-{statement.tone}")
        for statement in statements
    ]
    return element("section", element("h2", "In short"), element("ul", join(rows), class_="findings"), id="short")


def _contents(sections: Sequence[Section]) -> Markup:
    links = [element("li", element("a", section.title, href=f"#{section.id}")) for section in sections]
    return element("nav", element("ul", join(links)), aria_label="Contents")


def _missing(missing: Sequence[str]) -> Markup | None:
    if not missing:
        return None
    lines = [element("li", _with_code(line)) for line in missing]
    return element("aside", element("h2", "Left out"), element("ul", join(lines)), class_="missing")


def _with_code(line: str) -> Markup:
    """What stands between backticks is code."""
    parts = line.split("`")
    return join(element("code", part) if place % 2 else part for place, part in enumerate(parts))


def _section(section: Section) -> Markup:
    return element("section", element("h2", section.title), section.body, id=section.id)


def _policy(scripts: Sequence[str]) -> str:
    """Only the page's own scripts run, and nothing can be fetched: a text from an artifact can do no harm."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
    rules = ("default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", "img-src data: blob:", "base-uri 'none'")
    return "; ".join((*rules, "form-action 'none'"))


@cache
def _asset(name: str) -> str:
    return (files("layerlens.reporting") / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Plotly's script, which its package holds in one size alone."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
