"""AdaLoRA trains through our Trainer as PEFT means it: its ranks fall, what is masked stays masked, and the budget holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.adalora import AdaLoraLayer
from torch import nn

from layerlens.adapting.arms.adalora import START_SHARE, RankBudget, orthogonal_penalty, run_adalora
from layerlens.adapting.arms.job import ArmJob, Prepared
from layerlens.artifacts.evaluation import Arm
from layerlens.errors import ConfigError
from tests.unit.adapting.arms.settings import QUICK, after_training, made
from tests.unit.adapting.test_tune import StopAfter

CONFIG = QUICK.model_copy(update={"max_steps": 12, "save_steps": 2, "learning_rate": 1e-2})


def layers_of(model: nn.Module) -> dict[str, AdaLoraLayer]:
    named = model.named_modules()
    return {path.removeprefix("base_model.model."): module for path, module in named if isinstance(module, AdaLoraLayer)}


def test_ranks_fall_to_the_plans_parameters_and_the_rest_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    kept: dict[str, int] = {}

    def look(model: nn.Module) -> None:
        kept.update({path: int((module.lora_E["default"] != 0).sum()) for path, module in layers_of(model).items()})

    after_training(monkeypatch, look)
    arm = setting.run("adalora", "out", config=CONFIG)
    costs = {entry.layer: entry.in_features + entry.out_features + 1 for entry in setting.plan.layers}
    assert arm.details["ranks"] == {layer: rank for layer, rank in kept.items() if rank}
    assert arm.trainable_params == sum(costs[layer] * rank for layer, rank in kept.items())
    assert setting.plan.params - max(costs.values()) < arm.trainable_params <= setting.plan.params
    assert len(set(kept.values())) > 1, "layers differ in what they keep"
    start = arm.details["start_rank"]
    assert max(kept.values()) <= start
    assert arm.details["start_params"] == start * sum(costs.values()) > START_SHARE * arm.trainable_params


def test_a_stopped_run_ends_as_one_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, config = made(tmp_path), CONFIG.model_copy(update={"max_steps": 8})
    weights: list[dict[str, torch.Tensor]] = []

    def look(model: nn.Module) -> None:
        weights.append({name: tensor.clone() for name, tensor in model.named_parameters() if tensor.requires_grad})

    after_training(monkeypatch, look)
    whole = setting.run("adalora", "whole", config=config)
    # Before the last allocation (step 4 of 8) the scores go on, after it the masks.
    for stopped_after in (3, 6):
        out = f"stopped {stopped_after}"
        with pytest.raises(KeyboardInterrupt):
            setting.run("adalora", out, config=config, progress=StopAfter(stopped_after))
        resumed = setting.run("adalora", out, config=config)
        assert (resumed.metrics, resumed.details, resumed.loss_curve) == (whole.metrics, whole.details, whole.loss_curve)
        assert all(torch.equal(tensor, weights[0][name]) for name, tensor in weights[-1].items())


def test_the_start_follows_the_seed_and_changes_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    starts: list[torch.Tensor] = []

    def look(model: nn.Module) -> None:
        layer = next(iter(layers_of(model).values()))
        assert not layer.lora_E["default"].any()
        starts.append(layer.lora_A["default"].detach().clone())

    after_training(monkeypatch, look, trains=False)
    for number, seed in enumerate((0, 0, 1)):
        setting.run("adalora", f"out{number}", config=CONFIG.model_copy(update={"seed": seed, "max_steps": 2}))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def prepared_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> tuple[ArmJob, Prepared]:
    """What the arm would train, held open."""
    job = made(tmp_path).job("adalora", "out", config=CONFIG)
    held: list[Prepared] = []

    def hold(self: ArmJob, trained: dict[str, Any], params: int, prepared: Callable[[], AbstractContextManager[Prepared]]) -> Arm:
        held.append(stack.enter_context(prepared()))
        return Arm(name="held", metrics={}, trainable_params=0, train_seconds=0, peak_memory_bytes=0, seed=0)

    monkeypatch.setattr(ArmJob, "run_adapters", hold)
    run_adalora(job)
    return job, held[0]


def test_the_penalty_is_the_one_that_peft_adds_to_losses_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        job, ready = prepared_model(tmp_path, monkeypatch, stack)
        batch = job.data.task.collate(job.data.take(job.part.train[:4]))
        ready.model.eval()
        with_penalty = ready.model(**batch).loss
        plain = nn.functional.cross_entropy(ready.model(**job.data.task.model_inputs(batch)).logits, batch["labels"])
        penalty = orthogonal_penalty(ready.model)
        assert penalty.item() > 0.1
        torch.testing.assert_close(with_penalty - plain, penalty, atol=1e-5, rtol=1e-5)


def test_the_last_allocation_keeps_the_most_that_the_parameters_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        job, ready = prepared_model(tmp_path, monkeypatch, stack)
        (budget,) = ready.hooks.callbacks
        assert isinstance(budget, RankBudget)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in budget.tuner.model.named_parameters():
            if "lora_" in name:
                budget.allocator.exp_avg_ipt[name] = torch.rand(parameter.shape, generator=generator)
                budget.allocator.exp_avg_unc[name] = torch.rand(parameter.shape, generator=generator)
        values = [module.lora_E["default"] for module in budget.layers.values()]
        for value in values:
            value.data.fill_(1.0)
        found = budget.affordable()
        assert all(bool((value == 1.0).all()) for value in values), "asking masks nothing"
        params = []
        for number in itertools.count(1):
            if number == budget.allocator.init_bgt:
                break
            pattern = budget.allocator.mask_to_budget(budget.tuner.model, number)
            kept = {name.partition(".lora_E")[0]: sum(mask) for name, mask in pattern.items()}
            assert sum(kept.values()) == number
            params.append(sum(budget.costs[layer] * rank for layer, rank in kept.items()))
        assert found == sum(total <= job.plan.params for total in params)


@pytest.mark.parametrize("num_steps", [2, 3, 4, 7])
def test_even_a_short_run_allocates(num_steps: int, tmp_path: Path) -> None:
    setting = made(tmp_path)
    arm = setting.run("adalora", "out", config=QUICK.model_copy(update={"max_steps": num_steps}))
    assert 0 < arm.trainable_params <= setting.plan.params


def test_a_single_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs 2 training steps or more"):
        run_adalora(made(tmp_path).job("adalora", "out", config=QUICK.model_copy(update={"max_steps": 1})))
