"""The factor of a table's rows, as transformers' own tables apply it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.models.gemma2.modeling_gemma2 import Gemma2TextScaledWordEmbedding
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2TextScaledWordEmbedding

from layerlens.artifacts.formats import integer
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.row_scale import PLAIN, row_scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [Gemma2TextScaledWordEmbedding, BartScaledWordEmbedding])
def test_rows_are_scaled_to_the_bit_as_the_table_itself_scales_them(kind: type[nn.Embedding], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = kind(9, 37, 0, embed_scale=37**0.5).to(dtype)
    with torch.device("meta"):
        scale = row_scale(kind(9, 37, 0, embed_scale=37**0.5))
    assert scale is not None
    ids = torch.tensor([[1, 8, 1], [0, 3, 4]])
    assert torch.equal(scale.times(table.weight[ids]), table(ids))


def test_a_plain_table_gives_its_rows_and_a_stored_one_tells_its_own_factor() -> None:
    rows = torch.ones(2, 3)
    assert row_scale(nn.Embedding(2, 3)) == PLAIN
    assert PLAIN.times(rows) is rows
    scale = row_scale(BartScaledWordEmbedding(2, 3, 0, embed_scale=2.0))
    assert scale is not None
    assert row_scale(QuantisedEmbedding(integer(4, 32), 2, 3, scale=scale)) is scale


def test_what_does_more_than_scale_its_rows_has_no_factor() -> None:
    class Own(nn.Embedding):
        pass

    assert row_scale(T5Gemma2TextScaledWordEmbedding(9, 3, 0, embed_scale=2.0, eoi_token_index=4)) is None
    assert row_scale(Own(9, 3)) is None
    assert row_scale(nn.Linear(3, 9)) is None
