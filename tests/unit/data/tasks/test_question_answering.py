from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.question_answering import MAX_ANSWER_TOKENS, QuestionAnswering, SpanLogits, best_answer
from layerlens.words import TaskKind
from tests.unit.data.tasks.sampling import largest_z

TASK = QuestionAnswering(TaskInfo(kind=TaskKind.QUESTION_ANSWERING), pad_token_id=0)
EXAMPLES = [
    {"input_ids": [2, 7, 3, 8, 9, 3], "attention_mask": [1] * 6, "start_positions": 3, "end_positions": 4},
    {"input_ids": [2, 7, 3, 8], "attention_mask": [1] * 4, "start_positions": 3, "end_positions": 3},
]
CONTEXT = "alpha beta gamma"
READ = {"context": CONTEXT, "answers": ["beta"], "offsets": [None, None, None, None, (0, 5), (6, 10), (11, 16)]}


def _model(tiny: Callable[[str], Path]) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    return AutoModelForQuestionAnswering.from_pretrained(tiny("bert")).eval()


def test_the_mean_loss_of_unpadded_samples_is_the_models_own(tiny: Callable[[str], Path]) -> None:
    model, batch = _model(tiny), TASK.collate([EXAMPLES[0], {**EXAMPLES[0], "start_positions": 4}])
    with torch.no_grad():
        outputs = model(**batch)
    torch.testing.assert_close(TASK.per_sample_loss(outputs, batch).mean(), outputs.loss)
    assert set(TASK.model_inputs(batch)) == {"input_ids", "attention_mask"}


def test_a_samples_loss_and_gradient_do_not_depend_on_its_padding(tiny: Callable[[str], Path]) -> None:
    model = _model(tiny)
    found = []
    for batch in (TASK.collate(EXAMPLES[1:]), TASK.collate(EXAMPLES)):
        model.zero_grad()
        loss = TASK.per_sample_loss(model(**TASK.model_inputs(batch)), batch)[-1]
        loss.backward()
        found.append((loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    torch.testing.assert_close(*found)
    assert all(gradient.isfinite().all() for _, gradients in found for gradient in gradients.values())


def test_padding_is_never_drawn() -> None:
    batch = TASK.collate(EXAMPLES * 500)
    outputs = SimpleNamespace(start_logits=torch.zeros(1000, 6), end_logits=torch.full((1000, 6), 3.0))
    drawn = TASK.sample_labels(outputs, batch, torch.Generator().manual_seed(0))
    for name in TASK.label_keys:
        assert (drawn[name][::2].max(), drawn[name][1::2].max()) == (5, 3)


def test_start_and_end_are_drawn_as_often_as_the_model_says() -> None:
    num = 20_000
    start, end = torch.tensor([[0.0, 1.0, -1.0]]), torch.tensor([[2.0, 0.0, 0.5]])
    outputs = SimpleNamespace(start_logits=start.expand(num, 3), end_logits=end.expand(num, 3))
    drawn = TASK.sample_labels(outputs, {}, torch.Generator().manual_seed(0))
    assert largest_z(drawn["start_positions"], start[0].softmax(-1)) < 4
    assert largest_z(drawn["end_positions"], end[0].softmax(-1)) < 4


def test_padding_is_cut_off_the_predictions() -> None:
    batch = TASK.collate(EXAMPLES)
    logits = torch.arange(12.0).view(2, 6)
    first, second = TASK.predictions(SimpleNamespace(start_logits=logits, end_logits=-logits), batch)
    assert (len(first.start), len(second.start)) == (6, 4)
    assert second.end.tolist() == [-6.0, -7.0, -8.0, -9.0]


def _spans(start: dict[int, float], end: dict[int, float], num: int = 7) -> SpanLogits:
    arrays = [np.array([side.get(place, 0.0) for place in range(num)], dtype=np.float32) for side in (start, end)]
    return SpanLogits(*arrays)


def test_the_best_span_of_context_tokens_is_the_answer() -> None:
    assert best_answer(_spans({5: 4.0}, {6: 3.0}), READ) == "beta gamma"


def test_neither_the_question_nor_a_span_that_ends_before_it_starts_is_an_answer() -> None:
    assert best_answer(_spans({1: 9.0, 6: 4.0}, {2: 9.0, 4: 5.0, 6: 2.0}), READ) == "gamma"


def test_a_span_is_no_longer_than_the_limit() -> None:
    num = MAX_ANSWER_TOKENS + 5
    example = {"context": "x" * num, "answers": ["x"], "offsets": [(place, place + 1) for place in range(num)]}
    last = MAX_ANSWER_TOKENS + 3
    far = best_answer(_spans({0: 5.0, 3: 4.5, 4: 4.0}, {last: 5.0}, num), example)
    assert len(far) == last - 4 + 1
    allowed = best_answer(_spans({0: 5.0}, {MAX_ANSWER_TOKENS - 1: 5.0}, num), example)
    assert len(allowed) == MAX_ANSWER_TOKENS


def test_scores_are_exact_match_and_f1() -> None:
    predictions = [_spans({5: 4.0}, {5: 3.0}), _spans({5: 4.0}, {6: 3.0})]
    scores = TASK.score(predictions, [READ, READ])
    assert scores["exact_match"] == 0.5
    assert abs(scores["f1"] - (1 + 2 / 3) / 2) < 1e-9
