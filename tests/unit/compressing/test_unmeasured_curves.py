"""What is foreseen of the curves from shapes alone is what measuring then finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.run import MeasureOptions, measure_curves
from layerlens.compressing.unmeasured_curves import unmeasured_curves
from layerlens.words import TaskKind
from tests.unit.compressing.calibrations import calibrated


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_every_option_is_foreseen_with_its_bytes(tmp_path: Path, family: str) -> None:
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_layer": 1, "vocab_size": 2048},
        "llama": {"num_hidden_layers": 1, "intermediate_size": 128},
        # Its pooler counts as large, and an embedding does not pass through it.
        "bert": {"num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 32},
    }
    kind = TaskKind.EMBEDDING if family == "bert" else None
    case = calibrated(tmp_path, family, kind, num_samples=4, **sizes[family])
    grid = OptionGrid(group_size=32, widths=(6, 3), extra_ranks=(32,), corrected_widths=(3,))
    model = case.streamed()
    foreseen = unmeasured_curves(model, case.data.task.info, grid)
    found = measure_curves(model, case.data, case.samples, MeasureOptions(grid), folder=tmp_path / "c", work=tmp_path / "w")
    assert foreseen.model == found.model
    assert [(one.layer, one.role, one.block, one.tied) for one in foreseen.matrices] == [
        (one.layer, one.role, one.block, one.tied) for one in found.matrices
    ]
    for before, after in zip(foreseen.matrices, found.matrices, strict=True):
        assert sorted((one.scheme.name, one.rounding, one.size_bytes) for one in before.options) == sorted(
            (one.scheme.name, one.rounding, one.size_bytes) for one in after.options
        )
    if family == "gpt2":
        assert foreseen.matrices[0].tied == ["lm_head"]
    if family == "bert":
        assert [option.scheme.name for option in foreseen.matrices[-1].options] == ["int6", "half", "keep"]
