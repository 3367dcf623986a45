"""Which rows of two models' outputs are compared, task by task."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.compared import Compared, distances, embedded_rows, predicted_rows
from layerlens.data.tasks.causal_lm import CausalLM
from layerlens.data.tasks.classification import Classification
from layerlens.data.tasks.question_answering import QuestionAnswering
from layerlens.data.tasks.regression import Regression
from layerlens.words import TaskKind


def test_a_language_model_is_compared_where_a_token_is_predicted() -> None:
    task = CausalLM(TaskInfo(kind=TaskKind.CAUSAL_LM), pad_token_id=0)
    batch = task.collate([{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids} for ids in ([5, 6, 7, 8], [9, 5])])
    batch["labels"][0, 2] = -100
    logits = torch.randn(2, 4, 3)
    rows = predicted_rows(task, SimpleNamespace(logits=logits), batch)
    assert torch.equal(rows.rows, torch.stack([logits[0, 0], logits[0, 2], logits[1, 0]]))
    assert rows.samples.tolist() == [0, 0, 1]
    assert rows.kind is Compared.DISTRIBUTION


def test_classes_give_one_row_a_sample_and_numbers_a_squared_difference() -> None:
    logits = torch.randn(4, 3)
    task = Classification(TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=3), pad_token_id=0)
    rows = predicted_rows(task, SimpleNamespace(logits=logits), {})
    assert torch.equal(rows.rows, logits)
    assert rows.samples.tolist() == [0, 1, 2, 3]
    regression = Regression(TaskInfo(kind=TaskKind.REGRESSION, num_labels=1), pad_token_id=0)
    first, second = (
        predicted_rows(regression, SimpleNamespace(logits=torch.tensor([[value], [1.0]])), {}) for value in (2.0, 5.0)
    )
    found = distances(first, second)
    assert found.values.tolist() == [4.5, 0.0]
    assert found.is_same_top is None
    assert found.cosine is None


def test_answers_are_compared_over_tokens_that_are_no_padding() -> None:
    task = QuestionAnswering(TaskInfo(kind=TaskKind.QUESTION_ANSWERING), pad_token_id=0)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    first, second = (SimpleNamespace(start_logits=torch.randn(2, 3), end_logits=torch.randn(2, 3)) for _ in range(2))
    rows = [predicted_rows(task, outputs, {"attention_mask": mask}) for outputs in (first, second)]
    assert rows[0].samples.tolist() == [0, 1, 0, 1]
    found = distances(*rows).values
    p, q = first.end_logits[1, :2].double().log_softmax(-1), second.end_logits[1, :2].double().log_softmax(-1)
    assert float(found[3]) == pytest.approx(float((p.exp() * (p - q)).sum()))


def test_an_embedding_is_the_mean_over_tokens_that_are_no_padding() -> None:
    hidden = torch.randn(2, 3, 4)
    masked = embedded_rows(hidden, torch.tensor([[True, True, False], [True, True, True]]))
    torch.testing.assert_close(masked.rows, torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)]))
    torch.testing.assert_close(embedded_rows(hidden, None).rows, hidden.mean(1))
    assert distances(masked, masked).values.tolist() == [0.0, 0.0]
