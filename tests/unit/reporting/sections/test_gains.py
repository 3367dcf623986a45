from __future__ import annotations

import numpy as np
import pytest

from layerlens.reporting.sections.gains import gains_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run


def test_every_layer_is_drawn_from_its_own_curve_and_the_dot_lies_on_it() -> None:
    plan = artifacts.plan()
    section = gains_section(a_run(plan=plan))
    assert section is not None
    lines = {trace["text"]: trace["y"] for chart in section.charts for trace in chart.traces if trace["mode"] == "lines"}
    dots = {
        trace["text"]: (trace["x"], trace["y"])
        for chart in section.charts
        for trace in chart.traces
        if trace["mode"] == "markers"
    }
    assert lines.keys() == {entry.layer for entry in plan.layers}
    for name, line in lines.items():
        assert line == pytest.approx(artifacts.curves()[f"gain/{name}"].tolist(), rel=1e-4)
    assert dots.keys() == plan.ranks.keys()
    for name, ((rank,), (gain,)) in dots.items():
        assert rank == plan.ranks[name]
        assert gain == lines[name][rank - 1]


def test_there_is_one_panel_per_role_and_all_share_their_axes() -> None:
    section = gains_section(a_run())
    assert section is not None
    assert len(section.charts) == 6
    assert len({str(chart.layout) for chart in section.charts}) == 1


def test_curves_that_differ_widely_get_a_logarithmic_axis_and_the_caption_says_who_is_not_on_it() -> None:
    arrays = {name: np.geomspace(1e-6, 1e-5, 38) for name in artifacts.curves() if name.startswith("gain/")}
    first, second = list(arrays)[:2]
    arrays[first], arrays[second] = np.geomspace(0.1, 1.0, 38), np.zeros(38)
    section = gains_section(a_run(arrays=arrays))
    assert section is not None
    assert section.charts[0].layout["yaxis"]["type"] == "log"
    assert "1 of 36 layers gain nothing at any rank and are not drawn" in section.body
    drawn = {trace["text"] for chart in section.charts for trace in chart.traces}
    assert second.removeprefix("gain/") not in drawn


def test_a_profile_without_any_signal_says_so() -> None:
    section = gains_section(a_run(arrays={name: np.zeros(38) for name in artifacts.curves() if name.startswith("gain/")}))
    assert section is not None
    assert section.charts == ()
    assert "no signal" in section.body


def test_no_profile_no_section() -> None:
    assert gains_section(a_run(profile=None)) is None
