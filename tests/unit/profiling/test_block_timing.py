"""Seconds are attributed to the block that took them, by a clock that only the model moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.models import arithmetic, devices
from layerlens.profiling import block_timing
from layerlens.profiling.block_timing import time_model
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES
from tests.unit.profiling.cases import VectorTask, block_spec, open_case, vector_examples


class _VirtualTime:
    """A clock that only the models of this file move."""

    def __init__(self) -> None:
        self.seconds = 1.0

    def thread_time(self) -> float:
        return self.seconds


TIME = _VirtualTime()


class _Take(torch.autograd.Function):
    """Identity that takes a known time in each direction."""

    @staticmethod
    def forward(ctx, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.backward_seconds = backward
        TIME.seconds += forward
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        TIME.seconds += ctx.backward_seconds
        return gradient, None, None


class _Block(nn.Module):
    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)
        self.seconds = (forward, backward)

    def forward(self, x: Tensor) -> Tensor:
        return _Take.apply(torch.tanh(self.linear(x)), *self.seconds)


class _Stack(nn.Module):
    """Embeddings, two blocks, head: each takes times of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = _Block(1.0, 0.5), _Block(3.0, 2.0)
        self.second, self.head = _Block(0.25, 4.0), _Block(0.125, 8.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(self.embed(x))))


def test_seconds_are_attributed_to_the_block_that_took_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "time", TIME)
    model, task = _Stack(), VectorTask()
    timed = time_model(model, [block_spec("first"), block_spec("second", 1)], task, task.collate(vector_examples(3)))
    first, second = timed.blocks
    assert (first.forward_seconds, second.forward_seconds) == (3.0, 0.25)
    assert (first.backward_seconds, second.backward_seconds) == (2.0, 4.0)
    assert (first.backward_frozen_seconds, second.backward_frozen_seconds) == (2.0, 4.0)
    assert timed.outside_forward_seconds == 1.125
    assert timed.outside_backward_seconds == 8.5
    # Frozen embeddings get no gradient.
    assert timed.outside_backward_frozen_seconds == 8.0


@pytest.mark.parametrize(("seconds", "num_turns"), [(0.01, 1 + 15), (0.5, 1 + 3)])
def test_frozen_and_trainable_passes_take_turns_more_of_them_where_they_are_short(
    seconds: float, num_turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "time", TIME)
    model, task = _Stack(), VectorTask()
    for name in ("embed", "first", "second", "head"):
        setattr(model, name, _Block(seconds, seconds))
    trained: list[bool] = []
    model.first.register_forward_hook(lambda module, *_: trained.append(module.linear.weight.requires_grad))
    time_model(model, [block_spec("first"), block_spec("second", 1)], task, task.collate(vector_examples(3)))
    # Arithmetic is tried in a pass of its own where it is fast.
    assert trained[len(trained) - 2 * num_turns :] == [False, True] * num_turns
    assert len(trained) - 2 * num_turns <= 1


class _InFloat32(_Block):
    """Puts what its layer gives into a tensor of its input's type, as X-MOD's adapters do."""

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        found[torch.ones(len(x), dtype=torch.bool)] = self.linear(x)
        return found


@pytest.mark.parametrize(("kind", "expected"), [(_Block, "bf16"), (_InFloat32, "fp32")])
def test_a_model_is_timed_in_bf16_where_that_is_fast_and_it_runs_in_it(
    kind: type[_Block], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (block_timing, arithmetic):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device: True)
    model, task = _Stack(), VectorTask()
    model.embed = kind(1.0, 1.0)
    timed = time_model(model, [block_spec("first")], task, task.collate(vector_examples(2)))
    assert timed.arithmetic == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_of_every_family_is_timed_in_both_directions(tmp_path: Path, family: str) -> None:
    case = open_case(tmp_path, family, TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION)
    timed = time_model(case.model, case.layout.blocks, case.task, case.task.collate(case.examples))
    assert [block.block for block in timed.blocks] == [0, 1]
    for block in timed.blocks:
        assert block.forward_seconds > 0
        assert block.backward_seconds > 0
        assert block.backward_frozen_seconds > 0


def test_gradients_and_flags_are_left_as_they_were() -> None:
    model, task = _Stack(), VectorTask()
    model.head.linear.weight.requires_grad_(False)
    kept = model.first.linear.weight.grad = torch.ones(5, 5)
    time_model(model, [block_spec("first")], task, task.collate(vector_examples(2)))
    assert model.first.linear.weight.grad is kept
    assert model.second.linear.weight.grad is None
    assert not model.head.linear.weight.requires_grad
    assert model.second.linear.weight.requires_grad
