"""A self-contained SVG: peak memory against model size, both logarithmic, a line for each kind."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 460, 74, 150, 40, 54
COLOURS = {
    "stream": "#0b6e4f",
    "stream-bf16": "#58a55c",
    "memory": "#c8553d",
    "plain": "#555555",
    "plain-onednn": "#888888",
    "plain-bf16": "#bbbbbb",
    "opacus-ghost": "#3066be",
    "opacus-grad-sample": "#7b2d8b",
    "curvlinops": "#b8860b",
    "eva": "#119da4",
    "uni-layer": "#9a8c98",
}
#: Of one model the process may hold so many copies of the weights: lines to read the points against.
GUIDES = (1.0, 2.0)


def draw(rows: list[dict[str, Any]]) -> str:
    """Draw the rows that completed.

    Args:
        rows: With `kind`, `shape`, `weight_bytes`, `peak_bytes`, `outcome`.

    Returns:
        The picture; one without points where nothing completed.
    """
    points = [row for row in rows if row["outcome"] == "completes"]
    sizes = [row["weight_bytes"] / 1e6 for row in points] or [100.0]
    peaks = [row["peak_bytes"] / 1e6 for row in points] or [100.0]
    # At least a whole octave on each side, so that one point is a picture too.
    low_x, high_x = min(sizes) / 1.5, max(sizes) * 1.5
    low_y, high_y = min([*peaks, 400.0]) / 1.5, max([*peaks, 1000.0]) * 1.5

    def x_of(size: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(size / low_x) / math.log(high_x / low_x)

    def y_of(peak: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(peak / low_y) / math.log(high_y / low_y)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">Peak memory of the process against model size</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">weights on disk, MB</text>',
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">peak, MB</text>',
    ]
    for value in _ticks(low_x, high_x):
        parts.append(_line(x_of(value), TOP, x_of(value), HEIGHT - BOTTOM, "#e6e6e6"))
        parts.append(f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:,.0f}</text>')
    for value in _ticks(low_y, high_y):
        parts.append(_line(LEFT, y_of(value), WIDTH - RIGHT, y_of(value), "#e6e6e6"))
        parts.append(f'<text x="{LEFT - 8}" y="{y_of(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    for copies in GUIDES:
        start, stop = max(low_x, low_y / copies), min(high_x, high_y / copies)
        if start < stop:
            parts.append(_line(x_of(start), y_of(copies * start), x_of(stop), y_of(copies * stop), "#999999", dash="4 4"))
            parts.append(
                f'<text x="{x_of(stop) + 4:.1f}" y="{y_of(copies * stop) + 4:.1f}" fill="#777777">{copies:g} × weights</text>'
            )
    shown = [kind for kind in COLOURS if any(row["kind"] == kind for row in points)]
    for place, kind in enumerate(shown):
        own = sorted((row for row in points if row["kind"] == kind), key=lambda row: row["weight_bytes"])
        spots = [(x_of(row["weight_bytes"] / 1e6), y_of(row["peak_bytes"] / 1e6)) for row in own]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[kind]}" stroke-width="1.5"/>')
        drop = -7.0
        for index, (row, (x, y)) in enumerate(zip(own, spots, strict=True)):
            told = escape(f"{row['shape']}, {kind}: {row['peak_bytes'] / 1e6:.0f} MB")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[kind]}"><title>{told}</title></circle>')
            if kind == shown[0]:
                # Names of models of like size would lie on each other: they step down instead.
                drop = drop + 12 if index and x - spots[index - 1][0] < 60 else -7.0
                parts.append(f'<text x="{x + 6:.1f}" y="{y + drop:.1f}" font-size="10">{escape(row["shape"])}</text>')
        height = TOP + 12 + 18 * place
        parts.append(f'<circle cx="{WIDTH - RIGHT + 22}" cy="{height - 4}" r="4" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 32}" y="{height}">{escape(kind)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"'
        f"{f' stroke-dasharray={chr(34)}{dash}{chr(34)}' if dash else ''}/>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round values 1, 2, 5 × 10^n between two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [base * 10.0**power for power in powers for base in (1, 2, 5) if low <= base * 10.0**power <= high]
