"""The Trainer starts at the lowest trained block: shuffled, resumed, checkpointed, in either arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from layerlens.adapting import clock
from layerlens.adapting.boundary_start import BOUNDARY_FILE
from layerlens.adapting.trainer import TaskTrainer
from layerlens.adapting.tune import tune
from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.unit.adapting.plans import made_data, make_plan, tiny_task_model
from tests.unit.adapting.test_clock import FakeTime
from tests.unit.adapting.test_tune import StopAfter

KIND = TaskKind.CLASSIFICATION
#: 42 training samples of 60: five batches an epoch, so that most steps meet samples again.
CONFIG = TuneConfig(
    learning_rate=1e-2, max_steps=15, batch_size=8, save_steps=4, precision=Precision.FP32, fit_head=False, keep_in_memory=0
)

Made = tuple[TaskModel, LoadedData, Partition, Plan]


def made(folder: Path, block: int = 1) -> Made:
    """A tiny BERT, samples, and a plan with LoRA from a block on."""
    task_model = tiny_task_model("bert", folder, KIND)
    data = made_data(task_model, KIND, 60)
    ranks = {spec.layer: 2 for spec in describe_layers(task_model.model).layers if (spec.block or 0) >= block}
    return task_model, data, partition(60, None, seed=0, has_eval_data=False), make_plan(task_model, KIND, ranks)


def tuned(run: Made, out: Path, config: TuneConfig = CONFIG) -> tuple[Arm, dict[str, Tensor]]:
    task_model, data, part, plan = run
    arm = tune(plan, task_model, data, part, (data, part.test), config, out=out)
    return arm, load_file(out / "adapter" / "adapter_model.safetensors")


def test_the_arm_says_what_was_frozen_and_kept(tmp_path: Path) -> None:
    run = made(tmp_path / "base")
    _, data, part, _ = run
    arm, _ = tuned(run, tmp_path / "out")
    num_tokens = sum(len(data.examples[sample]["input_ids"]) for sample in part.train)
    assert (arm.frozen_blocks, arm.kept_bytes) == (1, num_tokens * 32 * 4)
    assert arm.epochs == pytest.approx(15 * 8 / len(part.train))
    whole, _ = tuned(made(tmp_path / "base", block=0), tmp_path / "whole")
    assert (whole.frozen_blocks, whole.kept_bytes) == (0, 0)


@pytest.mark.parametrize("steps", [6, 13])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(steps: int, tmp_path: Path) -> None:
    run = made(tmp_path / "base")
    task_model, data, part, plan = run
    whole, _ = tuned(run, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, (data, part.test), CONFIG, out=tmp_path / "stopped", progress=StopAfter(steps))
    assert list((tmp_path / "stopped" / "checkpoints").glob("checkpoint-*"))
    assert not (tmp_path / "stopped" / "checkpoints" / BOUNDARY_FILE).exists()
    resumed, _ = tuned(run, tmp_path / "stopped")
    written = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert written[0] == written[1]
    assert (resumed.metrics, resumed.loss_curve) == (whole.metrics, whole.loss_curve)


def test_checkpoints_cost_no_seconds_of_training_and_a_resumed_run_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = FakeTime()

    def taking(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            time.now += seconds
            return work(*args, **options)

        return timed

    monkeypatch.setattr(clock, "time", time)
    monkeypatch.setattr(TaskTrainer, "compute_loss", taking(10, TaskTrainer.compute_loss))
    monkeypatch.setattr(TaskTrainer, "_save", taking(1000, TaskTrainer._save))
    monkeypatch.setattr(TaskTrainer, "_save_optimizer_and_scheduler", taking(1000, TaskTrainer._save_optimizer_and_scheduler))
    monkeypatch.setattr("layerlens.adapting.trainer.load_file", taking(1000, load_file))
    run = made(tmp_path / "base")
    task_model, data, part, plan = run
    whole, _ = tuned(run, tmp_path / "whole")
    assert whole.train_seconds == 15 * 10
    with pytest.raises(KeyboardInterrupt):
        tune(plan, task_model, data, part, (data, part.test), CONFIG, out=tmp_path / "stopped", progress=StopAfter(6))
    resumed, _ = tuned(run, tmp_path / "stopped")
    assert resumed.train_seconds == 15 * 10


def test_keeping_or_not_gives_the_same_adapter(tmp_path: Path) -> None:
    run = made(tmp_path / "base")
    kept, one = tuned(run, tmp_path / "kept")
    unkept, other = tuned(run, tmp_path / "not", CONFIG.model_copy(update={"keep_at_most": 0}))
    assert kept.kept_bytes > 0 == unkept.kept_bytes
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-5)


def test_checkpointed_training_gives_the_same_adapter_and_leaves_nothing_on_the_model(tmp_path: Path) -> None:
    run = made(tmp_path / "base")
    model = run[0].model
    _, one = tuned(run, tmp_path / "plain")
    arm, other = tuned(run, tmp_path / "checkpointed", CONFIG.model_copy(update={"gradient_checkpointing": True}))
    assert arm.frozen_blocks == 1
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-6)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_bf16_starts_at_the_boundary_too(tmp_path: Path) -> None:
    run = made(tmp_path / "base")
    config = CONFIG.model_copy(update={"precision": Precision.BF16})
    arm, weights = tuned(run, tmp_path / "kept", config)
    _, other = tuned(run, tmp_path / "not", config.model_copy(update={"keep_at_most": 0}))
    assert arm.kept_bytes > 0
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    # Products in bf16 round at 4e-3, so other padding may move a step by as much.
    assert all((tensor - other[name]).abs().max() < 0.02 for name, tensor in weights.items())
