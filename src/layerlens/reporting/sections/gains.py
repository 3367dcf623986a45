"""Gain curves, small multiples by role on one scale, with the chosen rank on each."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

import numpy as np

from layerlens.artifacts.profile import LayerProfile, Profile
from layerlens.reporting.chart import Chart, chart_box, depth_color, plain, rounded
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section, figure

LOG_FROM = 20.0
"""A largest gain of so many times the median asks for a logarithmic axis."""


def gains_section(run: RunFolder) -> Section | None:
    """One small chart per role; None without a profile."""
    profile = run.profile
    if profile is None:
        return None
    curves = {layer.layer: run.arrays[f"gain/{layer.layer}"] for layer in profile.layers}
    tops = [float(curve[-1]) for curve in curves.values() if curve.size and curve[-1] > 0]
    if not tops:
        text = "No layer gains anything at any rank on held-out samples: the profile sees no signal to spend a budget on."
        return Section("gains", "Gain curves", element("p", text))
    is_log = max(tops) > LOG_FROM * median(tops)
    by_role: dict[str, list[LayerProfile]] = defaultdict(list)
    for layer in profile.layers:
        by_role[layer.role.value].append(layer)
    ranks = run.plan.ranks if run.plan else {}
    axis = _value_axis(tops, is_log=is_log)
    charts = [
        _chart(f"chart-gain-{number}", role, layers, curves, ranks, axis, _depths(profile), is_log=is_log)
        for number, (role, layers) in enumerate(by_role.items())
    ]
    panels = [element("div", element("h3", role), chart_box(chart)) for role, chart in zip(by_role, charts, strict=True)]
    body = join([_key(profile), element("div", join(panels), class_="multiples")])
    return Section("gains", "Gain curves", figure(body, _caption(curves, ranks, is_log=is_log)), tuple(charts))


def _caption(curves: dict[str, np.ndarray], ranks: dict[str, int], *, is_log: bool) -> str:
    flat = sum(1 for curve in curves.values() if not curve.size or curve[-1] <= 0)
    text = (
        "How much loss (nats) the best update of each rank is predicted to take off, that layer alone: directions from one half "
        "of the samples, scored on the other. Steep and early means that a low rank is enough. All panels share both axes."
    )
    if ranks:
        text += " A dot marks the chosen rank; layers that got nothing are thin."
    if flat:
        text += f" {flat} of {len(curves)} layers gain nothing at any rank" + (" and are not drawn." if is_log else ".")
    return text + (" The vertical axis is logarithmic." if is_log else "")


def _depths(profile: Profile) -> dict[int | None, float]:
    """Place of each block between the input (0) and the output (1)."""
    blocks = sorted({layer.block for layer in profile.layers if layer.block is not None})
    last = max(len(blocks) - 1, 1)
    return {**{block: place / last for place, block in enumerate(blocks)}, None: 1.0}


def _key(profile: Profile) -> Markup:
    blocks = [block for block in _depths(profile) if block is not None]
    if not blocks:
        return Markup()
    steps = [element("span", class_="step", style=f"--t:{step / 6:.2f}") for step in range(7)]
    first, last = f"block {blocks[0]} (next to the input)", f"block {blocks[-1]}"
    return element(
        "div", element("span", first), element("span", join(steps), class_="steps depth"), element("span", last), class_="scale"
    )


def _value_axis(tops: list[float], *, is_log: bool) -> dict[str, Any]:
    if is_log:
        return {"type": "log", "range": rounded([np.log10(min(tops)) - 0.3, np.log10(max(tops)) + 0.1]), "dtick": 1}
    return {"range": [0, rounded([1.06 * max(tops)])[0]], "nticks": 5}


def _chart(
    id_: str,
    role: str,
    layers: list[LayerProfile],
    curves: dict[str, np.ndarray],
    ranks: dict[str, int],
    axis: dict[str, Any],
    depths: dict[int | None, float],
    *,
    is_log: bool,
) -> Chart:
    traces: list[dict[str, Any]] = []
    longest = max(curve.size for curve in curves.values())
    for layer in layers:
        curve, rank = curves[layer.layer], ranks.get(layer.layer, 0)
        if is_log and (not curve.size or curve[-1] <= 0):
            continue
        color = depth_color(depths[layer.block])
        shared = {
            "type": "scatter",
            "text": plain(layer.layer),
            "hovertemplate": "%{fullData.text}<br>rank %{x}: %{y:.5f} nats<extra></extra>",
        }
        line = {"color": color, "width": 2 if rank or not ranks else 1}
        traces.append({**shared, "mode": "lines", "x0": 1, "dx": 1, "y": rounded(curve.tolist()), "line": line})
        if rank and curve.size:
            at = min(rank, curve.size)
            marker = {"color": color, "size": 9, "line": {"width": 1.5, "color": "@surface"}}
            traces.append({**shared, "mode": "markers", "x": [rank], "y": rounded([float(curve[at - 1])]), "marker": marker})
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "rank"}, "range": [0, longest + 1], "nticks": 6},
        "yaxis": {"title": {"text": "gain, nats"}, **axis},
    }
    label = f"Predicted gain against rank for the {len(layers)} layers of role {role}"
    return Chart(id_, traces, layout, 230, label)
