"""Which models may run block by block: those whose blocks hand each other one hidden state and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layerlens.errors import UnsupportedModelError
from layerlens.models.streamed.skeleton import Skeleton


class Block(nn.Module):
    """Gives back a hidden state, and a second item that its model may use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, bias: Any = None) -> tuple[Tensor, Tensor | None]:
        hidden = torch.tanh(self.linear(hidden_states))
        return (hidden if bias is None else hidden + bias), hidden.mean()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 2.0 * x
        for block in self.blocks:
            hidden, _ = block(hidden)
        return self.head(hidden)


class Passing(Model):
    """Hands the second item to the next block."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, bias = x, None
        for block in self.blocks:
            hidden, bias = block(hidden, bias=bias)
        return self.head(hidden)


class Scaling(Model):
    """Does something of its own between two blocks, in place or not."""

    is_in_place = False

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.clone()
        for block in self.blocks:
            hidden, _ = block(hidden)
            hidden = hidden.mul_(0.5) if self.is_in_place else 0.5 * hidden
        return self.head(hidden)


class Using(Model):
    """Computes with the second item before the last block has run."""

    def forward(self, x: Tensor) -> Tensor:
        hidden, total = x, torch.zeros(())
        for block in self.blocks:
            hidden, mean = block(hidden)
            total = total + mean
        return self.head(hidden) + total


class Repeating(Model):
    """Runs all its blocks twice, as ALBERT runs its one block many times."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for block in [*self.blocks, *self.blocks]:
            hidden, _ = block(hidden)
        return self.head(hidden)


def skeleton_of(model: nn.Module, **settings: Any) -> Skeleton:
    return Skeleton(model, [f"blocks.{block}" for block in range(3)], **settings)


def test_a_model_that_unpacks_what_its_blocks_give_runs_block_by_block() -> None:
    model, inputs = Model(), {"x": torch.randn(2, 3, 4)}
    skeleton = skeleton_of(model)
    with torch.no_grad():
        entry = skeleton.entry(inputs)
        hidden = entry.hidden
        for block, call in enumerate(entry.calls):
            hidden = skeleton.call(block, hidden, call)
        assert torch.equal(skeleton.finish(inputs, hidden), model(**inputs))


def test_a_block_that_reads_the_second_item_of_the_one_before_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Passing cannot run block by block: blocks\.1 reads what the block before"):
        skeleton_of(Passing()).entry({"x": torch.randn(2, 3, 4)})


@pytest.mark.parametrize("is_in_place", [False, True])
def test_a_model_that_works_on_the_hidden_state_between_blocks_is_refused_by_name(is_in_place: bool) -> None:
    model = Scaling()
    model.is_in_place = is_in_place
    with pytest.raises(UnsupportedModelError, match=r"Scaling .* changes the hidden state between blocks\.0 and blocks\.1"):
        skeleton_of(model).entry({"x": torch.randn(2, 3, 4)})


def test_a_model_that_runs_a_block_twice_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"Repeating runs blocks\.0 more than once in a forward pass"):
        skeleton_of(Repeating()).entry({"x": torch.randn(2, 3, 4)})


def test_what_the_models_own_code_raises_is_told_in_one_line() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^Using cannot run block by block: .*TypeError.*--execution memory\)$"):
        skeleton_of(Using()).entry({"x": torch.randn(2, 3, 4)})


def test_a_refusal_ends_with_the_way_out_that_the_command_has() -> None:
    with pytest.raises(UnsupportedModelError, match=r"TypeError.*\); such a model cannot be compressed$"):
        skeleton_of(Using(), way_out="such a model cannot be compressed").entry({"x": torch.randn(2, 3, 4)})
