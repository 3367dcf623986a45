"""Predicted against measured: each matrix alone, and whole plans."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from layerlens.artifacts.compression import MatrixCurve, Measured, Probe
from layerlens.reporting.chart import Chart, log_axis, plain, rounded
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.compression.rank_correlation import spearman
from layerlens.reporting.compression.sizes import ROLES, role_color
from layerlens.reporting.markup import element, join
from layerlens.reporting.quantities import nats
from layerlens.reporting.section import Section, chart_figure

LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def predictions_section(folder: CompressedFolder) -> Section | None:
    """A chart of probes and a chart of plans; None without both."""
    found = probes(folder)
    plans = [entry for entry in folder.plan.measured if entry.predicted_loss is not None]
    charts, figures = [], []
    if found:
        charts.append(_probe_chart(folder, found))
        figures.append(chart_figure(charts[-1], _probe_caption(found), title="Each matrix alone"))
    if plans:
        charts.append(_plan_chart(folder, plans))
        caption = (
            "Each point is a whole plan of the race. A prediction adds up matrices as if each were compressed alone, anchored by "
            "the probes; points above the dashed line lost more than that."
        )
        figures.append(chart_figure(charts[-1], caption, title="Whole plans"))
    if not charts:
        return None
    drawn = [chart for chart in charts if chart.traces]
    lead = element("p", _totals(folder)) if folder.winner else None
    body = join([lead, element("div", join(figures), class_="pair") if len(figures) > 1 else figures[0]])
    return Section("predictions", "Predicted against measured", body, tuple(drawn))


def probes(folder: CompressedFolder) -> list[tuple[MatrixCurve, Probe]]:
    """Matrices that were measured alone."""
    matrices = folder.curves.matrices if folder.curves else []
    return [(curve, curve.probe) for curve in matrices if curve.probe is not None]


def probe_spearman(folder: CompressedFolder) -> float | None:
    """Rank correlation of predicted with measured loss over the probes."""
    found = [probe for _, probe in probes(folder)]
    return spearman([probe.predicted for probe in found], [probe.measured for probe in found])


def _totals(folder: CompressedFolder) -> str:
    held = folder.winner
    if held is None:
        return ""
    text = f"The folder was predicted to lose {folder.loss(folder.predicted_loss)}; measured: {nats(held.kl_nats)}"
    if folder.predicted_loss > 0:
        text += f", {held.kl_nats / folder.predicted_loss:.2f} times as much"
    # Said where the two figures stand side by side: neither is of text that the choice has not seen.
    return (
        f"{text}. The probes that anchor predictions and the race that chose among {len(folder.plan.measured)} are of the same "
        "held-out samples; layerlens evaluate measures on others."
    )


def _probe_caption(found: list[tuple[MatrixCurve, Probe]]) -> str:
    value = spearman([probe.predicted for _, probe in found], [probe.measured for _, probe in found])
    told = "no Spearman for so few or constant points" if value is None else f"Spearman {value:.3f}"
    text = (
        f"{len(found)} matrices, each compressed alone at one option: {told}. The prediction is the second-order model's, before "
        "any anchor; on the dashed line both agree."
    )
    ratios = [probe.measured / probe.predicted for _, probe in found if probe.predicted > 0 and probe.measured > 0]
    if ratios:
        text += f" Measured over predicted: median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}."
    hidden = sum(1 for _, probe in found if not _is_drawn(probe.predicted, probe.measured))
    return f"{text} {hidden} at or below zero are not drawn." if hidden else text


def _is_drawn(predicted: float, measured: float) -> bool:
    return predicted > 0 and measured > 0


def _probe_chart(folder: CompressedFolder, found: list[tuple[MatrixCurve, Probe]]) -> Chart:
    by_role: dict[str, list[tuple[MatrixCurve, Probe]]] = defaultdict(list)
    for curve, probe in found:
        if _is_drawn(probe.predicted, probe.measured):
            by_role[curve.role.value].append((curve, probe))
    points = [(probe.predicted, probe.measured) for pairs in by_role.values() for _, probe in pairs]
    traces = _diagonal(points)
    for role in sorted(by_role, key=lambda name: ROLES[name]):
        pairs = by_role[role]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": role,
                "x": rounded(probe.predicted for _, probe in pairs),
                "y": rounded(probe.measured for _, probe in pairs),
                "text": [f"{plain(curve.layer)}, {probe.scheme.name}" for curve, probe in pairs],
                "hovertemplate": f"%{{text}}<br>predicted %{{x:.3g}}, measured %{{y:.3g}} {folder.unit}<extra></extra>",
                "marker": {"color": role_color(role), "size": 8, "line": {"width": 1, "color": "@surface"}},
            }
        )
    label = f"Measured against predicted loss of {len(found)} matrices, each compressed alone"
    return Chart("chart-probes", traces, _layout(folder.whole_unit, points), 420, label)


def _plan_chart(folder: CompressedFolder, plans: list[Measured]) -> Chart:
    drawn = [(entry, entry.predicted_loss or 0.0) for entry in plans if _is_drawn(entry.predicted_loss or 0.0, entry.kl_nats)]
    points = [(predicted, entry.kl_nats) for entry, predicted in drawn]
    traces = _diagonal(points)
    chosen = folder.plan.chosen.name
    kinds: tuple[tuple[str, dict[str, Any], list[tuple[Measured, float]]], ...] = (
        ("baselines", {"color": "@uniform", "size": 9, "symbol": "square"}, [p for p in drawn if p[0].is_baseline]),
        ("candidates", {"color": "@rest", "size": 9}, [p for p in drawn if not p[0].is_baseline]),
        ("chosen", {"color": "@chosen", "size": 14, "symbol": "diamond"}, [p for p in drawn if p[0].name == chosen]),
    )
    for name, marker, pairs in kinds:
        shown = [pair for pair in pairs if name == "chosen" or pair[0].name != chosen]
        if shown:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": rounded(predicted for _, predicted in shown),
                    "y": rounded(entry.kl_nats for entry, _ in shown),
                    "text": [plain(entry.name) for entry, _ in shown],
                    "hovertemplate": f"%{{text}}<br>predicted %{{x:.3g}}, measured %{{y:.3g}} {folder.unit}<extra></extra>",
                    "marker": {**marker, "line": {"width": 1, "color": "@surface"}},
                }
            )
    label = "Measured against predicted loss of whole plans: " + "; ".join(
        f"{entry.name} {nats(predicted)} predicted, {nats(entry.kl_nats)} measured" for entry, predicted in drawn
    )
    return Chart("chart-plans", traces, _layout(folder.whole_unit, points), 420, label)


def _diagonal(points: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Where predicted and measured agree."""
    values = [value for point in points for value in point]
    if not values:
        return []
    ends = rounded([min(values), max(values)])
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "agreement",
            "x": ends,
            "y": ends,
            "hoverinfo": "skip",
            "line": {"color": "@muted", "width": 1, "dash": "dash"},
        }
    ]


def _layout(unit: str, points: list[tuple[float, float]]) -> dict[str, Any]:
    predicted, measured = [point[0] for point in points], [point[1] for point in points]
    return {
        "xaxis": log_axis(f"predicted, {unit}", predicted),
        "yaxis": log_axis(f"measured, {unit}", measured),
        "legend": LEGEND,
    }
