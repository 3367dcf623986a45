"""Every arm runs through the same trainer from the same start, and leaves the base as it found it."""

from __future__ import annotations

import pytest

from layerlens.adapting.arms.names import ArmName
from layerlens.artifacts.plan import Plan
from layerlens.errors import ConfigError
from tests.unit.adapting.arms.settings import QUICK, Setting, made
from tests.unit.adapting.test_attach import assert_same, snapshot


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    # Arms that freeze lower blocks have no dropout there, so without any every arm computes the same at first.
    return made(tmp_path_factory.mktemp("arms"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="module")
def first_losses() -> list[float]:
    return []


@pytest.mark.parametrize("name", ArmName)
def test_every_arm_trains_what_it_says_and_leaves_the_base_to_the_bit(
    name: ArmName, setting: Setting, first_losses: list[float]
) -> None:
    if name in (ArmName.SEARCH, ArmName.SEARCH_10X):
        pytest.importorskip("optuna", reason="the extra `search` is not installed")
    plan, model = setting.plan, setting.task_model.model
    setting.run(ArmName.HEAD, "fits the head")
    before = snapshot(model)
    total = sum(parameter.numel() for parameter in model.parameters())
    # Tiny BERT: 2 blocks, hidden 32, so query and value are 32 × 32 each.
    others = {"full": total - plan.head_params, "query+value": 2 * 2 * 8 * 64, "head": 0}
    arm = setting.run(name, name.value, search_steps=3, plan=plan_of(name, setting))
    assert (arm.name, arm.head_params, arm.steps) == (name, plan.head_params, QUICK.max_steps)
    if name is ArmName.ADALORA:
        assert plan.params - 2 * 96 < arm.trainable_params <= plan.params
    else:
        assert arm.trainable_params == others.get(name, plan.params)
    assert_same(before, snapshot(model))
    # The same head, the same first batch, and adapters that start at zero: the same first loss.
    first_losses.append(arm.loss_curve[0].loss)
    assert first_losses[-1] == pytest.approx(first_losses[0], abs=1e-5)
    # A finished arm is read, not run.
    state = (setting.folder / name / "arm.json").read_bytes()
    assert setting.run(name, name.value, search_steps=3, plan=plan_of(name, setting)) == arm
    assert (setting.folder / name / "arm.json").read_bytes() == state


def plan_of(name: ArmName, setting: Setting) -> Plan:
    chosen = setting.plan.chosen.model_copy(update={"name": "optimum-whitened"})
    return setting.plan.model_copy(update={"chosen": chosen}) if name is ArmName.NO_RACE else setting.plan


def test_full_fine_tuning_changes_the_body_while_it_runs(setting: Setting) -> None:
    config = QUICK.model_copy(update={"max_steps": 15, "learning_rate": 5e-3})
    full, head = (setting.run(name, f"long {name}", config=config) for name in (ArmName.FULL, ArmName.HEAD))
    assert full.loss_curve[-1].loss < head.loss_curve[-1].loss


def test_an_unknown_arm_is_refused_before_anything_is_written(setting: Setting) -> None:
    with pytest.raises(ConfigError, match="unknown arm nobody; known are full"):
        setting.run("nobody", "out")
    assert not (setting.folder / "out").exists()


def test_a_folder_of_another_run_is_refused(setting: Setting) -> None:
    for name in (ArmName.ADALORA, ArmName.EVA, ArmName.GRADIENT_INIT, ArmName.UNIFORM_RSLORA):
        with pytest.raises(ConfigError, match="belongs to another run"):
            setting.run(name, "fits the head")
