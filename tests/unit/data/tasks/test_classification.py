from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.classification import Classification
from layerlens.words import TaskKind
from tests.unit.data.tasks.sampling import largest_z

INFO = TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=3, label_names=["a", "b", "c"])
EXAMPLES = [
    {"input_ids": [2, 7, 8, 3], "attention_mask": [1] * 4, "labels": 2},
    {"input_ids": [2, 9, 3], "attention_mask": [1] * 3, "labels": 0},
    {"input_ids": [2, 30, 31, 32, 33, 3], "attention_mask": [1] * 6, "labels": 1},
]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_the_mean_loss_is_the_models_own(tiny: Callable[[str], Path], family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny(family), num_labels=3, pad_token_id=0).eval()
    task = Classification(INFO, pad_token_id=0)
    batch = task.collate(EXAMPLES)
    with torch.no_grad():
        losses = task.per_sample_loss(model(**task.model_inputs(batch)), batch)
        torch.testing.assert_close(losses.mean(), model(**batch).loss)
        alone = [task.collate([example]) for example in EXAMPLES]
        singles = torch.stack([model(**single).loss for single in alone])
    torch.testing.assert_close(losses, singles, rtol=1e-4, atol=1e-5)


def test_labels_are_taken_out_of_the_models_inputs_and_padding_is_masked() -> None:
    task = Classification(INFO, pad_token_id=0)
    batch = task.collate(EXAMPLES)
    assert set(task.model_inputs(batch)) == {"input_ids", "attention_mask"}
    mask = task.token_mask(batch)
    assert mask is not None
    assert mask.sum(1).tolist() == [4, 3, 6]


def test_classes_are_drawn_as_often_as_the_model_says() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    outputs = SimpleNamespace(logits=logits)
    batch = {"labels": torch.zeros(20_000, dtype=torch.long), "input_ids": torch.zeros(1)}
    drawn = Classification(INFO, 0).sample_labels(outputs, batch, torch.Generator().manual_seed(1))
    assert largest_z(drawn["labels"], logits[0].softmax(-1)) < 4
    assert batch["labels"].sum() == 0
    assert drawn["input_ids"] is batch["input_ids"]


def test_a_generator_gives_the_same_labels_again() -> None:
    outputs = SimpleNamespace(logits=torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    draws = [
        Classification(INFO, 0).sample_labels(outputs, {}, torch.Generator().manual_seed(seed))["labels"].tolist()
        for seed in (4, 4, 5)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_low_precision_logits_are_summed_up_in_float32() -> None:
    outputs = SimpleNamespace(logits=torch.zeros(2, 3, dtype=torch.bfloat16))
    losses = Classification(INFO, 0).per_sample_loss(outputs, {"labels": torch.tensor([0, 1])})
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.full((2,), 3.0).log())


def test_two_classes_are_scored_by_f1_of_the_second_and_more_by_the_mean() -> None:
    two = TaskInfo(kind=TaskKind.CLASSIFICATION, num_labels=2, label_names=["no", "yes"])
    examples = [{"labels": 1}, {"labels": 0}, {"labels": 1}, {"labels": 1}]
    scores = Classification(two, 0).score([1, 1, 0, 1], examples)
    assert scores["accuracy"] == 0.5
    assert scores["f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert set(Classification(INFO, 0).score([1, 1, 0, 1], examples)) == {"accuracy", "macro_f1", "matthews"}


def test_the_most_probable_class_is_predicted() -> None:
    outputs = SimpleNamespace(logits=torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    assert Classification(INFO, 0).predictions(outputs, {}) == [1, 0]
