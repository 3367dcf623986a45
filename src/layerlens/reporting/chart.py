"""A Plotly figure as plain data. Colours are names (`@chosen`) that the page turns into the theme's colours.

Plotly reads a little HTML and `%{…}` templates in its texts, so every text that comes from an artifact goes through `plain`.
"""

from __future__ import annotations

import json
import math
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


def power_text(value: float) -> str:
    """A round number for an axis: `0.002`, `5·10⁻⁵`."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".replace(".0", "").split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return power if mantissa == "1" else f"{mantissa}·{power}"


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


#: Ticks within a power of ten, for an axis of so many powers at most.
_STEPS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.7, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)),
    (2.2, (1, 2, 5)),
    (math.inf, (1,)),
)


def log_axis(title: str, values: Iterable[float], *, margin: float = 0.06) -> dict[str, Any]:
    """A logarithmic axis around some values above zero, with every tick written out.

    Plotly's own ticks show bare digits between the powers of ten.

    Args:
        title: Of the axis.
        values: What has to be seen on it.
        margin: Room at either end, as a share of what the values span.
    """
    logs = [math.log10(value) for value in values if value > 0] or [0.0]
    room = max(0.1, margin * (max(logs) - min(logs)))
    low, high = min(logs) - room, max(logs) + room
    steps = next(steps for span, steps in _STEPS if high - low <= span)
    powers = range(math.floor(low), math.ceil(high) + 1)
    # Every other power where there are many, so that a small chart keeps its labels apart.
    kept = [power for power in powers if len(powers) <= 7 or power % 2 == 0]
    ticks = [step * 10.0**power for power in kept for step in steps]
    shown = [tick for tick in ticks if low <= math.log10(tick) <= high]
    return {
        "title": {"text": title},
        "type": "log",
        "range": rounded([low, high]),
        "tickmode": "array",
        "tickvals": rounded(shown),
        "ticktext": [power_text(tick) for tick in shown],
    }


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
