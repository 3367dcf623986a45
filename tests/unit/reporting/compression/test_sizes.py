from __future__ import annotations

from collections import defaultdict

import pytest

from layerlens.reporting.compression.sizes import sizes_section
from layerlens.reporting.quantities import count, memory
from tests.unit.reporting.compression import artifacts
from tests.unit.reporting.compression.artifacts import a_folder
from tests.unit.reporting.compression.synthetic_curves import BLOCKS, OTHER_BYTES
from tests.unit.reporting.sections.reading import read_section, rows

MIB = 1024**2


def test_the_bars_of_a_block_stack_to_its_bytes_before_and_after() -> None:
    (chart,) = sizes_section(a_folder()).charts
    assert "MiB" in chart.layout["yaxis"]["title"]["text"]
    for when in ("before", "after"):
        top: dict[str, float] = defaultdict(float)
        for trace in chart.traces:
            if trace["offsetgroup"] == when:
                for place, height, base in zip(trace["x"], trace["y"], trace["base"], strict=True):
                    # Each piece starts where the one below it ends.
                    assert base == pytest.approx(top[place], abs=2e-4)
                    top[place] += height
        for block in range(BLOCKS):
            layers = [entry for entry in artifacts.plan().layers if entry.block == block]
            expected = sum(
                entry.size_bytes if when == "after" else 4 * entry.out_features * entry.in_features for entry in layers
            )
            assert top[str(block)] == pytest.approx(expected / MIB, rel=1e-3)
        assert top["rest"] == pytest.approx(OTHER_BYTES / MIB, rel=1e-3)


def test_embeddings_stand_first_and_the_rest_last() -> None:
    (chart,) = sizes_section(a_folder()).charts
    assert chart.layout["xaxis"]["categoryarray"] == ["embedding", *map(str, range(BLOCKS)), "rest"]


def test_the_table_sums_each_role() -> None:
    table = rows(read_section(sizes_section(a_folder())))
    found = {row[0]: row for row in table[1:]}
    layers = [entry for entry in artifacts.plan().layers if entry.role.value == "mlp.down"]
    weights = sum(entry.out_features * entry.in_features for entry in layers)
    after = sum(entry.size_bytes for entry in layers)
    assert found["mlp.down"][1:6] == [
        str(BLOCKS),
        count(weights),
        memory(4 * weights),
        memory(after),
        f"{8 * after / weights:.2f}",
    ]
    assert found["rest"][3:5] == [memory(OTHER_BYTES)] * 2


def test_without_curves_the_page_says_that_bytes_before_are_a_mean() -> None:
    assert "mean over all matrices" in sizes_section(a_folder(curves=None)).body
    assert "mean over all matrices" not in sizes_section(a_folder()).body
