"""Where a streamed pass says that a loss goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerlens.errors import NotFiniteError
from tests.unit.profiling.streamed.test_run import WHOLE, case, run_streamed


def test_an_overflow_behind_the_last_block_is_named_with_its_layer(tmp_path: Path) -> None:
    measured = case(tmp_path, "gpt2")
    model = measured.streamed()
    with torch.no_grad():
        model.model.get_parameter("transformer.ln_f.weight")[3] = float("inf")
    with pytest.raises(NotFiniteError, match=r"arising after the last block, first at transformer\.ln_f;"):
        run_streamed(measured, tmp_path / "work", model=model, **WHOLE)
