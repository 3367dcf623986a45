"""Sentence embeddings as a task: its loss, its drawn targets, and the divergence that these have for curvature."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from layerlens.artifacts.profile import TaskInfo
from layerlens.data.tasks.embedding import Embedding, mean_pooled, unit_embedding
from layerlens.words import TaskKind

TASK = Embedding(TaskInfo(kind=TaskKind.EMBEDDING), pad_token_id=0)
EXAMPLES = [
    {"input_ids": [2, 7, 8, 3], "attention_mask": [1] * 4},
    {"input_ids": [2, 9, 3], "attention_mask": [1] * 3},
]


def outputs(seed: int = 0) -> SimpleNamespace:
    torch.manual_seed(seed)
    return SimpleNamespace(last_hidden_state=torch.randn(2, 4, 6))


def test_a_batch_has_no_labels_and_its_own_embedding_costs_nothing() -> None:
    batch = TASK.collate(EXAMPLES)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert TASK.per_sample_loss(outputs(), batch).tolist() == [0.0, 0.0]


def test_padding_is_left_out_of_the_mean() -> None:
    batch, given = TASK.collate(EXAMPLES), outputs()
    expected = given.last_hidden_state[1, :3].mean(0)
    torch.testing.assert_close(unit_embedding(given, batch)[1], expected / expected.norm())
    torch.testing.assert_close(mean_pooled(given.last_hidden_state, None)[1], given.last_hidden_state[1].mean(0))


def test_the_loss_against_another_models_embedding_is_one_minus_the_cosine() -> None:
    batch = TASK.collate(EXAMPLES)
    first, second = (unit_embedding(outputs(seed), batch) for seed in (0, 1))
    loss = TASK.per_sample_loss(outputs(0), {**batch, "labels": second})
    torch.testing.assert_close(loss, 1.0 - cosine_similarity(first, second))


def test_drawn_targets_have_the_gauss_newton_matrix_for_their_gradients_second_moment() -> None:
    batch, given = TASK.collate(EXAMPLES[1:]), outputs()
    hidden = given.last_hidden_state[1:, :3].clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(
        lambda h: unit_embedding(SimpleNamespace(last_hidden_state=h), batch)[0], hidden
    ).flatten(1)
    total, draws = torch.zeros(hidden.numel(), hidden.numel()), 3000
    generator = torch.Generator().manual_seed(0)
    result = SimpleNamespace(last_hidden_state=hidden)
    for _ in range(draws):
        drawn = TASK.sample_labels(result, batch, generator)
        (gradient,) = torch.autograd.grad(TASK.per_sample_loss(result, drawn).sum(), hidden)
        total += gradient.flatten().outer(gradient.flatten()) / draws
    expected = jacobian.T @ jacobian
    assert float((total - expected).norm() / expected.norm()) < 0.1


def test_embeddings_that_are_all_alike_have_a_mean_cosine_of_one() -> None:
    same = torch.nn.functional.normalize(torch.randn(6), dim=0).numpy()
    assert TASK.score([same, same, same], EXAMPLES)["cosine"] == pytest.approx(1.0)
    assert TASK.score([same, -same], EXAMPLES)["cosine"] == pytest.approx(-1.0)
