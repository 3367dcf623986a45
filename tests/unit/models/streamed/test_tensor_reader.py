"""Rows of a tensor are its own, never those of the tensor that lies behind it in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layerlens.errors import DataError
from layerlens.models.headers import read_headers
from layerlens.models.streamed.tensor_reader import TensorReader


def test_a_row_beyond_the_table_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a.table": torch.arange(12.0).view(4, 3), "b.next": 100 + torch.arange(12.0).view(4, 3)}
    save_file(tensors, path, metadata={"format": "pt"})
    reader = TensorReader(read_headers(path))
    try:
        assert torch.equal(reader.gather("a.table", [3, 0]), tensors["a.table"][[3, 0]])
        for index in (4, -1):
            with pytest.raises(DataError, match=rf"row {index} of a\.table is asked for, which has 4 rows"):
                reader.gather("a.table", [0, index])
    finally:
        reader.close()
