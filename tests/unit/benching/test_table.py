"""The terminal's tables: every arm, and what its difference shows, in eighty columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from layerlens.artifacts.bench import OverallArm
from layerlens.benching.table import bench_tables
from tests.unit.benching.suites import bench
from tests.unit.benching.test_findings import results


@pytest.mark.parametrize("width", [80, 160])
def test_every_figure_fits_the_terminal(width: int) -> None:
    means = {"full": 0.8, "uniform": 0.6, "uniform-rslora": 0.59, "layerlens": 0.7}
    made = results(means, wiggle={"uniform-rslora": 0.01, "layerlens": 0.1})
    shown = io.StringIO()
    console = Console(file=shown, width=width)
    for table in bench_tables(made, width=width):
        console.print(table)
    text = shown.getvalue()
    assert "…" not in text
    row = next(line for line in text.splitlines() if "layerlens" in line)
    assert "0.7000 ±0.0" in row
    assert "+0.1000 better" in row
    assert ("87.5%" in row) == (width > 110)
    assert "-0.0100 worse" in next(line for line in text.splitlines() if "uniform-rslora" in line)
    assert "+0.2000 no spread" in next(line for line in text.splitlines() if "full " in line and "0.8000" in line)


def test_means_over_different_cells_say_over_how_many() -> None:
    arms = [
        OverallArm(arm=arm, cells=cells, share_of_full=0.9, least_share_of_full=0.8, time_ratio=0.5, memory_ratio=0.5)
        for arm, cells in (("full", 7), ("layerlens", 3))
    ]
    shown = io.StringIO()
    console = Console(file=shown, width=80)
    for table in bench_tables(bench(overall=arms), width=80):
        console.print(table)
    rows = {line.split("│")[1].strip(): line.split("│") for line in shown.getvalue().splitlines() if "90.0%" in line}
    assert {arm: cells[4].strip() for arm, cells in rows.items()} == {"full": "7", "layerlens": "3"}
