"""Tables: rows of the decoded matrix, in the model's type."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerlens.artifacts.formats import Scheme
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from tests.unit.nn.stored_cases import IDS, SCHEMES, dense, filled


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
def test_rows_that_are_looked_up_are_those_of_the_decoded_table(scheme: Scheme) -> None:
    table = filled(QuantisedEmbedding(scheme, 50, 40))
    matrix = dense(scheme, dict(table.named_buffers()), 50, 40).float()
    ids = torch.tensor([[0, 49, 3], [3, 3, 17]])
    torch.testing.assert_close(table(ids), nn.functional.embedding(ids, matrix), rtol=1e-5, atol=1e-6)
    assert table(ids.int()).shape == (2, 3, 40)


def test_the_type_of_the_rows_follows_the_model() -> None:
    table = filled(QuantisedEmbedding(SCHEMES[2], 50, 40, dtype=torch.bfloat16))
    ids = torch.tensor([1])
    assert table(ids).dtype == torch.bfloat16
    assert nn.Sequential(table).half()(ids).dtype == torch.float16
    assert table.get_buffer("scales").dtype == torch.bfloat16
