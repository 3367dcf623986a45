"""Models that were not trained here become arms beside those that were."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.data.inference import score
from layerlens.errors import ConfigError
from layerlens.evaluation.run import evaluate_model, make_evaluation
from layerlens.words import TaskKind
from tests.unit.adapting.plans import made_data, tiny_task_model

KIND = TaskKind.CLASSIFICATION


def test_an_evaluated_model_is_an_arm_that_trained_nothing(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 40)
    arm = evaluate_model(task_model.model, data, range(30), name="base", batch_size=8)
    assert (arm.name, arm.trainable_params, arm.train_seconds) == ("base", 0, 0.0)
    assert arm.metrics == score(task_model.model, data.task, data.take(range(30)), batch_size=8)
    assert arm.metrics != score(task_model.model, data.task, data.take(range(10, 40)), batch_size=8)


def test_arms_stand_side_by_side_under_the_tasks_own_metric(tmp_path: Path) -> None:
    task_model = tiny_task_model("gpt2", tmp_path, TaskKind.CAUSAL_LM)
    data = made_data(task_model, TaskKind.CAUSAL_LM, 12)
    arms = [evaluate_model(task_model.model, data, range(12), name=name, batch_size=8) for name in ("one", "two")]
    found = make_evaluation(arms, data, model="tiny", eval_samples=12, command="test", versions={"torch": "1"})
    assert (found.primary_metric, found.task, found.arms) == ("perplexity", "causal-lm", arms)
    with pytest.raises(ConfigError, match="nothing was evaluated"):
        make_evaluation([], data, model="tiny", eval_samples=12, command="test", versions={})
