from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.causal_lm import CausalLM
from layerlens.words import TaskKind
from tests.unit.data.tasks.sampling import largest_z

TASK = CausalLM(TaskInfo(kind=TaskKind.CAUSAL_LM), pad_token_id=0)


def _examples(*lengths: int) -> list[dict[str, list[int]]]:
    rows = [[5 + (7 * place + length) % 60 for place in range(length)] for length in lengths]
    return [{"input_ids": row, "attention_mask": [1] * len(row), "labels": list(row)} for row in rows]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama"])
def test_the_mean_loss_is_the_models_own_where_lengths_are_equal(tiny: Callable[[str], Path], family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(family)).eval()
    batch = TASK.collate(_examples(9, 9, 9))
    with torch.no_grad():
        outputs = model(**batch)
    torch.testing.assert_close(TASK.per_sample_loss(outputs, batch).mean(), outputs.loss)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_loss_is_the_models_own_of_that_sample_alone(tiny: Callable[[str], Path], family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny(family)).eval()
    examples = _examples(4, 9, 6)
    batch = TASK.collate(examples)
    with torch.no_grad():
        losses = TASK.per_sample_loss(model(**TASK.model_inputs(batch)), batch)
        alone = torch.stack([model(**TASK.collate([example])).loss for example in examples])
        together = model(**batch)
    torch.testing.assert_close(losses, alone, rtol=1e-4, atol=1e-5)
    # Perplexity weighs every token the same, as the model's own loss over the batch does.
    scores = TASK.score(TASK.predictions(together, batch), examples)
    assert scores["loss_nats"] == pytest.approx(float(together.loss), rel=1e-4)
    assert scores["perplexity"] == pytest.approx(float(together.loss.exp()), rel=1e-4)


def test_a_sample_that_predicts_nothing_has_no_loss() -> None:
    batch = TASK.collate(_examples(1, 3))
    losses = TASK.per_sample_loss(SimpleNamespace(logits=torch.randn(2, 3, 60)), batch)
    assert losses[0] == 0.0
    assert losses[1] > 0.0


def test_predicted_tokens_are_drawn_as_often_as_the_model_says() -> None:
    num, vocabulary = 6000, 5
    logits = torch.randn(1, 3, vocabulary, generator=torch.Generator().manual_seed(3)).expand(num, 3, vocabulary)
    labels = torch.tensor([[1, 2, -100]]).expand(num, 3)
    drawn = TASK.sample_labels(SimpleNamespace(logits=logits), {"labels": labels}, torch.Generator().manual_seed(1))["labels"]
    assert drawn[:, 0].eq(1).all()
    assert drawn[:, 2].eq(-100).all()
    assert largest_z(drawn[:, 1], logits[0, 0].softmax(-1)) < 4
    assert labels[:, 1].eq(2).all()


def test_lower_is_better() -> None:
    assert TASK.primary_metric == "perplexity"
    assert not TASK.is_higher_better
