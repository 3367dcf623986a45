from __future__ import annotations

from itertools import product

import pytest

from layerlens.reporting.compression.frontiers import PANEL, frontier, frontiers_section
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder, chosen_option
from tests.unit.reporting.compression.synthetic_curves import BLOCKS, SHAPES, curves
from tests.unit.reporting.sections.reading import read_section


def test_the_frontier_is_what_no_other_option_beats() -> None:
    for matrix in curves().matrices[:8]:
        best = frontier(matrix.options)
        unbeaten = {
            (one.size_bytes, one.predicted_loss)
            for one in matrix.options
            if not any(
                other.size_bytes <= one.size_bytes
                and other.predicted_loss <= one.predicted_loss
                and (other.size_bytes, other.predicted_loss) != (one.size_bytes, one.predicted_loss)
                for other in matrix.options
            )
        }
        assert {(option.size_bytes, option.predicted_loss) for option in best} == unbeaten
        assert [option.size_bytes for option in best] == sorted(option.size_bytes for option in best)


def test_each_panel_marks_the_chosen_point_of_each_matrix_of_its_role() -> None:
    section = frontiers_section(a_folder())
    assert section is not None
    panels = [chart for chart in section.charts if chart.id.startswith(PANEL)]
    assert len(panels) == len(SHAPES) + 1
    dots = {trace["name"]: trace for panel in panels for trace in panel.traces if trace["mode"] == "markers"}
    for matrix in curves().matrices:
        option = chosen_option(matrix)
        bits = 8 * option.size_bytes / (matrix.out_features * matrix.in_features)
        assert dots[matrix.layer]["x"] == pytest.approx([bits], rel=1e-4)
        assert dots[matrix.layer]["y"] == pytest.approx([option.predicted_loss], rel=1e-4)


def test_all_panels_share_both_axes_and_hold_all_points() -> None:
    section = frontiers_section(a_folder())
    assert section is not None
    panels = [chart for chart in section.charts if chart.id.startswith(PANEL)]
    assert len({str((panel.layout["xaxis"], panel.layout["yaxis"])) for panel in panels}) == 1
    low, high = (10**end for end in panels[0].layout["yaxis"]["range"])
    for panel in panels:
        assert all(low < value < high for trace in panel.traces for value in trace["y"]), panel.id


def test_a_reader_can_pick_every_matrix_and_starts_with_the_costliest_of_a_block() -> None:
    section = frontiers_section(a_folder())
    page = read_section(section)
    options = page.all("option")
    roles = [option for option in options if "data-role" not in option.attributes]
    matrices = [option for option in options if "data-role" in option.attributes]
    assert len(roles) == len(SHAPES) + 1
    assert {option.attributes["value"] for option in matrices} == {matrix.layer for matrix in curves().matrices}
    (first,) = [option for option in matrices if "selected" in option.attributes]
    inner = [entry for entry in artifacts.plan().layers if entry.block is not None]
    assert first.attributes["value"] == max(inner, key=lambda entry: entry.predicted_loss).layer
    texts = {(option.attributes["data-role"], option.text) for option in matrices}
    assert {(role.value, f"block {block}") for role, block in product(SHAPES, range(BLOCKS))} < texts


def test_without_curves_there_is_no_section() -> None:
    assert frontiers_section(a_folder(curves=None)) is None
