"""The measured arms beside each other: a dot for every seed, and the table."""

from __future__ import annotations

from layerlens.artifacts.evaluation import Evaluation, is_lower_better
from layerlens.reporting.arms import ArmGroup, ArmKind, group_arms, metric_names
from layerlens.reporting.chart import Chart, plain, rounded
from layerlens.reporting.markup import Markup, join
from layerlens.reporting.quantities import NO_BREAK, count, duration, memory, score
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Cell, Column, Section, chart_figure, figure, table

PERCENT = f"{NO_BREAK}%"


def results_section(run: RunFolder) -> Section | None:
    """Every arm with its metrics, parameters, seconds and memory; None without an evaluation."""
    evaluation = run.evaluation
    if evaluation is None or not evaluation.arms:
        return None
    groups = group_arms(evaluation)
    chart = _dots(evaluation, groups)
    better = "lower" if is_lower_better(evaluation.primary_metric) else "higher"
    caption = (
        f"A dot is one seed, the upright stroke the mean; {better} is better, and the axis does not start at zero. Scored on "
        f"{evaluation.eval_samples:,} evaluation samples that no arm was trained or chosen on."
    )
    body = [
        chart_figure(chart, caption, title=_label(evaluation.primary_metric)) if chart else None,
        figure(_table(evaluation, groups), _table_caption(groups), title="All measurements"),
    ]
    return Section("results", "Measured results", join(body), (chart,) if chart else ())


def arm_colors(groups: list[ArmGroup]) -> list[str]:
    """The colour token of each arm; arms without a meaning of their own share a few."""
    others = iter(range(len(groups)))
    return [f"@other{next(others) % 3}" if group.kind is ArmKind.OTHER else f"@{group.kind}" for group in groups]


def _dots(evaluation: Evaluation, groups: list[ArmGroup]) -> Chart | None:
    metric = evaluation.primary_metric
    factor, unit = (100.0, PERCENT) if metric == "accuracy" else (1.0, "")
    scored = [(group, color) for group, color in zip(groups, arm_colors(groups), strict=True) if group.values(metric)]
    if not scored:
        return None
    traces = []
    for group, color in reversed(scored):
        values, name = group.values(metric), plain(group.name)
        seeds = [f"seed {arm.seed}" for arm in group.arms if metric in arm.metrics]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded(factor * value for value in values),
                "y": [name] * len(values),
                "text": seeds,
                "hovertemplate": "%{y}, %{text}: %{x}<extra></extra>",
                "marker": {"color": color, "size": 9, "opacity": 0.75},
            }
        )
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": rounded([factor * sum(values) / len(values)]),
                "y": [name],
                "hovertemplate": "%{y}, mean: %{x}<extra></extra>",
                "marker": {"color": color, "size": 22, "symbol": "line-ns", "line": {"width": 3, "color": color}},
            }
        )
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": plain(_label(metric))}, "ticksuffix": unit},
        "yaxis": {"type": "category", "automargin": True, "showgrid": True},
    }
    label = f"{metric} of each arm: " + "; ".join(
        f"{group.name} {score(metric, group.mean(metric) or 0.0)}" for group, _ in scored
    )
    return Chart("chart-results", traces, layout, 90 + 40 * len(scored), label)


def _table(evaluation: Evaluation, groups: list[ArmGroup]) -> Markup:
    metrics = metric_names(evaluation)
    heads = [
        *(_label(metric) for metric in metrics),
        "Trained parameters",
        "Head",
        "Training",
        "Peak memory",
        "Learning rate",
        "Steps",
        "Seeds",
    ]
    columns = [Column("Arm"), *(Column(head, is_number=True) for head in heads)]
    rows: list[list[Cell | str]] = []
    for group in groups:
        first = group.arms[0]
        rows.append(
            [
                Cell(group.name),
                *(_scored(group, metric) for metric in metrics),
                count(first.trainable_params),
                count(first.head_params),
                duration(group.train_seconds) if group.train_seconds else "–",
                memory(group.peak_memory_bytes) if group.peak_memory_bytes else "–",
                "–" if first.learning_rate is None else f"{first.learning_rate:g}".replace("e-0", "e-"),
                "–" if first.steps is None else count(first.steps),
                ", ".join(str(seed) for seed in group.seeds),
            ]
        )
    return table("Measured results", columns, rows, highlighted=[group.kind is ArmKind.LAYERLENS for group in groups])


def _scored(group: ArmGroup, metric: str) -> str:
    mean, deviation = group.mean(metric), group.deviation(metric)
    if mean is None:
        return "–"
    shown = score(metric, mean)
    if deviation is None:
        return shown
    return f"{shown.removesuffix(PERCENT)} ± {score(metric, deviation)}"


def _table_caption(groups: list[ArmGroup]) -> str:
    text = "Loss in nats. Seconds are means over seeds, memory the highest of any seed. The head is counted apart."
    if any(len(group.arms) > 1 for group in groups):
        return f"Mean ± standard deviation over seeds. {text}"
    return f"One seed per arm: there is no spread to show. {text}"


def _label(metric: str) -> str:
    words = metric.replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}"
