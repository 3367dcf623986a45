"""Where a step says that a value goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from layerlens.errors import NotFiniteError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.streamed import load
from tests.unit.profiling.streamed.test_run import WHOLE, case, run_streamed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_row_of_a_table_on_disk_is_named_and_not_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # The word table has 6,400 entries, the positions 2,048.
    monkeypatch.setattr(load, "_LARGE_TABLE", 5000)
    measured = case(tmp_path, "bert")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    # Every sample begins with token 2.
    weights["embeddings.word_embeddings.weight"][2, 5] = value
    save_file(weights, file, metadata={"format": "pt"})
    damaged = replace(measured, checkpoint=open_checkpoint(str(tmp_path / "model")))
    with pytest.raises(NotFiniteError, match=r"the output of bert\.embeddings\.word_embeddings is NaN or infinite"):
        run_streamed(damaged, tmp_path / "work", **WHOLE)
