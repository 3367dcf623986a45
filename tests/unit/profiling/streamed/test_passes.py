"""Where a streamed pass says that a loss goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerlens.errors import NotFiniteError
from layerlens.profiling.streamed.run import profile_streamed
from layerlens.streaming.boundaries import most_slots
from tests.unit.profiling.streamed.test_run import WHOLE, case, settings_for


def test_an_overflow_behind_the_last_block_is_named_with_its_layer(tmp_path: Path) -> None:
    measured = case(tmp_path, "gpt2")
    model = measured.streamed()
    with torch.no_grad():
        model.model.get_parameter("transformer.ln_f.weight")[3] = float("inf")
    with pytest.raises(NotFiniteError, match=r"arising after the last block, first at transformer\.ln_f;"):
        profile_streamed(
            model,
            measured.data,
            measured.part,
            measured.config,
            work=tmp_path / "work",
            settings_for=settings_for(most_slots, **WHOLE),
            command="test",
        )
