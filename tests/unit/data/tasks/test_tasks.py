from __future__ import annotations

from types import SimpleNamespace

import pytest

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks import build_task
from layerlens.words import TaskKind


@pytest.mark.parametrize("kind", list(TaskKind))
def test_every_kind_has_a_task_with_its_own_description(kind: TaskKind) -> None:
    info = TaskInfo(kind=kind, num_labels=2)
    assert build_task(info, SimpleNamespace(pad_token_id=5)).info == info


def test_tokens_are_padded_as_the_tokenizer_says() -> None:
    task = build_task(TaskInfo(kind=TaskKind.CAUSAL_LM), SimpleNamespace(pad_token_id=5))
    rows = [{"input_ids": [1] * length, "attention_mask": [1] * length, "labels": [1] * length} for length in (1, 2)]
    batch = task.collate(rows)
    assert batch["input_ids"].tolist() == [[1, 5], [1, 1]]
    assert batch["labels"].tolist() == [[1, -100], [1, 1]]


@pytest.mark.parametrize("kind", sorted(set(TaskKind) - {TaskKind.IMAGE_CLASSIFICATION}))
def test_a_batch_can_be_padded_on_to_a_multiple(kind: TaskKind) -> None:
    task = build_task(TaskInfo(kind=kind, num_labels=2, max_length=6), SimpleNamespace(pad_token_id=5))
    labels = {"labels": [1] * 3 if kind is TaskKind.CAUSAL_LM else 1, "start_positions": 1, "end_positions": 2}
    rows = [{"input_ids": [1] * 3, "attention_mask": [1] * 3, **labels}]
    batch = task.collate(rows, multiple_of=4)
    assert batch["input_ids"].tolist() == [[1, 1, 1, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert task.collate(rows, multiple_of=16)["input_ids"].shape == (1, 6), "no sample is longer than the task's max_length"
