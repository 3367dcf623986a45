"""What lies below the lowest trained block is found, runs without dropout and gradients, and can be left out of a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.adapting.attach import attached
from layerlens.adapting.frozen_blocks import FrozenBlocks
from layerlens.data.example import Batch
from layerlens.models.head import describe_model
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, made_data, make_plan, tiny_task_model

KIND = TaskKind.CLASSIFICATION


def upper_ranks(task_model: TaskModel, block: int = 1) -> dict[str, int]:
    """Rank 2 in every layer of the blocks from `block` on."""
    return {spec.layer: 2 for spec in describe_layers(task_model.model).layers if (spec.block or 0) >= block}


def a_batch(task_model: TaskModel, kind: TaskKind, num: int = 4) -> tuple[Batch, Batch, Tensor | None]:
    """A batch with its labels, what the model takes of it, and which tokens are real."""
    data = made_data(task_model, kind, num)
    batch = data.task.collate(list(data.examples))
    return batch, data.task.model_inputs(batch), data.task.token_mask(batch)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_both_halves_together_are_the_whole_in_every_family(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    _, inputs, mask = a_batch(task_model, kind)
    with attached(task_model.model, make_plan(task_model, kind, upper_ranks(task_model)), seed=0) as adapted:
        adapted.eval()
        frozen = FrozenBlocks.of(adapted)
        assert frozen is not None
        assert frozen.cut == 1
        assert frozen.learn(inputs, mask)
        with torch.no_grad():
            whole = adapted(**inputs).logits
            with frozen.starting_from(frozen.boundary(inputs)):
                halves = adapted(**inputs).logits
            # The boundary decides what comes out, or the stubs would not be in place at all.
            with frozen.starting_from(frozen.boundary(inputs).flip(0)):
                others = adapted(**inputs).logits
    assert torch.equal(whole, halves)
    assert not torch.allclose(whole, others)


def test_the_head_alone_leaves_every_block_frozen(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    _, inputs, mask = a_batch(task_model, KIND)
    with attached(task_model.model, make_plan(task_model, KIND, {}), seed=0) as adapted:
        frozen = FrozenBlocks.of(adapted)
        assert frozen is not None
        assert frozen.cut == 2
        assert frozen.learn(inputs, mask)
        adapted.eval()
        with torch.no_grad(), frozen.starting_from(frozen.boundary(inputs)):
            halves = adapted(**inputs).logits
        assert torch.equal(halves, adapted(**inputs).logits)


@pytest.mark.parametrize(
    "trained",
    ["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.weight", "bert.encoder.layer.0.output.LayerNorm.bias"],
)
def test_nothing_is_frozen_where_something_trains_at_or_below_the_first_block(trained: str, tmp_path: Path) -> None:
    model = tiny_task_model("bert", tmp_path, KIND).model
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    assert FrozenBlocks.of(model) is not None
    model.get_parameter(trained).requires_grad_(True)
    assert FrozenBlocks.of(model) is None


def test_any_parameter_counts_whatever_method_put_it_there(tmp_path: Path) -> None:
    model = tiny_task_model("bert", tmp_path, KIND, num_hidden_layers=3).model
    model.requires_grad_(False)
    model.bert.encoder.layer[1].attention.register_module("prefix", nn.Linear(2, 2))
    frozen = FrozenBlocks.of(model)
    assert frozen is not None
    assert frozen.cut == 1


def test_below_there_is_no_dropout_and_above_there_is(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    _, inputs, mask = a_batch(task_model, KIND)
    with attached(task_model.model, make_plan(task_model, KIND, upper_ranks(task_model)), seed=0) as adapted:
        frozen = FrozenBlocks.of(adapted)
        assert frozen is not None
        assert frozen.learn(inputs, mask)
        adapted.train()
        with frozen.starting_from(frozen.boundary(inputs)):
            adapted(**inputs)
        dropouts = {path: module.training for path, module in task_model.model.named_modules() if isinstance(module, nn.Dropout)}
    below = {path for path, is_training in dropouts.items() if not is_training}
    assert below == {path for path in dropouts if "embeddings" in path or ".layer.0." in path}
    assert {path for path in dropouts if ".layer.1." in path} | {"dropout"} <= set(dropouts) - below


def test_a_backward_pass_ends_at_the_boundary_though_checkpointing_asks_for_more(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    _, inputs, mask = a_batch(task_model, KIND)
    reached: list[str] = []
    with attached(task_model.model, make_plan(task_model, KIND, upper_ranks(task_model)), seed=0) as adapted:
        frozen = FrozenBlocks.of(adapted)
        assert frozen is not None
        assert frozen.learn(inputs, mask)
        task_model.model.activation_checkpointing_enable()
        adapted.train()
        embeddings = task_model.model.bert.embeddings

        def watch(_: nn.Module, __: object, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda _: reached.append("embeddings"))

        handle = embeddings.register_forward_hook(watch)
        adapted(**inputs).logits.sum().backward()
        # transformers makes the embeddings' output ask for a gradient, so a pass over the whole model runs down to them …
        assert reached == ["embeddings"]
        adapted.zero_grad()
        with frozen.starting_from(frozen.boundary(inputs)):
            adapted(**inputs).logits.sum().backward()
        handle.remove()
        task_model.model.activation_checkpointing_disable()
        task_model.model.disable_input_require_grads()
        # … and one that starts at the boundary ends there, with gradients above it.
        assert reached == ["embeddings"]
        gradients = [parameter.grad for parameter in adapted.parameters() if parameter.requires_grad]
        assert all(gradient is not None for gradient in gradients)


@pytest.mark.parametrize("is_reentrant", [True, False])
def test_checkpointed_blocks_get_their_gradients_from_a_boundary_that_has_none(is_reentrant: bool, tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    _, inputs, mask = a_batch(task_model, KIND)
    with attached(task_model.model, make_plan(task_model, KIND, upper_ranks(task_model)), seed=0) as adapted:
        adapted.train()
        frozen = FrozenBlocks.of(adapted)
        assert frozen is not None
        assert frozen.learn(inputs, mask)
        adapted(**inputs).logits.sum().backward()
        wanted = [parameter.grad.clone() for parameter in adapted.parameters() if parameter.grad is not None]
        adapted.zero_grad()
        task_model.model.activation_checkpointing_enable({"use_reentrant": is_reentrant})
        with frozen.starting_from(frozen.boundary(inputs)):
            adapted(**inputs).logits.sum().backward()
        found = [parameter.grad for parameter in adapted.parameters() if parameter.grad is not None]
        task_model.model.activation_checkpointing_disable()
        task_model.model.disable_input_require_grads()
    assert len(found) == len(wanted) > 8
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


class Block(nn.Module):
    """Adds a linear map, and may hand something on beside the hidden state."""

    def __init__(self, note: Callable[[Tensor], None], read: Callable[[], Tensor | float]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.note, self.read = note, read

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = hidden + self.linear(hidden) + self.read()
        self.note(output)
        return output


class Stack(nn.Module):
    """Three blocks; `shares` lets the last one read what the first one gave."""

    def __init__(self, *, shares: bool, is_in_order: bool = True) -> None:
        super().__init__()
        self.shared: list[Tensor] = []
        first = Block(self.shared.append, lambda: 0.0)
        last = Block(lambda _: None, lambda: sum(self.shared) if shares else 0.0)
        self.blocks = nn.ModuleList([first, Block(lambda _: None, lambda: 0.0), last])
        self.head = nn.Linear(4, 1)
        self.is_in_order = is_in_order

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        self.shared.clear()
        for block in self.blocks if self.is_in_order else reversed(self.blocks):
            hidden = block(hidden)
        return {"logits": self.head(hidden)}


@pytest.mark.parametrize(
    ("shares", "is_in_order", "may_start"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_blocks_that_share_more_than_a_hidden_state_are_not_parted(shares: bool, is_in_order: bool, may_start: bool) -> None:
    torch.manual_seed(0)
    model = Stack(shares=shares, is_in_order=is_in_order)
    model.requires_grad_(False)
    model.blocks[2].requires_grad_(True)
    frozen = FrozenBlocks.of(model)
    assert frozen is not None
    assert frozen.cut == 2
    assert frozen.learn({"hidden": torch.randn(2, 3, 4)}, None) is may_start


def test_learning_leaves_modes_and_forwards_as_they_were(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    assert describe_model(task_model, describe_layers(task_model.model)).family == "bert"
    _, inputs, mask = a_batch(task_model, KIND)
    model = task_model.model
    model.requires_grad_(False)
    model.train()
    model.bert.pooler.eval()
    frozen = FrozenBlocks.of(model)
    assert frozen is not None
    frozen.learn(inputs, mask)
    trained_modes = {path for path, module in model.named_modules() if not module.training}
    assert {path for path in trained_modes if "embeddings" not in path and ".layer." not in path} == {
        "bert.pooler",
        "bert.pooler.dense",
        "bert.pooler.activation",
    }
    assert not any("forward" in vars(module) for module in model.modules())
