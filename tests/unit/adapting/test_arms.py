"""Every arm runs through the same trainer from the same start, and leaves the base as it found it."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.adapting.arms import ArmName, customary_ranks, run_arm, with_ranks
from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.errors import ConfigError
from layerlens.models.load import TaskModel
from layerlens.words import TaskKind
from tests.unit.adapting.plans import made_data, make_plan, tiny_task_model
from tests.unit.adapting.test_attach import assert_same, snapshot

KIND = TaskKind.CLASSIFICATION
QUICK = TuneConfig(learning_rate=1e-3, max_steps=3, batch_size=8, precision=Precision.BF16)


@pytest.fixture
def setting(tmp_path: Path) -> tuple[TaskModel, LoadedData, Partition, dict[str, Plan]]:
    task_model = tiny_task_model("bert", tmp_path / "base", KIND)
    plans = {"uniform": make_plan(task_model, KIND, 1, name="uniform"), "other": make_plan(task_model, KIND, 2, name="other")}
    return task_model, made_data(task_model, KIND, 60), partition(60, None, seed=0, has_eval_data=False), plans


def test_every_arm_trains_what_it_says_and_leaves_the_base_to_the_bit(
    setting: tuple[TaskModel, LoadedData, Partition, dict[str, Plan]], tmp_path: Path
) -> None:
    task_model, data, part, plans = setting
    plan = plans["other"]
    total = sum(parameter.numel() for parameter in task_model.model.parameters())
    # Tiny BERT: 2 blocks, hidden 32, so query and value are 32 × 32 each.
    expected = {"full": total - plan.head_params, "query+value": 2 * 2 * 8 * 64, "uniform": plans["uniform"].params, "head": 0}
    first_losses = set()
    before = None
    for name in ArmName:
        arm = run_arm(name, plan, plans, task_model, data, part, (data, part.test), QUICK, out=tmp_path / name)
        assert arm.name == name
        assert arm.trainable_params == expected.get(name, plan.params)
        assert arm.head_params == plan.head_params
        first_losses.add(round(arm.loss_curve[0].loss, 5))
        now = snapshot(task_model.model)
        before = before or now
        assert_same(before, now)
    # The same head, the same first batch, adapters that start at zero, and the same dropout: the same first loss.
    assert len(first_losses) == 1


def test_full_fine_tuning_changes_the_body_while_it_runs(
    setting: tuple[TaskModel, LoadedData, Partition, dict[str, Plan]], tmp_path: Path
) -> None:
    task_model, data, part, plans = setting
    config = QUICK.model_copy(update={"max_steps": 15, "learning_rate": 5e-3})
    arms = {
        name: run_arm(name, plans["other"], plans, task_model, data, part, (data, part.train), config, out=tmp_path / name)
        for name in (ArmName.FULL, ArmName.HEAD)
    }
    assert arms[ArmName.FULL].metrics["loss"] < arms[ArmName.HEAD].metrics["loss"]


def test_peft_customary_layers_are_query_and_value_or_the_fused_one(tmp_path: Path) -> None:
    llama = tiny_task_model("llama", tmp_path / "llama", TaskKind.CAUSAL_LM)
    names = customary_ranks(make_plan(llama, TaskKind.CAUSAL_LM, 1), 8)
    assert {name.rpartition(".")[2] for name in names} == {"q_proj", "v_proj"}
    gpt2 = tiny_task_model("gpt2", tmp_path / "gpt2", TaskKind.CAUSAL_LM)
    names = customary_ranks(make_plan(gpt2, TaskKind.CAUSAL_LM, 1), 8)
    assert {name.rpartition(".")[2] for name in names} == {"c_attn"}
    assert set(names.values()) == {8}


def test_ranks_by_hand_give_a_plan_of_the_same_model(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    plan = make_plan(task_model, KIND, 3)
    one = plan.layers[4]
    made = with_ranks(plan, {one.layer: 5})
    assert made.ranks == {one.layer: 5}
    assert made.params == 5 * (one.in_features + one.out_features)
    assert with_ranks(plan, {}).adapted == []


def test_arms_that_cannot_run_are_refused(
    setting: tuple[TaskModel, LoadedData, Partition, dict[str, Plan]], tmp_path: Path
) -> None:
    task_model, data, part, plans = setting
    plan, evaluation = plans["other"], (data, part.test)
    with pytest.raises(ConfigError, match="unknown arm nobody; known are full"):
        run_arm("nobody", plan, plans, task_model, data, part, evaluation, QUICK, out=tmp_path / "out")
    with pytest.raises(ConfigError, match="no uniform candidate"):
        run_arm("uniform", plan, {}, task_model, data, part, evaluation, QUICK, out=tmp_path / "out")
    anonymous = plan.model_copy(update={"layers": [layer.model_copy(update={"role": "other"}) for layer in plan.layers]})
    with pytest.raises(ConfigError, match="no layer of this model is known as query or value"):
        run_arm("query+value", anonymous, plans, task_model, data, part, evaluation, QUICK, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
