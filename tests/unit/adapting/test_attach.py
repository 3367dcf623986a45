"""Adapters go on and come off one base model, and nothing of it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from layerlens.adapting.attach import attached
from layerlens.errors import UnsupportedModelError
from layerlens.words import TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, make_plan, tiny_task_model, uneven_ranks


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that training could leave behind."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modules": {name: type(module) for name, module in model.named_modules()},
        "identities": [id(parameter) for parameter in model.parameters()],
        "flags": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": set(vars(model)),
        "config": model.config.to_dict(),  # type: ignore[operator,union-attr]
    }


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["tensors"].keys() == second["tensors"].keys()
    for name, tensor in first["tensors"].items():
        assert torch.equal(tensor, second["tensors"][name]), name
    for key in ("modules", "identities", "flags", "modes", "attributes", "config"):
        assert first[key] == second[key], key


def perturb(model: nn.Module) -> None:
    """Change every trainable parameter, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_base_is_bit_identical_after_training_and_detaching(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    before = snapshot(task_model.model)
    with attached(task_model.model, make_plan(task_model, kind, uneven_ranks(task_model)), seed=0) as adapted:
        adapted.train()
        perturb(adapted)
    assert_same(before, snapshot(task_model.model))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_plan_without_a_head_trains_none(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    plan = make_plan(task_model, kind, uneven_ranks(task_model)).model_copy(update={"head": [], "head_params": 0})
    before = snapshot(task_model.model)
    with attached(task_model.model, plan, seed=0) as adapted:
        trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("lora_" in name for name in trained)
        perturb(adapted)
    assert_same(before, snapshot(task_model.model))


def test_an_error_inside_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    before = snapshot(task_model.model)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, 2)

    def stop_in_the_middle() -> None:
        with attached(task_model.model, plan, seed=0) as adapted:
            perturb(adapted)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_in_the_middle()
    assert_same(before, snapshot(task_model.model))


def test_a_model_that_gives_itself_another_part_meanwhile_is_taken_back_all_the_same(tmp_path: Path) -> None:
    # BigBird makes another attention once it has met a short sample.
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    before = snapshot(task_model.model)
    with attached(task_model.model, make_plan(task_model, TaskKind.CLASSIFICATION, 2), seed=0) as adapted:
        task_model.model.get_submodule("bert.encoder.layer.0.attention.self").add_module("another", nn.Dropout())
        adapted.train()
        perturb(adapted)
    del task_model.model.get_submodule("bert.encoder.layer.0.attention.self").another
    assert_same(before, snapshot(task_model.model))
    assert not any(module.training for module in task_model.model.modules())


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("mamba", r"no LoRA on this MambaForCausalLM \(.*out_proj"),
        ("deepseek_v3", r"no LoRA on the MLPs of this DeepseekV3ForCausalLM, .* \(down_proj, gate_up_proj\)"),
    ],
)
def test_a_model_that_peft_knows_no_lora_for_is_refused_with_the_way_out(family: str, told: str, tmp_path: Path) -> None:
    task_model = tiny_task_model(family, tmp_path, TaskKind.CAUSAL_LM)
    plan, before = make_plan(task_model, TaskKind.CAUSAL_LM, 2), snapshot(task_model.model)
    with (
        pytest.raises(UnsupportedModelError, match=f"{told}.*plan again with --methods"),
        attached(task_model.model, plan, seed=0),
    ):
        pass
    assert_same(before, snapshot(task_model.model))


def test_a_plan_of_nothing_trains_the_head_alone(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    before = snapshot(task_model.model)
    plan = make_plan(task_model, TaskKind.CLASSIFICATION, {})
    with attached(task_model.model, plan, seed=0) as adapted:
        assert sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad) == plan.head_params
        perturb(adapted)
    assert_same(before, snapshot(task_model.model))


def test_adapters_start_at_the_base_model_and_change_it_once_trained(tmp_path: Path) -> None:
    task_model = tiny_task_model("gpt2", tmp_path, TaskKind.CAUSAL_LM)
    tokens = torch.arange(12).reshape(2, 6) + 5
    with torch.no_grad():
        base = task_model.model(input_ids=tokens).logits
        with attached(task_model.model, make_plan(task_model, TaskKind.CAUSAL_LM, 2), seed=0) as adapted:
            assert torch.equal(adapted(input_ids=tokens).logits, base)
            perturb(adapted)
            assert not torch.allclose(adapted(input_ids=tokens).logits, base)


def downs(adapted: nn.Module) -> dict[str, Tensor]:
    return {
        path: module.lora_A["default"].weight.detach().clone()
        for path, module in adapted.named_modules()
        if isinstance(module, LoraLayer)
    }


def test_plans_that_share_a_layer_share_its_start(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    with attached(task_model.model, make_plan(task_model, TaskKind.CLASSIFICATION, 2), seed=3) as adapted:
        small = downs(adapted)
    uneven = make_plan(task_model, TaskKind.CLASSIFICATION, uneven_ranks(task_model))
    with attached(task_model.model, uneven, seed=3) as adapted:
        large = downs(adapted)
    shared = [path for path in large if large[path].shape[0] >= 2]
    assert shared
    assert all(torch.equal(large[path][:2], small[path]) for path in shared)
    with attached(task_model.model, uneven, seed=4) as adapted:
        assert not torch.equal(downs(adapted)[shared[0]], large[shared[0]])
    assert all(tensor.abs().max() <= tensor.shape[1] ** -0.5 for tensor in large.values())
