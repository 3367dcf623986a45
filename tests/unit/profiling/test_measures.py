"""Layer by layer gives what metrics, intervals and curves of all layers give, and lets go of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layerlens.profiling.gains import gain_curves
from layerlens.profiling.intervals import intervals, replicates, resampled_counts
from layerlens.profiling.measures import Measures, measure_layers
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.spaces import Space
from layerlens.words import TaskKind
from tests.unit.allocations import peak_bytes
from tests.unit.profiling.cases import open_case


@pytest.mark.parametrize("space", list(Space))
@pytest.mark.parametrize("releases", [True, False])
def test_measures_are_those_of_each_step_on_all_layers(tmp_path: Path, space: Space, releases: bool) -> None:
    case = open_case(tmp_path, "llama", TaskKind.CAUSAL_LM)
    layers, counts = case.layout.layers, resampled_counts(7, seed=0, num_replicates=20)
    statistics = case.statistics(space=space)
    expected = Measures(
        raw=raw_metrics(statistics),
        intervals=intervals(statistics, counts),
        replicates=replicates(statistics, counts),
        curves=gain_curves(statistics, layers, damping=0.1, max_rank=3),
    )
    # In two steps, as a pass by blocks does.
    found = Measures()
    again = case.statistics(space=space)
    for block in (0, 1):
        part = [spec for spec in layers if spec.block == block]
        found.update(measure_layers(again, part, counts, damping=0.1, max_rank=3, releases=releases))
    assert found.raw == expected.raw
    assert found.intervals == expected.intervals
    for layer, curve in expected.curves.items():
        np.testing.assert_array_equal(found.curves[layer], curve)
        for metric, drawn in expected.replicates[layer].items():
            np.testing.assert_array_equal(found.replicates[layer][metric], drawn)
    if not releases:
        assert raw_metrics(again) == expected.raw


def test_grams_of_one_layer_exist_at_a_time(tmp_path: Path) -> None:
    case = open_case(tmp_path, "llama", TaskKind.CAUSAL_LM, num_samples=48)
    counts = resampled_counts(48, seed=0, num_replicates=20)
    layers = case.layout.layers
    by_layer, at_once = (case.statistics(space=Space.TOKENS) for _ in range(2))

    def all_at_once() -> None:
        raw_metrics(at_once)
        gain_curves(at_once, layers, damping=0.1, max_rank=3, releases=True)

    one = peak_bytes(lambda: measure_layers(by_layer, layers, counts, damping=0.1, max_rank=3))
    assert one < 0.7 * peak_bytes(all_at_once)
