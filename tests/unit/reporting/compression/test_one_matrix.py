from __future__ import annotations

import pytest

from layerlens.reporting.compression.one_matrix import one_matrix_chart
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import chosen_option
from tests.unit.reporting.compression.synthetic_curves import curves

KIB = 1024


def test_every_option_that_loses_something_is_drawn_once_under_its_matrix() -> None:
    chart = one_matrix_chart(curves().matrices, {})
    assert "KiB" in chart.layout["xaxis"]["title"]["text"]
    for matrix in curves().matrices:
        drawn = sorted(
            (x, y) for trace in chart.traces if trace["meta"] == matrix.layer for x, y in zip(trace["x"], trace["y"], strict=True)
        )
        expected = sorted((o.size_bytes / KIB, o.predicted_loss) for o in matrix.options if o.predicted_loss > 0)
        assert len(drawn) == len(expected)
        for found, wanted in zip(drawn, expected, strict=True):
            assert found == pytest.approx(wanted, rel=1e-4)


def test_the_chosen_option_is_marked_on_its_own_matrix() -> None:
    chosen = {entry.layer: entry for entry in artifacts.plan().layers}
    chart = one_matrix_chart(curves().matrices, chosen)
    marks = {trace["meta"]: trace for trace in chart.traces if trace["name"] == "chosen"}
    assert marks.keys() == chosen.keys()
    for matrix in curves().matrices:
        option = chosen_option(matrix)
        assert marks[matrix.layer]["x"] == pytest.approx([option.size_bytes / KIB], rel=1e-4)
        assert marks[matrix.layer]["y"] == pytest.approx([option.predicted_loss], rel=1e-4)


def test_a_family_stands_once_in_the_legend_of_each_matrix() -> None:
    chart = one_matrix_chart(curves().matrices, {})
    for matrix in curves().matrices:
        shown = [trace["name"] for trace in chart.traces if trace["meta"] == matrix.layer and trace["showlegend"]]
        assert len(shown) == len(set(shown))
        assert "integer, nearest" in shown
