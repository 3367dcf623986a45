"""What was measured on held-out samples: divergence against size, every candidate and every baseline."""

from __future__ import annotations

from typing import Any

from layerlens.artifacts.compression import Measured
from layerlens.reporting.chart import Chart, log_axis, plain, rounded
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import binary_unit, memory, nats
from layerlens.reporting.section import Cell, Column, Section, chart_figure, figure, table
from layerlens.reporting.sections.provenance import fact_list
from layerlens.words import BudgetName

#: Sizes that differ by less than this share are spread no wider over the axis.
NARROWEST = 0.1


def pareto_section(folder: CompressedFolder) -> Section | None:
    """Chart and table; None where nothing was measured."""
    if not folder.plan.measured:
        return None
    chart = _chart(folder)
    below = sum(1 for entry in folder.plan.measured if entry.kl_nats <= 0)
    caption = (
        "Lower and further left is better; numbers are rows of the table below. The line joins what nothing else beats in both. "
        f"The divergence is from the checkpoint's own {'embeddings' if folder.is_embedding else 'predictions'}, on samples that "
        "calibration did not see."
    )
    if below and len(folder.plan.measured) > below:
        caption += f" {below} measured at zero or below and have no place on a logarithmic axis."
    body = [
        chart_figure(chart, caption, title="Measured divergence against size"),
        figure(
            _table(folder), f"Divergence in {folder.whole_unit}, best first. Tinted: what the folder holds.", title="All that ran"
        ),
        _absent(folder),
    ]
    return Section("pareto", "Quality against size", join(body), (chart,))


def undominated(measured: list[Measured]) -> list[Measured]:
    """What nothing else beats in both size and divergence, smallest first."""
    best: list[Measured] = []
    for entry in sorted(measured, key=lambda entry: (entry.size_bytes, entry.kl_nats)):
        if not best or entry.kl_nats < best[-1].kl_nats:
            best.append(entry)
    return best


def ranked(folder: CompressedFolder) -> list[Measured]:
    """Best first; what the folder holds before others that measured the same."""
    return sorted(folder.plan.measured, key=lambda entry: (entry.kl_nats, entry.name != folder.plan.chosen.name))


