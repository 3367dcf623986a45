"""Rows of a batch are told apart by sample, or refused."""

from __future__ import annotations

import pytest
import torch

from layerlens.errors import UnsupportedModelError
from layerlens.models.sequences import as_sequences


def test_rows_that_no_sample_owns_are_refused() -> None:
    assert as_sequences(torch.zeros(6, 4), 3, "x").shape == (3, 2, 4)
    with pytest.raises(UnsupportedModelError, match="cannot be told apart by sample"):
        as_sequences(torch.zeros(7, 4), 3, "x")
    # Six positions that all samples share.
    with pytest.raises(UnsupportedModelError, match="cannot be told apart by sample"):
        as_sequences(torch.zeros(1, 6, 4), 3, "x")


@pytest.mark.parametrize("shape", [(3, 4), (6, 4), (3, 2, 4), (3, 2, 5, 4)])
def test_every_sample_keeps_its_own_rows_in_their_order(shape: tuple[int, ...]) -> None:
    values = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    found = as_sequences(values, 3, "x")
    rows = values.flatten(0, -2).chunk(3)
    assert [sample.tolist() for sample in found] == [own.tolist() for own in rows]
