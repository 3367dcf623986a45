"""All options of one matrix, family by family; the chart holds every matrix and the page's script shows the one picked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from layerlens.artifacts.compression import MatrixCurve, Option, PlanMatrix, Rounding
from layerlens.artifacts.formats import Format
from layerlens.reporting.chart import Chart, log_axis, rounded
from layerlens.reporting.quantities import binary_unit, memory, nats

DASHES = {16: "solid", 8: "dash", 4: "dot"}
SYMBOLS = {16: "square", 8: "circle-open", 4: "triangle-up-open"}
COLORS = {Format.HALF: "@muted", Format.INTEGER: "@ink", Format.LOW_RANK: "@other1", Format.INTEGER_LOW_RANK: "@uniform"}
#: Roundings that only serve as baselines.
PLAIN = (Rounding.NEAREST, Rounding.PLAIN)


def one_matrix_chart(curves: Sequence[MatrixCurve], chosen: dict[str, PlanMatrix], loss_unit: str = "nats") -> Chart:
    """The chart, with every trace bearing its layer as `meta`."""
    factor, unit = binary_unit(median(max(option.size_bytes for option in curve.options) for curve in curves if curve.options))
    traces: list[dict[str, Any]] = []
    for curve in curves:
        traces += _families(curve, factor, unit, loss_unit)
        entry = chosen.get(curve.layer)
        if entry is not None and entry.predicted_loss > 0:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": "chosen",
                    "meta": curve.layer,
                    "x": rounded([entry.size_bytes / factor]),
                    "y": rounded([entry.predicted_loss]),
                    "text": [f"{entry.format}, {memory(entry.size_bytes)}"],
                    "hovertemplate": f"chosen: %{{text}}<br>%{{y:.3g}} {loss_unit}<extra></extra>",
                    "marker": {"color": "@chosen", "size": 15, "symbol": "diamond", "line": {"width": 2, "color": "@surface"}},
                }
            )
    axis = log_axis(f"predicted loss, {loss_unit}", [option.predicted_loss for curve in curves for option in curve.options])
    del axis["range"]  # the one picked fills the chart
    layout = {
        "xaxis": {"title": {"text": f"stored matrix, {unit}"}, "rangemode": "tozero"},
        "yaxis": axis,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    label = "Predicted loss against bytes for every option of the matrix that is picked, with the plan's choice"
    return Chart("chart-matrix", traces, layout, 460, label)


def _families(curve: MatrixCurve, factor: int, unit: str, loss_unit: str) -> list[dict[str, Any]]:
    """A line for each family; corrections of codes are a line for each width, under one name."""
    lines: dict[tuple[str, int], list[Option]] = defaultdict(list)
    for option in sorted(curve.options, key=lambda option: option.size_bytes):
        if option.predicted_loss > 0:
            is_corrected = option.scheme.format is Format.INTEGER_LOW_RANK
            lines[_name(option), option.scheme.bits if is_corrected else 0].append(option)
    names: set[str] = set()
    traces = []
    for (name, _), options in lines.items():
        first = options[0]
        is_plain = first.rounding in PLAIN
        color = "@rest" if is_plain else COLORS.get(first.scheme.format, "@muted")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(options) > 1 else "markers",
                "name": name,
                "legendgroup": name,
                "showlegend": name not in names,
                "meta": curve.layer,
                "x": rounded(option.size_bytes / factor for option in options),
                "y": rounded(option.predicted_loss for option in options),
                "text": [f"{option.scheme.name}, output error {nats(option.output_error)}" for option in options],
                "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {unit}, %{{y:.3g}} {loss_unit}<extra></extra>",
                "line": {"color": color, "width": 1.5, "dash": DASHES.get(first.scheme.factor_bits, "solid")},
                "marker": {"color": color, "size": 6, "symbol": SYMBOLS.get(first.scheme.factor_bits, "circle")},
            }
        )
        names.add(name)
    return traces


def _name(option: Option) -> str:
    scheme = option.scheme
    how = f", {option.rounding}" if option.rounding in PLAIN else ""
    match scheme.format:
        case Format.INTEGER:
            return f"integer{how}"
        case Format.LOW_RANK:
            return f"low-rank, {scheme.factor_bits}-bit factors{how}"
        case Format.INTEGER_LOW_RANK:
            return f"integer + low-rank, {scheme.factor_bits}-bit factors{how}"
        case _:
            return str(scheme.format)
