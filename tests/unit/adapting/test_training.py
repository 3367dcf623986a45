"""The race's loop trains what is trainable, by the schedule, the same way each time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from layerlens.adapting.attach import attached
from layerlens.adapting.lora import trainable_state
from layerlens.adapting.optimizer import LinearWarmupDecay, build_optimizer, build_schedule
from layerlens.adapting.training import train
from layerlens.config import Precision, TrainingConfig
from layerlens.errors import NotFiniteError
from layerlens.nn.bottleneck import BOTTLENECK_RATE
from layerlens.nn.prefix import PREFIX_RATE
from layerlens.words import TaskKind
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import made_data, make_plan, tiny_task_model

KIND = TaskKind.CLASSIFICATION
CONFIG = TrainingConfig(learning_rate=1e-2, precision=Precision.FP32)


def test_the_rate_rises_to_its_peak_and_falls_to_zero_within_the_horizon() -> None:
    shape = LinearWarmupDecay(20, 4)
    rates = [shape(step) for step in range(21)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:] == pytest.approx([1 - number / 16 for number in range(1, 17)])
    assert all(rate > 0 for rate in rates[:20])
    assert rates[20] == 0


def test_a_horizon_of_one_step_still_trains() -> None:
    assert LinearWarmupDecay(1, 1)(0) > 0
    assert LinearWarmupDecay(1, 0)(0) == 1.0


def test_vectors_are_not_decayed_and_the_frozen_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"weight_decay": 0.3}))
    groups = [
        (group["weight_decay"], [tuple(parameter.shape) for parameter in group["params"]]) for group in optimizer.param_groups
    ]
    assert groups == [(0.3, [(2, 3)]), (0.0, [(2,), (2,), (2,)])]


def rates_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, set[float]]:
    """Learning rates by kind of parameter."""
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, set[float]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kinds = ("lora_", "pooler", "classifier", "bottleneck", "prefix")
            kind = next((kind for kind in kinds if kind in name), name)
            found.setdefault(kind, set()).add(rates[id(parameter)])
    return found


def test_one_rate_serves_a_mixed_plan_at_each_methods_multiple_of_it(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    with attached(task_model.model, mixed_plan(task_model, KIND), seed=0) as adapted:
        rates = rates_of(adapted, build_optimizer(adapted, CONFIG, new_parameters=task_model.new_parameters))
    assert rates["lora_"] == {1e-2}
    assert rates["bottleneck"] == {BOTTLENECK_RATE * 1e-2}
    assert rates["prefix"] == {PREFIX_RATE * 1e-2}
    assert rates["classifier"] == {1e-2}


def test_pretrained_matrices_beside_adapters_take_small_steps(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    assert {name.partition(".")[0] for name in task_model.new_parameters} == {"classifier"}
    with attached(task_model.model, make_plan(task_model, KIND, 1), seed=0) as adapted:
        default = build_optimizer(adapted, CONFIG, new_parameters=task_model.new_parameters)
        assert rates_of(adapted, default) == {"lora_": {1e-2}, "pooler": {5e-4}, "classifier": {1e-2}}
        given = CONFIG.model_copy(update={"head_learning_rate": 3e-5})
        of_its_own = build_optimizer(adapted, given, new_parameters=task_model.new_parameters)
        assert rates_of(adapted, of_its_own) == {"lora_": {1e-2}, "pooler": {3e-5}, "classifier": {3e-5}}


def test_the_second_factor_of_a_lora_may_have_a_rate_of_its_own(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    config = CONFIG.model_copy(update={"loraplus_lr_ratio": 8.0})
    with attached(task_model.model, make_plan(task_model, KIND, 1), seed=0) as adapted:
        optimizer = build_optimizer(adapted, config, new_parameters=task_model.new_parameters)
        rate_of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        seen = {name.split(".")[-3]: rate_of[id(parameter)] for name, parameter in adapted.named_parameters() if "lora_" in name}
    assert seen == {"lora_A": 1e-2, "lora_B": pytest.approx(8e-2)}


def test_a_model_that_trains_as_a_whole_has_one_rate(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    optimizer = build_optimizer(task_model.model, CONFIG.model_copy(update={"head_learning_rate": 3e-5}))
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}


def test_the_schedule_gives_the_optimizer_its_rate() -> None:
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, CONFIG)
    schedule = build_schedule(optimizer, num_steps=10, warmup_ratio=0.2)
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(seen) == seen[2] == pytest.approx(1e-2)
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_equal_seeds_train_to_equal_bits_and_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data, plan = made_data(task_model, KIND, 40), make_plan(task_model, KIND, 2)
    batches = [list(range(start, start + 8)) for start in range(0, 40, 8)]
    drawn, results = CONFIG.model_copy(update={"dropout": True}), []
    for seed in (0, 0, 1):
        with attached(task_model.model, plan, seed=0) as adapted:
            state = torch.get_rng_state()
            losses = train(adapted, data.task, data.examples, batches, drawn, seed=seed)
            assert torch.equal(torch.get_rng_state(), state)
            results.append((losses, {name: tensor.clone() for name, tensor in trainable_state(adapted).items()}))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(tensor, results[1][1][name]) for name, tensor in results[0][1].items())
    # Another seed draws other dropout, from the second number on: adapters that are zero hide nothing of it.
    assert results[0][0] != results[2][0]


def test_a_step_is_adamw_on_the_mean_loss_with_clipping(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data, plan = made_data(task_model, KIND, 8), make_plan(task_model, KIND, {})
    config = CONFIG.model_copy(
        update={"max_grad_norm": 0.01, "warmup_ratio": 0.0, "weight_decay": 0.0, "head_learning_rate": 1e-2}
    )
    batch = data.task.collate(list(data.examples))
    with attached(task_model.model, plan, seed=0) as adapted:
        start = {name: tensor.clone() for name, tensor in trainable_state(adapted).items()}
        logits = adapted(**data.task.model_inputs(batch)).logits
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        parameters = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        losses = train(adapted, data.task, data.examples, [list(range(8))], config, seed=0)
        trained = trainable_state(adapted)
        assert losses == pytest.approx([loss.item()])
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        assert norm > 0.01
        for name, gradient in gradients.items():
            clipped = gradient * 0.01 / norm
            # AdamW's first step: the bias-corrected moments are the gradient and its square.
            expected = start[name] - 1e-2 * clipped / (clipped.abs() + 1e-8)
            torch.testing.assert_close(trained[name], expected, rtol=1e-3, atol=1e-5)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 8)
    with torch.no_grad():
        task_model.model.get_submodule("classifier").bias.fill_(float("inf"))
    with (
        attached(task_model.model, make_plan(task_model, KIND, 1), seed=0) as adapted,
        pytest.raises(NotFiniteError, match="diverged: the loss is nan at step 1"),
    ):
        train(adapted, data.task, data.examples, [[0, 1]], CONFIG, seed=0)
