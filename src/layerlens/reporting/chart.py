"""A Plotly figure as plain data. Colours are names (`@chosen`) that the page turns into the theme's colours.

Plotly reads a little HTML and `%{…}` templates in its texts, so every text that comes from an artifact goes through `plain`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.reporting.markup import Markup, element


@dataclass(frozen=True)
class Chart:
    """One figure: Plotly traces and layout, its height in pixels, and what it shows in words."""

    id: str
    traces: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    label: str


def plain(text: str) -> str:
    """Make a text show as it is in Plotly, which would otherwise read tags and entities in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def rounded(values: Iterable[float]) -> list[float]:
    """Five significant digits: more cannot be seen and would only make the page heavier."""
    return [float(f"{value:.5g}") for value in values]


def depth_color(share: float) -> str:
    """The colour of a block at `share` in [0, 1] of the model's depth."""
    return f"@depth:{share:.3f}"


def chart_box(chart: Chart) -> Markup:
    """The place that the page's script draws a chart into."""
    style = f"height:{chart.height}px"
    return element("div", class_="chart", id=chart.id, role="img", aria_label=chart.label, style=style)


def charts_json(charts: Iterable[Chart]) -> str:
    """All figures as one JSON text that is safe inside a script element."""
    figures = {chart.id: {"data": list(chart.traces), "layout": chart.layout} for chart in charts}
    text = json.dumps(figures, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
