from __future__ import annotations

from statistics import median

import pytest

from layerlens.reporting.compression.travel import travel_section
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.compression.synthetic_curves import BLOCKS, SHAPES, curves


def test_every_matrix_with_a_block_behind_it_is_a_line_relative_to_its_own_block() -> None:
    section = travel_section(a_folder())
    assert section is not None
    chart = section.charts[0]
    courses = {m.layer: m.probe.error_after_blocks for m in curves().matrices if m.probe}
    drawn = {trace["name"]: trace for trace in chart.traces if trace["name"] in courses}
    # The last block has none behind it.
    assert len(drawn) == (BLOCKS - 1) * len(SHAPES)
    for layer, trace in drawn.items():
        assert trace["y"] == pytest.approx([error / courses[layer][0] for error in courses[layer]], rel=1e-4)
        assert trace["customdata"] == pytest.approx(courses[layer], rel=1e-4)
    middle = next(trace for trace in chart.traces if trace["name"].startswith("median"))
    second = median(course[1] / course[0] for course in courses.values() if len(course) > 1)
    assert middle["y"][:2] == pytest.approx([1.0, second], rel=1e-4)


def test_the_claim_is_drawn_as_one_over_the_root_of_the_blocks() -> None:
    section = travel_section(a_folder())
    assert section is not None
    alone, together = section.charts
    claim = [1 / number**0.5 for number in range(1, BLOCKS + 1)]
    after = artifacts.evaluation().travel.error_after_blocks  # type: ignore[union-attr]
    for chart, scale in ((alone, 1.0), (together, after[0])):
        (line,) = [trace for trace in chart.traces if trace["name"] == "claimed: ε/√N"]
        assert line["y"] == pytest.approx([scale * factor for factor in claim], rel=1e-4)


def test_all_compressed_is_drawn_as_measured() -> None:
    section = travel_section(a_folder(curves=None))
    assert section is not None
    (chart,) = section.charts
    assert chart.traces[0]["y"] == pytest.approx(artifacts.evaluation().travel.error_after_blocks, rel=1e-4)  # type: ignore[union-attr]


def test_probes_alone_need_no_evaluation_and_nothing_makes_no_section() -> None:
    section = travel_section(a_folder(evaluation=None))
    assert section is not None
    assert [chart.id for chart in section.charts] == ["chart-alone"]
    assert travel_section(a_folder(evaluation=None, curves=None)) is None
