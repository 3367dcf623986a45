"""The terminal's tables: every arm, and what its difference shows, in eighty columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from layerlens.benching.table import bench_tables
from tests.unit.benching.test_findings import results


@pytest.mark.parametrize("width", [80, 160])
def test_every_figure_fits_the_terminal(width: int) -> None:
    bench = results({"full": 0.8, "uniform": 0.6, "uniform-rslora": 0.59, "layerlens": 0.7}, wiggle={"layerlens": 0.1})
    shown = io.StringIO()
    console = Console(file=shown, width=width)
    for table in bench_tables(bench, width=width):
        console.print(table)
    text = shown.getvalue()
    assert "…" not in text
    row = next(line for line in text.splitlines() if "layerlens" in line)
    assert "0.7000 ±0.0" in row
    assert "+0.1000 better" in row
    assert ("87.5%" in row) == (width > 110)
    assert "-0.0100 worse" in next(line for line in text.splitlines() if "uniform-rslora" in line)
