from __future__ import annotations

import pytest
from scipy.stats import spearmanr

from layerlens.artifacts.compression import Curves
from layerlens.reporting.compression.predictions import predictions_section, probe_spearman
from layerlens.reporting.quantities import nats
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.compression.synthetic_curves import curves


def probed() -> dict[str, tuple[float, float]]:
    return {m.layer: (m.probe.predicted, m.probe.measured) for m in curves().matrices if m.probe is not None}


def with_first_probe(measured: float) -> Curves:
    matrices = list(curves().matrices)
    probe = matrices[1].probe
    assert probe is not None
    matrices[1] = matrices[1].model_copy(update={"probe": probe.model_copy(update={"measured": measured})})
    return curves().model_copy(update={"matrices": matrices})


def test_every_probe_is_a_point_of_predicted_and_measured() -> None:
    section = predictions_section(a_folder())
    assert section is not None
    (chart,) = [chart for chart in section.charts if chart.id == "chart-probes"]
    drawn = {
        text.split(",")[0]: (x, y)
        for trace in chart.traces
        if trace["mode"] == "markers"
        for text, x, y in zip(trace["text"], trace["x"], trace["y"], strict=True)
    }
    assert drawn.keys() == probed().keys()
    for layer, point in probed().items():
        assert drawn[layer] == pytest.approx(point, rel=1e-4)
    assert chart.layout["xaxis"]["type"] == chart.layout["yaxis"]["type"] == "log"


def test_the_spearman_that_is_told_is_that_of_the_probes() -> None:
    expected = float(spearmanr(*zip(*probed().values(), strict=True)).statistic)
    assert probe_spearman(a_folder()) == pytest.approx(expected)
    section = predictions_section(a_folder())
    assert section is not None
    assert f"Spearman {expected:.3f}" in section.body
    assert probe_spearman(a_folder(curves=None)) is None


def test_a_probe_below_zero_counts_in_the_spearman_but_has_no_point() -> None:
    folder = a_folder(curves=with_first_probe(-1e-6))
    section = predictions_section(folder)
    assert section is not None
    chart = section.charts[0]
    assert sum(len(trace["x"]) for trace in chart.traces if trace["mode"] == "markers") == len(probed()) - 1
    assert "1 at or below zero are not drawn" in section.body
    pairs = [(m.probe.predicted, m.probe.measured) for m in folder.curves.matrices if m.probe]  # type: ignore[union-attr]
    assert probe_spearman(folder) == pytest.approx(float(spearmanr(*zip(*pairs, strict=True)).statistic))


def test_whole_plans_are_drawn_where_both_figures_are_known_and_the_total_is_told() -> None:
    section = predictions_section(a_folder(curves=None))
    assert section is not None
    (chart,) = section.charts
    drawn = {
        name: (x, y)
        for trace in chart.traces
        if trace["mode"] == "markers"
        for name, x, y in zip(trace["text"], trace["x"], trace["y"], strict=True)
    }
    known = {m.name: (m.predicted_loss, m.kl_nats) for m in artifacts.plan().measured if m.predicted_loss is not None}
    assert drawn.keys() == known.keys()
    assert all(drawn[name] == pytest.approx(known[name], rel=1e-4) for name in known)
    total = sum(entry.predicted_loss for entry in artifacts.plan().layers)
    assert nats(total) in section.body
    assert "1.05 times as much" in section.body
    assert "are of the same held-out samples; layerlens evaluate measures on others." in section.body


def test_without_probes_and_race_there_is_no_section() -> None:
    bare = artifacts.plan().model_copy(update={"measured": []})
    assert predictions_section(a_folder(curves=None, plan=bare)) is None
