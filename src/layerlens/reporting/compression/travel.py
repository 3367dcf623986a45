"""How errors travel: the hidden state's error after each block, beside the claim that errors average out as ε/√N."""

from __future__ import annotations

from statistics import median
from typing import Any

from layerlens.artifacts.compression import MatrixCurve, Probe
from layerlens.artifacts.compression_evaluation import ErrorTravel
from layerlens.reporting.chart import Chart, depth_color, plain, rounded
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.compression.predictions import LEGEND, probes
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.section import Section, chart_figure

#: The predecessor's claim: error after N blocks = ε · N^k.
CLAIMED_EXPONENT = -0.5


def travel_section(folder: CompressedFolder) -> Section | None:
    """A chart of single matrices and a chart of all together; None where no course of errors is known."""
    travel = folder.evaluation.travel if folder.evaluation else None
    courses = [(curve, probe) for curve, probe in probes(folder) if _is_course(probe.error_after_blocks)]
    together = travel.error_after_blocks if travel else []
    charts: list[Chart] = []
    figures: list[Markup] = []
    if courses:
        charts.append(_alone_chart(courses))
        figures.append(chart_figure(charts[-1], _alone_caption(courses, travel), title="One matrix compressed"))
    if _is_course(together):
        charts.append(_together_chart(together))
        figures.append(chart_figure(charts[-1], _together_caption(together, travel), title="All compressed"))
    if not charts:
        return None
    lead = element("p", f"{travel.summary[:1].upper()}{travel.summary[1:]}.") if travel else None
    body = join([lead, element("div", join(figures), class_="pair") if len(figures) > 1 else figures[0]])
    return Section("travel", "How errors travel", body, tuple(charts))


def _is_course(errors: list[float]) -> bool:
    return len(errors) > 1 and min(errors) > 0


def _claim(blocks: int) -> list[float]:
    return [float(number**CLAIMED_EXPONENT) for number in range(1, blocks + 1)]


def _alone_chart(courses: list[tuple[MatrixCurve, Probe]]) -> Chart:
    longest = max(len(probe.error_after_blocks) for _, probe in courses)
    deepest = max((curve.block or 0 for curve, _ in courses), default=0) or 1
    traces: list[dict[str, Any]] = []
    for curve, probe in courses:
        first = probe.error_after_blocks[0]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(curve.layer),
                "showlegend": False,
                "x0": 1,
                "dx": 1,
                "y": rounded(error / first for error in probe.error_after_blocks),
                "customdata": rounded(probe.error_after_blocks),
                "hovertemplate": "%{fullData.name}<br>%{x} blocks on: %{y:.3g} of the first, %{customdata:.3g}<extra></extra>",
                "line": {"color": depth_color((curve.block or 0) / deepest), "width": 1},
                "opacity": 0.6,
            }
        )
    traces.append(_line("median of the matrices", _medians(courses, longest), "@ink", "solid", 3))
    traces.append(_line("claimed: ε/√N", _claim(longest), "@uniform", "dash", 2.5))
    layout = {
        "xaxis": {"title": {"text": "blocks from the matrix's own on, N"}, "nticks": 8},
        "yaxis": {"title": {"text": "error over that after its own block"}, "rangemode": "tozero"},
        "legend": LEGEND,
    }
    label = f"Hidden-state error of {len(courses)} matrices, each compressed alone, over the blocks behind it"
    return Chart("chart-alone", traces, layout, 400, label)


def _medians(courses: list[tuple[MatrixCurve, Probe]], longest: int) -> list[float]:
    """Median over the matrices that have so many blocks behind them."""
    ratios = [[error / probe.error_after_blocks[0] for error in probe.error_after_blocks] for _, probe in courses]
    return [median(course[at] for course in ratios if len(course) > at) for at in range(longest)]


def _together_chart(errors: list[float]) -> Chart:
    traces = [
        {
            **_line("measured", errors, "@chosen", "solid", 2.5),
            "mode": "lines+markers",
            "marker": {"color": "@chosen", "size": 7},
        },
        _line("claimed: ε/√N", [errors[0] * factor for factor in _claim(len(errors))], "@uniform", "dash", 2.5),
    ]
    layout = {
        "xaxis": {"title": {"text": "blocks passed, N"}, "nticks": 8},
        "yaxis": {"title": {"text": "relative error of the hidden state"}, "rangemode": "tozero"},
        "legend": LEGEND,
    }
    ends = f"from {errors[0]:.3g} to {errors[-1]:.3g}"
    label = f"Hidden-state error after each of {len(errors)} blocks with all matrices compressed, {ends}"
    return Chart("chart-together", traces, layout, 400, label)


def _line(name: str, values: list[float], color: str, dash: str, width: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x0": 1,
        "dx": 1,
        "y": rounded(values),
        "hovertemplate": f"{name}, after %{{x}} blocks: %{{y:.3g}}<extra></extra>",
        "line": {"color": color, "width": width, "dash": dash},
    }


def _alone_caption(courses: list[tuple[MatrixCurve, Probe]], travel: ErrorTravel | None) -> str:
    text = (
        f"A thin line is one of {len(courses)} matrices compressed alone: relative error of the hidden state after its own block "
        "and every later one, over the first. Pale lines start next to the input."
    )
    fit = travel.alone if travel else None
    return text if fit is None else f"{text} Fitted: N^{fit.exponent:+.2f}; claimed: N^{CLAIMED_EXPONENT:+.2f}."


def _together_caption(errors: list[float], travel: ErrorTravel | None) -> str:
    text = (
        f"Every block adds its own error: {errors[0]:.3g} after the first block, {errors[-1]:.3g} after the last. The dashed "
        "line is what the first block's error would become if errors averaged out."
    )
    fit = travel.together if travel else None
    return text if fit is None else f"{text} Fitted: N^{fit.exponent:+.2f}; claimed: N^{CLAIMED_EXPONENT:+.2f}."
