"""Bytes of a training step against a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.artifacts.layers import ModelLayout
from layerlens.profiling.activation_memory import Counted, count_step
from layerlens.profiling.counted_samples import CountedSamples
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES
from tests.unit.profiling.cases import VectorTask, block_spec, open_case, vector_examples

FLOATS = 4


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class _Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def _counted(*blocks: nn.Module, num_runs: int = 1) -> Counted:
    """Of three samples of four tokens."""
    layout = ModelLayout(layers=[], blocks=[block_spec(f"blocks.{at}", at) for at in range(len(blocks))], head=[])
    model = _Stack(*list(blocks) * num_runs)
    return count_step(model, layout, VectorTask(), CountedSamples(vector_examples(3, length=4), 4))


def test_a_frozen_block_keeps_the_output_of_its_activation_alone() -> None:
    """Frozen weights need no inputs; tanh keeps its output, 8 floats of 4 bytes for each of 3 × 4 tokens."""
    assert _counted(_Block(), _Block()).saved == [3 * 4 * 8 * FLOATS] * 2


def test_a_tensor_that_is_saved_twice_counts_once() -> None:
    class Twice(_Block):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.up(x))
            return x + self.down(hidden * hidden)

    assert _counted(Twice(), _Block()).saved == [3 * 4 * 8 * FLOATS] * 2


def test_a_block_that_keeps_its_input_counts_it_and_one_that_runs_twice_counts_twice() -> None:
    class Square(_Block):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    assert _counted(Square(), num_runs=2).saved == [2 * 3 * 4 * 5 * FLOATS]


def test_nothing_is_drawn_and_modes_are_left_alone() -> None:
    class Dropping(_Block):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.drop(self.down(torch.tanh(self.up(x))))

    blocks, before = (Dropping(), _Block().eval()), torch.get_rng_state()
    assert _counted(*blocks).saved == [3 * 4 * 8 * FLOATS] * 2
    assert torch.equal(torch.get_rng_state(), before)
    assert [block.training for block in blocks] == [True, False]
    assert blocks[0].drop.training


def test_a_decoder_s_blocks_are_counted_off_the_graph_of_the_encoder() -> None:
    class Reading(_Block):
        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return super().forward(x) + memory

    class EncoderDecoder(_Stack):
        def forward(self, x: Tensor) -> Tensor:
            encoder, *decoder = self.blocks
            # What lies between the two is on the graph of the encoder's last hidden state.
            memory = torch.tanh(encoder(x))
            for block in decoder:
                x = block(x, memory)
            return x

    layout = ModelLayout(layers=[], blocks=[block_spec(f"blocks.{at}", at) for at in range(3)], head=[])
    samples = CountedSamples(vector_examples(3, length=4), 4)
    found = count_step(EncoderDecoder(_Block(), Reading(), Reading()), layout, VectorTask(), samples)
    assert found.saved == [3 * 4 * 8 * FLOATS] * 3


def test_what_a_block_takes_for_a_moment_are_the_gradients_that_live_at_once() -> None:
    """Of its output, which its input shares (5 wide), and of tanh's output and input (8 each); two numbers for the sum."""
    assert _counted(_Block()).working == [3 * 4 * (5 + 8 + 8) * FLOATS + 2 * FLOATS]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_run_counts_the_same_on_every_family_and_leaves_the_model_as_it_was(tmp_path: Path, family: str) -> None:
    case = open_case(tmp_path, family, TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION)
    samples = CountedSamples(case.examples, 11)
    before = [parameter.requires_grad for parameter in case.model.parameters()]
    case.model.train()
    next(case.model.children()).eval()
    modes = [module.training for module in case.model.modules()]
    first = count_step(case.model, case.layout, case.task, samples)
    assert min(*first.saved, *first.working, first.outside) > 0
    assert first == count_step(case.model, case.layout, case.task, samples)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())
    assert modes == [module.training for module in case.model.modules()]
    assert before == [parameter.requires_grad for parameter in case.model.parameters()]
    assert all(parameter.grad is None for parameter in case.model.parameters())
