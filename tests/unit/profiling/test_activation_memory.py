"""Saved bytes against a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.profiling.activation_memory import activation_bytes
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES
from tests.unit.profiling.cases import VectorTask, block_spec, open_case, vector_examples


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class _Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(), _Block()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_frozen_block_keeps_the_output_of_its_activation_alone() -> None:
    """Frozen weights need no inputs; tanh keeps its output, 8 floats of 4 bytes for each of 3 × 4 tokens."""
    model, task = _Stack(), VectorTask()
    batch = task.collate(vector_examples(3, length=4))
    counted = activation_bytes(model, [block_spec("blocks.0"), block_spec("blocks.1", 1)], task, batch)
    assert counted == [3 * 4 * 8 * 4] * 2


def test_a_tensor_that_is_saved_twice_counts_once() -> None:
    class Twice(_Block):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.up(x))
            return x + self.down(hidden * hidden)

    model = _Stack()
    model.blocks[0] = Twice()
    batch = VectorTask().collate(vector_examples(3, length=4))
    counted = activation_bytes(model, [block_spec("blocks.0"), block_spec("blocks.1", 1)], VectorTask(), batch)
    assert counted == [3 * 4 * 8 * 4] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_run_counts_the_same_on_every_family_and_leaves_no_hook(tmp_path: Path, family: str) -> None:
    case = open_case(tmp_path, family, TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION)
    batch = case.task.collate(case.examples)
    first = activation_bytes(case.model, case.layout.blocks, case.task, batch)
    assert min(first) > 0
    assert first == activation_bytes(case.model, case.layout.blocks, case.task, batch)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())
