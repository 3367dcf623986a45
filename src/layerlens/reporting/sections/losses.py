"""Training loss of every arm as it was logged."""

from __future__ import annotations

from typing import Any

from layerlens.reporting.arms import ArmKind, group_arms
from layerlens.reporting.chart import Chart, plain, rounded
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section, chart_figure
from layerlens.reporting.sections.results import arm_colors

DASHES = {ArmKind.LAYERLENS: "solid", ArmKind.UNIFORM: "dot", ArmKind.FULL: "dash", ArmKind.OTHER: "solid"}


def losses_section(run: RunFolder) -> Section | None:
    """One line per arm and seed; None where no curve was kept."""
    if run.evaluation is None:
        return None
    groups = group_arms(run.evaluation)
    traces: list[dict[str, Any]] = []
    for group, color in zip(groups, arm_colors(groups), strict=True):
        curves = [arm for arm in group.arms if arm.loss_curve]
        for number, arm in enumerate(curves):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(arm.loss_curve) > 1 else "markers",
                    "name": plain(group.name),
                    "legendgroup": plain(group.name),
                    "showlegend": number == 0,
                    "x": [point.step for point in arm.loss_curve],
                    "y": rounded(point.loss for point in arm.loss_curve),
                    "text": f"seed {arm.seed}",
                    "hovertemplate": "%{fullData.name}, %{fullData.text}<br>step %{x}: %{y:.4f} nats<extra></extra>",
                    "opacity": 1.0 if len(curves) == 1 else 0.75,
                    "line": {"color": color, "width": 2 if group.kind is ArmKind.LAYERLENS else 1.5, "dash": DASHES[group.kind]},
                    "marker": {"color": color},
                }
            )
    if not traces:
        return None
    layout = {
        "xaxis": {"title": {"text": "training step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "training loss, nats"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    }
    chart = Chart("chart-losses", traces, layout, 380, "Training loss of each arm against training steps")
    caption = (
        "The loss as logged while training, one line per seed, not smoothed. Quality is measured in the results above, not here."
    )
    return Section("losses", "Training loss", chart_figure(chart, caption), (chart,))
