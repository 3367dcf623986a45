"""Two models side by side against figures taken straight from their logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from layerlens.artifacts.compression_evaluation import Spread
from layerlens.data.inference import score
from layerlens.errors import DataError, NotFiniteError, UnsupportedModelError
from layerlens.evaluation.divergence_run import compare_embeddings, compare_on_samples, compare_on_text
from layerlens.evaluation.perplexity import cut_text, perplexity
from layerlens.words import TaskKind
from tests.unit.compressing.cases import Case, case
from tests.unit.evaluation.models import add_noise_, causal_pair, text_of, tokenizer_of


def kl(p: Tensor, q: Tensor) -> np.ndarray:
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).numpy()


def check_spread(found: Spread | None, values: np.ndarray, rel: float = 1e-4) -> None:
    assert found is not None
    assert found.mean == pytest.approx(values.mean(), rel=rel)
    assert found.median == pytest.approx(np.median(values), rel=rel)
    assert found.p99 == pytest.approx(np.quantile(values, 0.99), rel=rel)
    assert found.max == pytest.approx(values.max(), rel=rel)
    assert values.min() > 0


@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama"])
def test_a_text_gives_what_the_logits_of_both_models_say(tmp_path: Path, family: str) -> None:
    original, other = causal_pair(tmp_path, family)
    windows = cut_text(tokenizer_of(tmp_path, family), text_of(48), window=12)
    found = compare_on_text(original, other, windows, name="words", is_calibration=True)
    ids = torch.tensor(windows.tokens).view(4, 12)
    with torch.no_grad():
        p, q = (model(input_ids=ids).logits[:, :-1].flatten(0, 1) for model in (original, other))
    check_spread(found.kl, kl(p, q))
    assert found.same_top_token == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert found.logits_cosine == pytest.approx(float(torch.cosine_similarity(p, q).mean()), rel=1e-5)
    assert found.perplexity is not None
    assert found.perplexity.before == pytest.approx(perplexity(original, windows).perplexity, rel=1e-6)
    assert found.perplexity.after == pytest.approx(perplexity(other, windows).perplexity, rel=1e-6)
    assert found.perplexity.before != found.perplexity.after
    assert (found.name, found.is_calibration, found.num_positions, found.windows) == ("words", True, 44, windows.record)


def test_models_of_other_vocabularies_or_with_broken_weights_are_told(tmp_path: Path) -> None:
    original, other = causal_pair(tmp_path, "llama")
    windows = cut_text(tokenizer_of(tmp_path, "llama"), text_of(20), window=12)
    wider, _ = causal_pair(tmp_path, "llama", vocab_size=210)
    with pytest.raises(UnsupportedModelError, match="vocabularies of 200 and 210 tokens"):
        compare_on_text(original, wider, windows, name="words")
    with torch.no_grad():
        other.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="18 of 18 predictions on words"):
        compare_on_text(original, other, windows, name="words")


def pair(measured: Case) -> tuple[Any, Any]:
    return measured.in_memory(), add_noise_(measured.in_memory(), 0.5)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_samples_give_both_scores_and_the_divergence_of_every_prediction(tmp_path: Path, family: str) -> None:
    measured = case(tmp_path, family)
    original, other = pair(measured)
    for number, example in enumerate(measured.examples):
        example["labels"] = number % 2
    found = compare_on_samples(original, other, measured.task, measured.examples, name="samples", batch_size=2)
    logits = []
    for model in (original, other):
        rows = [measured.task.model_inputs(measured.task.collate([example])) for example in measured.examples]
        with torch.no_grad():
            logits.append(torch.cat([model(**inputs).logits for inputs in rows]))
    check_spread(found.kl, kl(*logits), rel=1e-2)
    assert found.same_top_token == pytest.approx(float((logits[0].argmax(-1) == logits[1].argmax(-1)).double().mean()))
    assert found.metric is not None
    assert found.metric.name == "accuracy"
    scores = [score(model, measured.task, measured.examples, batch_size=2)["accuracy"] for model in (original, other)]
    assert [found.metric.before, found.metric.after] == scores
    assert (found.perplexity, found.windows, found.num_positions) == (None, None, 5)
    with pytest.raises(DataError, match="samples has no predictions"):
        compare_on_samples(original, other, measured.task, [], name="samples")


def test_numbers_have_a_divergence_but_no_top_class(tmp_path: Path) -> None:
    measured = case(tmp_path, "bert", TaskKind.REGRESSION)
    original, other = pair(measured)
    found = compare_on_samples(original, other, measured.task, measured.examples, name="numbers")
    values = []
    for example in measured.examples:
        inputs = measured.task.model_inputs(measured.task.collate([example]))
        with torch.no_grad():
            values.append(0.5 * float(original(**inputs).logits - other(**inputs).logits) ** 2)
    check_spread(found.kl, np.array(values), rel=1e-2)
    assert (found.same_top_token, found.logits_cosine) == (None, None)


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_embeddings_are_compared_by_their_angle(tmp_path: Path, family: str) -> None:
    measured = case(tmp_path, family)
    original, other = pair(measured)
    groups = [[0, 1, 2], [3, 4]]
    inputs = [measured.task.model_inputs(measured.task.collate([measured.examples[one] for one in group])) for group in groups]
    found = compare_embeddings(original, other, inputs, name="samples")
    values = []
    for example in measured.examples:
        alone = measured.task.model_inputs(measured.task.collate([example]))
        with torch.no_grad():
            means = [model.base_model(**alone).last_hidden_state[0].double().mean(0) for model in (original, other)]
        values.append(1.0 - float(torch.cosine_similarity(*means, dim=0)))
    check_spread(found.embedding_distance, np.array(values), rel=1e-3)
    assert (found.kl, found.same_top_token, found.logits_cosine) == (None, None, None)
    again = compare_embeddings(original.base_model, other.base_model, inputs, name="samples")
    assert again == found
