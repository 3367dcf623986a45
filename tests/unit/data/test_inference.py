"""Inference gives each sample its own loss and prediction, in the order given, whatever the batches were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.data.inference import as_float32, infer, score
from layerlens.errors import DataError, NotFiniteError
from layerlens.words import TaskKind
from tests.unit.adapting.plans import made_data, tiny_task_model

KIND = TaskKind.CLASSIFICATION


def test_batches_change_nothing_and_the_order_is_that_of_the_samples(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 23)
    found = infer(task_model.model, data.task, data.examples, batch_size=5)
    for number, example in enumerate(data.examples):
        batch = data.task.collate([example])
        with torch.no_grad():
            logits = task_model.model(**data.task.model_inputs(batch)).logits
        assert found.losses[number] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, batch["labels"])), rel=1e-4)
        assert found.predictions[number] == int(logits.argmax())


def test_the_training_mode_is_restored_and_dropout_is_off(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 10)
    task_model.model.train()
    first, second = (infer(task_model.model, data.task, data.examples, batch_size=4, has_predictions=False) for _ in range(2))
    assert task_model.model.training
    assert np.array_equal(first.losses, second.losses)
    assert first.predictions == []


def test_scores_are_the_mean_loss_and_the_metrics_of_the_task(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 30)
    found = infer(task_model.model, data.task, data.examples, batch_size=8)
    scores = score(task_model.model, data.task, data.examples, batch_size=8)
    right = [prediction == example["labels"] for prediction, example in zip(found.predictions, data.examples, strict=True)]
    assert scores["accuracy"] == pytest.approx(np.mean(right))
    assert scores["loss"] == pytest.approx(found.losses.mean())


def test_nothing_to_score_and_a_damaged_model_are_errors(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, KIND)
    data = made_data(task_model, KIND, 6)
    with pytest.raises(DataError, match="no samples"):
        score(task_model.model, data.task, [], batch_size=8)
    with torch.no_grad():
        task_model.model.get_submodule("classifier").weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="the loss of 6 of 6 evaluation samples is not finite"):
        score(task_model.model, data.task, data.examples, batch_size=4)


def test_low_precision_outputs_become_float32() -> None:
    outputs = as_float32({"logits": torch.ones(2, dtype=torch.bfloat16), "kept": torch.ones(2, dtype=torch.long), "none": None})
    assert outputs["logits"].dtype is torch.float32
    assert outputs["kept"].dtype is torch.long
