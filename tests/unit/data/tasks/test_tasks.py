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
