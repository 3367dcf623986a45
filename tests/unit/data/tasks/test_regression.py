from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.regression import Regression
from layerlens.words import TaskKind

TASK = Regression(TaskInfo(kind=TaskKind.REGRESSION, num_labels=1), pad_token_id=0)
EXAMPLES = [
    {"input_ids": [2, 7, 8, 3], "attention_mask": [1] * 4, "labels": 2.5},
    {"input_ids": [2, 9, 3], "attention_mask": [1] * 3, "labels": 0.0},
]


def test_the_models_own_loss_is_twice_the_mean(tiny: Callable[[str], Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), num_labels=1, problem_type="regression").eval()
    batch = TASK.collate(EXAMPLES)
    with torch.no_grad():
        outputs = model(**batch)
    torch.testing.assert_close(2 * TASK.per_sample_loss(outputs, batch).mean(), outputs.loss)


def test_the_loss_is_a_unit_gaussians_up_to_its_constant() -> None:
    batch = {"labels": torch.tensor([1.0, -2.0])}
    outputs = SimpleNamespace(logits=torch.tensor([[0.5], [3.0]]))
    expected = -torch.distributions.Normal(torch.tensor([0.5, 3.0]), 1.0).log_prob(batch["labels"])
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(TASK.per_sample_loss(outputs, batch), expected - constant)


def test_labels_are_drawn_around_the_prediction_with_unit_variance() -> None:
    num = 40_000
    outputs = SimpleNamespace(logits=torch.full((num, 1), 2.0))
    drawn = TASK.sample_labels(outputs, {"labels": torch.zeros(num)}, torch.Generator().manual_seed(0))["labels"]
    assert drawn.shape == (num,)
    assert abs(float(drawn.mean()) - 2.0) < 4 / num**0.5
    assert abs(float(drawn.var()) - 1.0) < 4 * (2 / num) ** 0.5


def test_scores_are_correlations() -> None:
    examples = [{"labels": value} for value in (0.0, 1.0, 2.0, 5.0)]
    scores = TASK.score([1.0, 2.0, 3.0, 4.0], examples)
    assert scores["spearman"] == pytest.approx(1.0)
    assert 0.9 < scores["pearson"] < 1.0
    assert scores["mean_squared_error"] == pytest.approx((1 + 1 + 1 + 1) / 4)
