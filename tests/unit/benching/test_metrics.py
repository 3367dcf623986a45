"""Which metrics a task has: those that it really scores by, and a wrong name is told with the right ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerlens.artifacts.profile import TaskInfo
from layerlens.benching.metrics import metric_fault, metrics_of
from layerlens.config.bench import BenchTask
from layerlens.data.tasks import build_task
from layerlens.data.tasks.question_answering import SpanLogits
from layerlens.words import TaskKind

LABELS: tuple[list[Any], list[Any]] = ([0, 1, 1], [{"labels": label} for label in (0, 1, 0)])
ANSWER = {"offsets": [(0, 3)], "context": "yes", "answers": ["yes"]}
#: Predictions of a few samples and the samples, for each kind of task.
SCORED: dict[TaskKind, tuple[list[Any], list[Any]]] = {
    TaskKind.CLASSIFICATION: LABELS,
    TaskKind.PAIR_CLASSIFICATION: LABELS,
    TaskKind.IMAGE_CLASSIFICATION: LABELS,
    TaskKind.REGRESSION: LABELS,
    TaskKind.CAUSAL_LM: ([(2.0, 1)], [{}]),
    TaskKind.QUESTION_ANSWERING: ([SpanLogits(np.zeros(1), np.zeros(1))], [ANSWER]),
    TaskKind.EMBEDDING: ([np.ones(2), np.ones(2)], [{}, {}]),
}


@pytest.mark.parametrize("num_labels", [2, 3])
@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_task_s_metrics_are_those_that_it_scores_by(kind: TaskKind, num_labels: int) -> None:
    task = build_task(TaskInfo(kind=kind, num_labels=num_labels), SimpleNamespace(pad_token_id=0))
    assert metrics_of(task.info) == ["loss", *task.score(*SCORED[kind])]
    assert task.primary_metric in metrics_of(task.info)


def test_a_name_that_no_task_has_is_told_before_the_data_are_looked_at() -> None:
    fault = metric_fault("t", BenchTask(data="d", metric="bleu"))
    assert fault is not None
    assert fault.startswith("tasks.t.metric: bleu is no metric of any task; known are loss, accuracy, ")
    asked = BenchTask(data="d", metric="accuracy", task=TaskKind.REGRESSION)
    words = "tasks.t.metric: accuracy is no metric of regression; known are loss, pearson, spearman, mean_squared_error"
    assert metric_fault("t", asked) == words


def test_a_name_that_some_task_has_is_told_once_the_task_is_known() -> None:
    task = BenchTask(data="d", metric="macro_f1")
    assert metric_fault("t", task) is None
    assert metric_fault("t", task, TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=3)) is None
    fault = metric_fault("t", task, TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=2))
    assert fault == "tasks.t.metric: macro_f1 is no metric of classification; known are loss, accuracy, f1, matthews"
    assert metric_fault("t", BenchTask(data="d"), TaskInfo(kind=TaskKind.EMBEDDING)) is None
