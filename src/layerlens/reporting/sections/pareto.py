"""What a larger budget would buy, on paper: predicted value against trainable parameters."""

from __future__ import annotations

import math
from typing import Any

from layerlens.artifacts.plan import UNIFORM, Plan
from layerlens.reporting.chart import Chart, plain, rounded
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section, chart_figure
from layerlens.words import BudgetName

LOG_FROM = 15.0
"""Budgets that span so many times the smallest ask for a logarithmic axis."""


def pareto_section(run: RunFolder) -> Section | None:
    """The optimum at every limit, uniform, and the candidates; None without two points to draw."""
    plan = run.plan
    if plan is None or len(plan.pareto) + len(run.candidates) < 2:
        return None
    caption = (
        "Predicted value adds up the gains of single layers, which overlap in truth: read it as an order, not as a promise. "
    )
    if plan.pareto:
        caption += "The line is the exact optimum at each limit; nothing within the budgets lies above it. "
    if run.candidates:
        caption += "Each dot is a candidate of this plan at what it spends."
    return Section(
        "pareto", "Value against budget", chart_figure(chart := _chart(plan, run.candidates), caption.strip()), (chart,)
    )


def _chart(plan: Plan, candidates: dict[str, Plan]) -> Chart:
    traces: list[dict[str, Any]] = []
    shown = "weighted value %{y:.4f}" if plan.is_weighted else "%{y:.4f} nats"
    if plan.pareto:
        limits = [point.limit for point in plan.pareto]
        traces.append(_line("optimum", shown, limits, [point.value for point in plan.pareto], "@ink", "solid", "circle"))
        uniform = {point.limit: point.uniform_value for point in plan.pareto if point.uniform_value is not None}
        if uniform:
            traces.append(_line(UNIFORM, shown, [*uniform], [*uniform.values()], "@uniform", "dot", "square"))
    rest = [made for name, made in candidates.items() if name != plan.chosen.name]
    if rest:
        marker = {"color": "@rest", "size": 9, "line": {"width": 1, "color": "@surface"}}
        traces.append(_dots("other candidates", shown, rest, marker))
    chosen = {"color": "@chosen", "size": 14, "symbol": "diamond"}
    traces.append(_dots(f"{plain(plan.chosen.name)} (chosen)", shown, [plan], chosen))
    spans = [x for trace in traces for x in trace["x"] if x > 0]
    is_log = max(spans) > LOG_FROM * min(spans)
    limit = plan.budgets[BudgetName.TRAINABLE_PARAMS].limit if BudgetName.TRAINABLE_PARAMS in plan.budgets else None
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "trainable adapter parameters"}, "type": "log" if is_log else "linear", "tickformat": "~s"},
        "yaxis": {"title": {"text": "weighted value" if plan.is_weighted else "predicted value, nats"}, "rangemode": "tozero"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    if is_log:
        layout["xaxis"]["dtick"] = "D2"
    if limit is not None:
        line = {"color": "@muted", "width": 1, "dash": "dash"}
        layout["shapes"] = [{"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper", "line": line}]
        # An annotation's place on a logarithmic axis is an exponent, a shape's is not.
        place = {"x": math.log10(limit) if is_log else limit, "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        layout["annotations"] = [{**place, "text": "the plan's limit", "showarrow": False, "font": {"color": "@muted"}}]
    return Chart(
        "chart-pareto", traces, layout, 400, "Predicted value against trainable parameters: optimum, uniform and candidates"
    )


def _line(name: str, shown: str, x: list[float], y: list[float], color: str, dash: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{name} at each limit",
        "x": rounded(x),
        "y": rounded(y),
        "hovertemplate": f"{name} at %{{x:,}} parameters: {shown}<extra></extra>",
        "line": {"color": color, "width": 2, "dash": dash},
        "marker": {"color": color, "size": 6, "symbol": symbol},
    }


def _dots(name: str, shown: str, plans: list[Plan], marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [plan.params for plan in plans],
        "y": rounded(plan.chosen.value for plan in plans),
        "text": [plain(plan.chosen.name) for plan in plans],
        "hovertemplate": f"%{{text}}<br>%{{x:,}} parameters: {shown}<extra></extra>",
        "marker": marker,
    }
