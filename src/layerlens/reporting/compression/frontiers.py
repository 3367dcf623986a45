"""Error against bytes: all options of one matrix that the reader picks, and the best options of every matrix by role."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from layerlens.artifacts.compression import Curves, MatrixCurve, Option, PlanMatrix
from layerlens.reporting.chart import Chart, chart_box, depth_color, log_axis, plain, rounded
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.reporting.compression.one_matrix import one_matrix_chart
from layerlens.reporting.compression.picker import picker
from layerlens.reporting.compression.sizes import ROLES
from layerlens.reporting.markup import element, join
from layerlens.reporting.section import Section, figure

PANEL = "chart-frontier"


def frontiers_section(folder: CompressedFolder) -> Section | None:
    """A chart of one matrix, and small charts by role; None without curves."""
    curves = folder.curves
    if curves is None or not curves.matrices:
        return None
    by_role: dict[str, list[MatrixCurve]] = defaultdict(list)
    for curve in curves.matrices:
        by_role[curve.role.value].append(curve)
    roles = sorted(by_role, key=lambda name: ROLES[name])
    chosen = {entry.layer: entry for entry in folder.plan.layers}
    first = max(curves.matrices, key=lambda curve: _interest(curve, chosen.get(curve.layer)))
    one = one_matrix_chart(curves.matrices, chosen, folder.unit)
    axes, depths = _axes(curves, chosen, folder.unit), _depths(folder)
    panels = [_panel(number, role, by_role[role], chosen, depths, axes, folder.unit) for number, role in enumerate(roles)]
    drawn = [element("div", element("h3", role), chart_box(chart)) for role, chart in zip(roles, panels, strict=True)]
    entries = [(curve.role.value, curve.layer, curve.block) for role in roles for curve in by_role[role]]
    pick = picker(one.id, entries, first.layer)
    body = [
        figure(join([pick, chart_box(one)]), _one_caption(folder), title="Every option of one matrix"),
        figure(element("div", join(drawn), class_="multiples"), _panel_caption(chosen), title="The best options of all matrices"),
    ]
    return Section("curves", "Error against bytes", join(body), (one, *panels))


def frontier(options: list[Option]) -> list[Option]:
    """Options that no other beats in both bytes and predicted loss, cheapest first."""
    best: list[Option] = []
    for option in sorted(options, key=lambda option: (option.size_bytes, option.predicted_loss)):
        if not best or option.predicted_loss < best[-1].predicted_loss:
            best.append(option)
    return best


def _interest(curve: MatrixCurve, entry: PlanMatrix | None) -> tuple[bool, float]:
    """Matrices of blocks first, for tables have few options; then those that the plan expects to lose most by."""
    return curve.block is not None, entry.predicted_loss if entry else 0.0


def _one_caption(folder: CompressedFolder) -> str:
    return (
        f"Predicted loss in {folder.whole_unit}, anchored by the matrix's probe where it has one. A line joins widths of codes, "
        "or ranks of factors; the diamond is what the plan chose. What is kept as it is loses nothing and has no place on a "
        "logarithmic axis. Shown first: the matrix of a block that the plan expects to lose most by."
    )


def _panel_caption(chosen: dict[str, PlanMatrix]) -> str:
    text = (
        "One line per matrix: only options that no other beats in both bytes and loss. Pale lines are blocks next to the input, "
        "dark ones next to the output; a dot is the plan's choice. All panels share both axes."
    )
    kept = sum(1 for entry in chosen.values() if entry.predicted_loss <= 0)
    return f"{text} {kept} {'matrices lose' if kept > 1 else 'matrix loses'} nothing, so without a dot." if kept else text


def _depths(folder: CompressedFolder) -> dict[int | None, float]:
    """Place of each block between the input (0) and the output (1)."""
    blocks = sorted({entry.block for entry in folder.plan.layers if entry.block is not None})
    last = max(len(blocks) - 1, 1)
    return {**{block: place / last for place, block in enumerate(blocks)}, None: 1.0}


def _weights(matrix: MatrixCurve | PlanMatrix) -> int:
    return matrix.out_features * matrix.in_features


def _axes(curves: Curves, chosen: dict[str, PlanMatrix], unit: str) -> dict[str, dict[str, Any]]:
    """The same ranges for all panels."""
    best = [(curve, option) for curve in curves.matrices for option in frontier(curve.options) if option.predicted_loss > 0]
    held = [entry for entry in chosen.values() if entry.predicted_loss > 0]
    bits = [8 * option.size_bytes / _weights(curve) for curve, option in best]
    bits += [8 * entry.size_bytes / _weights(entry) for entry in held]
    losses = [*(option.predicted_loss for _, option in best), *(entry.predicted_loss for entry in held)]
    return {
        "xaxis": {"title": {"text": "bits per weight"}, "range": rounded([0, 1.04 * max(bits, default=1.0)]), "nticks": 6},
        "yaxis": log_axis(f"predicted loss, {unit}", losses),
    }


def _panel(
    number: int,
    role: str,
    curves: list[MatrixCurve],
    chosen: dict[str, PlanMatrix],
    depths: dict[int | None, float],
    axes: dict[str, dict[str, Any]],
    unit: str,
) -> Chart:
    traces: list[dict[str, Any]] = []
    for curve in curves:
        best = [option for option in frontier(curve.options) if option.predicted_loss > 0]
        color = depth_color(depths.get(curve.block, 1.0))
        shared = {
            "type": "scatter",
            "name": plain(curve.layer),
            "hovertemplate": f"%{{fullData.name}}<br>%{{text}}: %{{x:.2f}} bits, %{{y:.3g}} {unit}<extra></extra>",
        }
        traces.append(
            {
                **shared,
                "mode": "lines",
                "x": rounded(8 * option.size_bytes / _weights(curve) for option in best),
                "y": rounded(option.predicted_loss for option in best),
                "text": [option.scheme.name for option in best],
                "line": {"color": color, "width": 1.5},
            }
        )
        entry = chosen.get(curve.layer)
        if entry is not None and entry.predicted_loss > 0:
            traces.append(
                {
                    **shared,
                    "mode": "markers",
                    "x": rounded([8 * entry.size_bytes / _weights(entry)]),
                    "y": rounded([entry.predicted_loss]),
                    "text": [f"{entry.format} (chosen)"],
                    "marker": {"color": color, "size": 9, "line": {"width": 1.5, "color": "@surface"}},
                }
            )
    label = f"Predicted loss against bits per weight for the {len(curves)} matrices of role {role}"
    return Chart(f"{PANEL}-{number}", traces, {"showlegend": False, **axes}, 240, label)
