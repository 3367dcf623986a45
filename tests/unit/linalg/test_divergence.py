"""Divergence of rows against scipy's entropy and against exact fractions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from layerlens.linalg import divergence
from layerlens.linalg.divergence import cosine_distance, row_divergence


@pytest.mark.parametrize("chunk", [1, 100, 1 << 18])
def test_rows_are_compared_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(divergence, "_CHUNK_NUMBERS", chunk)
    torch.manual_seed(0)
    p, q = 3 * torch.randn(13, 40), 3 * torch.randn(13, 40)
    found = row_divergence(p, q)
    expected = [
        entropy(softmax(mine), softmax(theirs)) for mine, theirs in zip(p.double().numpy(), q.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(found.kl_nats.numpy(), expected, rtol=1e-12)
    assert found.is_same_top.tolist() == (p.argmax(1) == q.argmax(1)).tolist()
    np.testing.assert_allclose(found.cosine.numpy(), torch.cosine_similarity(p.double(), q.double()).numpy(), rtol=1e-12)


def test_a_known_divergence_in_nats() -> None:
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert float(row_divergence(p, q).kl_nats) == pytest.approx(0.25 * math.log(2), rel=1e-6)


def test_the_smallest_differences_keep_their_digits() -> None:
    torch.manual_seed(0)
    # To second order KL is half the variance of the difference under p.
    p, change = torch.randn(1, 1000, dtype=torch.float64), 1e-5 * torch.randn(1, 1000, dtype=torch.float64)
    weights = p.softmax(-1)
    variance = float((weights * change.square()).sum() - (weights * change).sum() ** 2)
    assert float(row_divergence(p, p + change).kl_nats) == pytest.approx(variance / 2, rel=1e-3)


def test_equal_rows_are_no_distance_apart_and_shifted_logits_are_the_same_prediction() -> None:
    p = torch.randn(4, 9)
    assert row_divergence(p, p).kl_nats.tolist() == [0.0] * 4
    assert float(row_divergence(p, p + 7.0).kl_nats.max()) < 1e-6
    assert float(row_divergence(p, p + 7.0).cosine.max()) < 1.0


def test_classes_that_are_shut_out_do_not_count() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(3, 6), torch.randn(3, 6)
    shut = torch.full((3, 2), -torch.inf)
    found, expected = row_divergence(torch.cat([p, shut], 1), torch.cat([q, shut], 1)), row_divergence(p, q)
    torch.testing.assert_close(found.kl_nats, expected.kl_nats)
    torch.testing.assert_close(found.cosine, expected.cosine)


def test_a_class_that_the_other_model_rules_out_is_infinitely_far() -> None:
    assert float(row_divergence(torch.zeros(1, 2), torch.tensor([[0.0, -torch.inf]])).kl_nats) == math.inf
    assert float(row_divergence(torch.tensor([[0.0, -torch.inf]]), torch.zeros(1, 2)).kl_nats) == pytest.approx(math.log(2))


def test_what_is_no_number_stays_none() -> None:
    good, bad = torch.zeros(1, 3), torch.tensor([[0.0, torch.nan, 1.0]])
    for first, second in ((good, bad), (bad, good), (bad, bad)):
        assert math.isnan(float(row_divergence(first, second).kl_nats))
        assert math.isnan(float(cosine_distance(first, second)))


def test_embeddings_are_apart_by_their_angle() -> None:
    angles = torch.tensor([0.0, 1e-6, 0.5, math.pi / 2, math.pi], dtype=torch.float64)
    first = torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(5, 2)
    second = 3.0 * torch.stack([angles.cos(), angles.sin()], 1)
    expected = 2 * (angles / 2).sin() ** 2
    np.testing.assert_allclose(cosine_distance(first, second).numpy(), expected.numpy(), rtol=1e-9, atol=1e-30)
    zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    assert [float(cosine_distance(a, b)) for a, b in ((zero, zero), (zero, one), (one, zero))] == [0.0, 1.0, 1.0]


def test_no_rows_give_no_numbers() -> None:
    found = row_divergence(torch.zeros(0, 5), torch.zeros(0, 5))
    assert (len(found.kl_nats), len(found.is_same_top), len(found.cosine)) == (0, 0, 0)
    assert len(cosine_distance(torch.zeros(0, 5), torch.zeros(0, 5))) == 0