def _chart(folder: CompressedFolder) -> Chart:
    plan, order = folder.plan, ranked(folder)
    factor, unit = binary_unit(max(entry.size_bytes for entry in order))
    units = unit, folder.unit
    is_log = any(entry.kl_nats > 0 for entry in order)
    shown = [(number, entry) for number, entry in enumerate(order, 1) if entry.kl_nats > 0 or not is_log]
    best = undominated([entry for _, entry in shown])
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best at each size",
            "x": rounded(entry.size_bytes / factor for entry in best),
            "y": rounded(entry.kl_nats for entry in best),
            "hoverinfo": "skip",
            "line": {"color": "@faint", "width": 1.5, "shape": "hv"},
        }
    ]
    kinds: list[tuple[str, str, str, list[tuple[int, Measured]]]] = [
        ("baselines", "@uniform", "square", [pair for pair in shown if pair[1].is_baseline]),
        ("LayerLens's candidates", "@rest", "circle", [pair for pair in shown if not pair[1].is_baseline]),
    ]
    for name, color, symbol, pairs in kinds:
        rest = [pair for pair in pairs if pair[1].name != plan.chosen.name]
        if rest:
            traces.append(_dots(name, rest, factor, units, {"color": color, "size": 10, "symbol": symbol}))
    won = [pair for pair in shown if pair[1].name == plan.chosen.name]
    if won:
        kind = "chosen, a baseline" if won[0][1].is_baseline else "chosen"
        traces.append(_dots(kind, won, factor, units, {"color": "@chosen", "size": 15, "symbol": "diamond"}))
    title = f"measured {folder.measure}, {folder.whole_unit}"
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": f"all tensors, {unit}"}, "range": _range([entry.size_bytes / factor for _, entry in shown])},
        "yaxis": log_axis(title, [entry.kl_nats for _, entry in shown]) if is_log else {"title": {"text": title}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    budget = plan.budgets.get(BudgetName.SIZE_BYTES)
    if budget is not None and budget.limit is not None:
        line, x = {"color": "@muted", "width": 1, "dash": "dash"}, budget.limit / factor
        low, high = layout["xaxis"]["range"]
        layout["xaxis"]["range"] = rounded([min(low, 0.99 * x), max(high, 1.01 * x)])
        layout["shapes"] = [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}]
        place = {"x": x, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top"}
        layout["annotations"] = [{**place, "text": " limit", "showarrow": False, "font": {"color": "@muted"}}]
    label = "Measured divergence against size: " + "; ".join(
        f"{entry.name} {memory(entry.size_bytes)} {nats(entry.kl_nats)}" for entry in order
    )
    return Chart("chart-quality", traces, layout, 440, label)


def _range(sizes: list[float]) -> list[float]:
    low, high = min(sizes), max(sizes)
    middle, half = (low + high) / 2, max(0.55 * (high - low), NARROWEST / 2 * high)
    return rounded([max(0.0, middle - half), middle + half])


def _dots(
    name: str, pairs: list[tuple[int, Measured]], factor: int, units: tuple[str, str], marker: dict[str, Any]
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "x": rounded(entry.size_bytes / factor for _, entry in pairs),
        "y": rounded(entry.kl_nats for _, entry in pairs),
        "text": [str(number) for number, _ in pairs],
        # Neighbours in rank often lie close together.
        "textposition": ["middle right" if number % 2 else "middle left" for number, _ in pairs],
        "customdata": [plain(entry.name) for _, entry in pairs],
        "hovertemplate": f"%{{customdata}}<br>%{{x:.4g}} {units[0]}, %{{y:.3g}} {units[1]}<extra></extra>",
        "marker": {**marker, "line": {"width": 1, "color": "@surface"}},
    }


def _table(folder: CompressedFolder) -> Markup:
    order = ranked(folder)
    columns = [
        Column("Name"),
        Column("No.", is_number=True),
        Column("What"),
        Column("Size", is_number=True),
        Column("Bits per weight", is_number=True),
        Column(f"Predicted, {folder.unit}", is_number=True),
        Column(f"Measured {folder.measure}, {folder.unit}", is_number=True),
        Column("Against the chosen", is_number=True),
    ]
    held = folder.winner
    rows: list[list[Cell | str]] = [
        [
            Cell(entry.name),
            Cell(str(number), number),
            _kind(folder, entry),
            Cell(memory(entry.size_bytes), entry.size_bytes),
            Cell(f"{entry.bits_per_weight:.3f}", entry.bits_per_weight),
            "–" if entry.predicted_loss is None else Cell(nats(entry.predicted_loss), entry.predicted_loss),
            Cell(nats(entry.kl_nats), entry.kl_nats),
            Cell(_against(entry, held), entry.kl_nats),
        ]
        for number, entry in enumerate(order, 1)
    ]
    chosen = folder.plan.chosen.name
    return table(
        "Candidates and baselines", columns, rows, highlighted=[entry.name == chosen for entry in order], is_sortable=True
    )


def _kind(folder: CompressedFolder, entry: Measured) -> str:
    if entry.name in folder.only_measured:
        return "baseline, only measured"
    return "baseline" if entry.is_baseline else "candidate"


def _absent(folder: CompressedFolder) -> Markup | None:
    """Who did not race, and who raced out of competition."""
    told: list[tuple[str, Markup | str]] = [
        (name, f"measured, but not to be written: {reason}") for name, reason in folder.only_measured.items()
    ]
    told += [(name, f"left out: {reason}") for name, reason in folder.left_out.items()]
    return join([element("h3", "Left out of the race, or of the choice"), fact_list(told)]) if told else None


def _against(entry: Measured, held: Measured | None) -> str:
    if held is None or entry.name == held.name or held.kl_nats <= 0:
        return "–"
    return f"{entry.kl_nats / held.kl_nats:.2f} ×"
