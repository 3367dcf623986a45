"""Products in bfloat16 inside blocks, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.models.arithmetic import product_type
from layerlens.models.block_autocast import blocks_in_bf16

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, hidden: Tensor) -> Tensor:
        product = self.linear(hidden)
        self.seen += [product.dtype, product_type(hidden)]
        if hidden.isnan().any():
            raise ValueError("not a number")
        return hidden + product


def test_a_block_multiplies_in_bfloat16_and_what_follows_in_float32() -> None:
    model = nn.Sequential(Block(), nn.Linear(4, 4), Block(), nn.Linear(4, 2))
    hidden = torch.randn(3, 4)
    with blocks_in_bf16([model[0], model[2]], CPU):
        output = model(hidden)
        assert output.dtype == torch.float32
        assert model[1](hidden).dtype == torch.float32
    assert model[0].seen == model[2].seen == [torch.bfloat16, torch.bfloat16]
    model(hidden)
    assert model[0].seen[2:] == [torch.float32, torch.float32]


def test_a_block_that_is_not_named_is_left_alone() -> None:
    block = Block()
    with blocks_in_bf16([], CPU):
        block(torch.randn(3, 4))
    assert block.seen == [torch.float32, torch.float32]


def test_a_block_that_fails_leaves_no_autocast_behind() -> None:
    block = Block()
    with blocks_in_bf16([block], CPU):
        with pytest.raises(ValueError, match="not a number"):
            block(torch.full((1, 4), float("nan")))
        assert product_type(torch.zeros(1)) == torch.float32


def test_a_block_without_parameters_may_run_too() -> None:
    block = nn.Identity()
    with blocks_in_bf16([block], CPU):
        assert block(torch.ones(1)).dtype == torch.float32
