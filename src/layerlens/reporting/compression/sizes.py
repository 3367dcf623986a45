"""Where the bytes lie: stacked bars by block and role, before beside after, and the sums of each role."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from layerlens.artifacts.compression import PlanMatrix
from layerlens.reporting.chart import Chart, rounded
from layerlens.reporting.compression.folder import CompressedFolder, bits_per_weight
from layerlens.reporting.markup import Markup, join
from layerlens.reporting.quantities import binary_unit, count, memory, nats, percent
from layerlens.reporting.section import Cell, Column, Section, chart_figure, figure, table
from layerlens.words import Role

#: What is never compressed: norms, biases, small tables.
REST = "rest"

ROLES = {role.value: order for order, role in enumerate(Role)}


def role_color(role: str) -> str:
    """The colour of a role in every chart of the page."""
    return f"@role-{role.replace('.', '-').replace('_', '-')}" if role in ROLES else "@rest"


def sizes_section(folder: CompressedFolder) -> Section:
    """Bars and table."""
    plan = folder.plan
    chart = _chart(folder)
    caption = (
        "Of each pair of bars the pale one is the checkpoint, the full one the compressed folder. "
        "What lies outside the blocks stands beside them; “rest” is what is never compressed: norms, biases, small tables."
    )
    if not folder.has_exact_sizes:
        caption += " Without curves here, the bytes before are the checkpoint's mean over all matrices."
    total = f"All tensors: {memory(plan.model.size_bytes)} before, {memory(plan.size_bytes)} after."
    body = [
        chart_figure(chart, caption, title="Bytes by block and role"),
        figure(_table(folder), f"{total} Press a column's head to sort by it.", title="Bytes by role"),
    ]
    return Section("sizes", "Where the bytes are", join(body), (chart,))


def _chart(folder: CompressedFolder) -> Chart:
    plan = folder.plan
    sums: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for entry in plan.layers:
        cell = sums[entry.role.value][_place(entry)]
        cell[0] += folder.bytes_before[entry.layer]
        cell[1] += entry.size_bytes
    if plan.model.other_bytes:
        sums[REST][REST] = [plan.model.other_bytes] * 2
    places = _places(plan.layers, has_rest=bool(plan.model.other_bytes))
    heights = [sum(cells.get(place, [0, 0])[when] for cells in sums.values()) for place in places for when in (0, 1)]
    factor, unit = binary_unit(max(heights))
    traces: list[dict[str, Any]] = []
    for when, words in enumerate(("before", "after")):
        base = dict.fromkeys(places, 0)
        for role in sorted(sums, key=lambda name: ROLES.get(name, len(ROLES))):
            found = [place for place in places if sums[role].get(place, [0, 0])[when]]
            traces.append(
                {
                    "type": "bar",
                    "name": role,
                    "legendgroup": role,
                    "showlegend": bool(when),
                    "offsetgroup": words,
                    "x": found,
                    "y": rounded(sums[role][place][when] / factor for place in found),
                    "base": rounded(base[place] / factor for place in found),
                    "text": [memory(sums[role][place][when]) for place in found],
                    "textposition": "none",
                    "hovertemplate": f"{role}, {words}, %{{x}}: %{{text}}<extra></extra>",
                    "marker": {"color": role_color(role), "opacity": 1 if when else 0.35},
                }
            )
            for place in found:
                base[place] += sums[role][place][when]
    layout = {
        "barmode": "group",
        "bargap": 0.25,
        "bargroupgap": 0.05,
        "xaxis": {"type": "category", "categoryorder": "array", "categoryarray": places, "showgrid": False},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
    }
    label = f"Bytes of each block by role, {memory(plan.model.size_bytes)} before and {memory(plan.size_bytes)} after"
    return Chart("chart-sizes", traces, layout, 420, label)


def _place(entry: PlanMatrix) -> str:
    return entry.role.value if entry.block is None else str(entry.block)


def _places(layers: list[PlanMatrix], *, has_rest: bool) -> list[str]:
    """Embeddings, the blocks, whatever else lies outside them, the rest."""
    blocks = [str(block) for block in sorted({entry.block for entry in layers if entry.block is not None})]
    outside = list(dict.fromkeys(entry.role.value for entry in layers if entry.block is None))
    first = [name for name in outside if name == Role.EMBEDDING]
    return [*first, *blocks, *(name for name in outside if name != Role.EMBEDDING), *([REST] if has_rest else [])]


def _table(folder: CompressedFolder) -> Markup:
    plan = folder.plan
    columns = [
        Column("Role"),
        Column("Matrices", is_number=True),
        Column("Weights", is_number=True),
        Column("Before", is_number=True),
        Column("After", is_number=True),
        Column("Bits per weight", is_number=True),
        Column("Share of the folder", is_number=True),
        Column(f"Predicted loss, {folder.unit}", is_number=True),
    ]
    by_role: dict[str, list[PlanMatrix]] = defaultdict(list)
    for entry in plan.layers:
        by_role[entry.role.value].append(entry)
    rows: list[list[Cell | str]] = []
    for role in sorted(by_role, key=lambda name: ROLES[name]):
        entries = by_role[role]
        before = sum(folder.bytes_before[entry.layer] for entry in entries)
        after, loss = sum(entry.size_bytes for entry in entries), sum(entry.predicted_loss for entry in entries)
        weights = sum(entry.out_features * entry.in_features for entry in entries)
        rows.append(
            [
                Cell(role),
                Cell(count(len(entries)), len(entries)),
                Cell(count(weights), weights),
                Cell(memory(before), before),
                Cell(memory(after), after),
                Cell(f"{bits_per_weight(entries):.2f}", bits_per_weight(entries)),
                Cell(percent(after / plan.size_bytes), after),
                Cell(nats(loss), loss),
            ]
        )
    if rest := plan.model.other_bytes:
        share = percent(rest / plan.size_bytes)
        rows.append(
            [Cell(REST), "–", "–", Cell(memory(rest), rest), Cell(memory(rest), rest), "–", Cell(share, rest), Cell("0", 0)]
        )
    return table("Bytes by role", columns, rows, is_sortable=True)
