"""Modules that read another one's matrix, and save none."""

from __future__ import annotations

import copy

import torch
from torch import nn

from layerlens.artifacts.formats import integer
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.quantised_linear import QuantisedLinear
from layerlens.nn.tied_modules import TiedEmbedding, TiedLinear
from tests.unit.nn.stored_cases import filled


def test_a_tied_head_multiplies_by_the_table() -> None:
    table = filled(QuantisedEmbedding(integer(4, 32), 50, 40))
    bias = nn.Parameter(torch.randn(50))
    inputs = torch.randn(2, 40)
    torch.testing.assert_close(TiedLinear(table, bias)(inputs), nn.functional.linear(inputs, table.weight, bias))
    torch.testing.assert_close(TiedLinear(table)(inputs), inputs @ table.weight.t())


def test_a_tied_table_looks_up_rows_of_the_head() -> None:
    head = filled(QuantisedLinear(integer(3, 32), 50, 40))
    ids = torch.tensor([[1, 49], [1, 0]])
    tied = TiedEmbedding(head)
    assert torch.equal(tied(ids), head.weight[ids])
    assert nn.Sequential(tied).half()(ids).dtype == torch.float16


def test_the_matrix_is_saved_once_and_a_copy_of_the_model_is_tied_within_itself() -> None:
    table = filled(QuantisedEmbedding(integer(4, 32), 50, 40))
    model = nn.ModuleDict({"table": table, "head": TiedLinear(table)})
    assert model.state_dict().keys() == {"table.codes", "table.scales"}
    twin = copy.deepcopy(model)
    twin["table"].get_buffer("scales").zero_()
    assert not twin["head"](torch.ones(1, 40)).any()
    assert model["head"](torch.ones(1, 40)).any()
