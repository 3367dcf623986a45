"""Score against what it cost: trained parameters, seconds, peak memory; one small chart each, for every cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.artifacts.bench import ArmSummary, Cell
from layerlens.reporting.bench.arms import HEAD, marker_of, ranked, score
from layerlens.reporting.chart import Chart, chart_box, log_axis, plain, rounded
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import binary_unit, count, duration, memory
from layerlens.reporting.section import figure

HEIGHT = 330
#: Costs that span so many times the smallest ask for a logarithmic axis.
_LOG_FROM = 5.0
#: Room beside the outermost dots, as a share of what they span: their numbers stand there, and Plotly cuts off what does not fit.
_BESIDE = 0.15


@dataclass(frozen=True)
class Cost:
    """What a chart's horizontal axis holds."""

    key: str
    title: str
    of: Callable[[ArmSummary], float]
    written: Callable[[float], str]


COSTS = (
    Cost("params", "trained adapter parameters", lambda arm: float(arm.trainable_params), count),
    Cost("seconds", "training seconds", lambda arm: arm.train_seconds, duration),
    Cost("memory", "peak memory while training", lambda arm: float(arm.peak_memory_bytes), memory),
)


def pareto_figure(cell: Cell, number: int) -> tuple[Markup, tuple[Chart, ...]]:
    """The three charts of a cell.

    Args:
        cell: Which.
        number: Its place, for the charts' names.

    Returns:
        The figure, and its charts; costs that were not measured have none.
    """
    charts = [(cost, chart) for cost in COSTS if (chart := _chart(cell, cost, number)) is not None]
    better = "Lower" if cell.is_lower_better else "Higher"
    caption = (
        f"{better} and further left is better; numbers are rows of the table, bars the 95 % interval of the mean over seeds, cut "
        "off where it leaves the chart. The line joins what nothing else beats in both. Diamond: LayerLens (open: its variants); "
        "square: uniform; triangle: full fine-tuning."
    )
    if cell.arm(HEAD) is not None:
        caption += " The dashed line is the head alone, which has no adapter parameters."
    boxes = join(element("div", element("h3", f"Against {cost.title}"), chart_box(chart)) for cost, chart in charts)
    return figure(element("div", boxes, class_="multiples"), caption), tuple(chart for _, chart in charts)


def undominated(arms: Sequence[ArmSummary], cost: Cost, *, is_lower_better: bool) -> list[ArmSummary]:
    """What nothing else beats in both cost and score, cheapest first."""
    best: list[ArmSummary] = []
    sign = 1.0 if is_lower_better else -1.0
    for arm in sorted(arms, key=lambda arm: (cost.of(arm), sign * arm.mean)):
        if not best or sign * arm.mean < sign * best[-1].mean:
            best.append(arm)
    return best


def _chart(cell: Cell, cost: Cost, number: int) -> Chart | None:
    order = [(place, arm) for place, arm in enumerate(ranked(cell), 1) if cost.of(arm) > 0]
    if not order:
        return None
    factor, unit = (1.0, "")
    if cost.key == "memory":
        factor, unit = binary_unit(max(cost.of(arm) for _, arm in order))
    best = undominated([arm for _, arm in order], cost, is_lower_better=cell.is_lower_better)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": rounded(cost.of(arm) / factor for arm in best),
            "y": rounded(arm.mean for arm in best),
            "hoverinfo": "skip",
            "line": {"color": "@faint", "width": 1.5, "shape": "hv"},
        }
    ]
    traces += [_dot(cell, arm, place, cost, factor) for place, arm in order]
    values = [cost.of(arm) / factor for _, arm in order]
    title = f"{cost.title}, {unit}" if unit else cost.title
    is_log = max(values) > _LOG_FROM * min(values)
    layout: dict[str, Any] = {
        "showlegend": False,
        "xaxis": log_axis(title, values, margin=_BESIDE) if is_log else _from_zero(title, max(values)),
        "yaxis": {"title": {"text": plain(cell.metric.replace("_", " "))}, **_reach(cell)},
    }
    head = cell.arm(HEAD)
    if cost.key == "params" and head is not None:
        line = {"color": "@muted", "width": 1, "dash": "dash"}
        layout["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": head.mean, "y1": head.mean, "line": line}]
    label = f"{cell.metric} against {cost.title}: " + "; ".join(
        f"{arm.arm} {score(arm.mean)} at {cost.written(cost.of(arm))}" for _, arm in order
    )
    return Chart(f"chart-{cost.key}-{number}", traces, layout, HEIGHT, label)


def _from_zero(title: str, largest: float) -> dict[str, Any]:
    return {"title": {"text": title}, "range": rounded([0.0, (1 + _BESIDE) * largest])}


def _reach(cell: Cell) -> dict[str, Any]:
    """The vertical range: no interval stretches it by more than what the means differ by, or the dots could not be told apart."""
    means = [arm.mean for arm in cell.arms]
    span = max(means) - min(means)
    if span == 0:
        return {}
    ends = [(arm.mean, min(_half(arm), span)) for arm in cell.arms]
    margin = 0.08 * span
    return {
        "range": rounded([min(mean - half for mean, half in ends) - margin, max(mean + half for mean, half in ends) + margin])
    }


def _half(arm: ArmSummary) -> float:
    return 0.0 if arm.interval is None else (arm.interval[1] - arm.interval[0]) / 2


def _dot(cell: Cell, arm: ArmSummary, place: int, cost: Cost, factor: float) -> dict[str, Any]:
    shown = [plain(arm.arm), cost.written(cost.of(arm)), f"{plain(cell.metric)} {score(arm.mean)}"]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "name": plain(arm.arm),
        "x": rounded([cost.of(arm) / factor]),
        "y": rounded([arm.mean]),
        "text": [str(place)],
        # Neighbours in rank often lie close together.
        "textposition": "middle right" if place % 2 else "middle left",
        "hovertemplate": f"{'<br>'.join(shown)}<extra></extra>",
        "marker": marker_of(arm.arm),
    }
    if arm.interval is not None:
        trace["error_y"] = {
            "type": "constant",
            "value": float(f"{_half(arm):.5g}"),
            "color": "@faint",
            "thickness": 1,
            "width": 3,
        }
    return trace
