"""Sensitivities of matrices in more than one place, and their way through a file."""

from __future__ import annotations

import pytest
import torch

from layerlens.compressing.pricing import Pricer
from layerlens.compressing.sensitivity import (
    PriceTerm,
    Sensitivity,
    idle_sensitivity,
    sensitivity_of,
    sensitivity_tensors,
    tied_sensitivity,
)


def _one(seed: int) -> Sensitivity:
    torch.manual_seed(seed)
    weights, right = torch.rand(9), torch.randn(20, 5)
    return Sensitivity(right.T @ right, weights, (PriceTerm(weights, right),), seen_rows=weights, inputs=right)


def test_a_tied_matrix_costs_the_sum_of_both_places() -> None:
    table, output = _one(0), _one(1)
    tied = tied_sensitivity(table, output)
    error = torch.randn(9, 5)
    both = sum(Pricer(error, one).errors(error).loss for one in (table, output))
    assert Pricer(error, tied).errors(error).loss == pytest.approx(both, rel=1e-5)
    # The Gram to fit by is the mean over rows of what an error in that row costs.
    grams = [w * table.input_gram + d * output.input_gram for w, d in zip(table.output_gram, output.output_gram, strict=True)]
    torch.testing.assert_close(tied.input_gram, torch.stack(grams).mean(0))
    traces = torch.stack([gram.trace() for gram in grams])
    torch.testing.assert_close(tied.output_gram * tied.input_gram.trace(), traces)


def test_what_no_loss_depends_on_is_idle() -> None:
    assert idle_sensitivity(4, 3).is_idle
    assert not _one(0).is_idle


def test_a_sensitivity_comes_back_from_its_tensors() -> None:
    tied = tied_sensitivity(_one(0), _one(1))
    for sensitivity in (tied, idle_sensitivity(4, 3)):
        again = sensitivity_of(sensitivity_tensors(sensitivity))
        for name in ("input_gram", "output_gram", "seen_rows", "inputs"):
            one, other = getattr(sensitivity, name), getattr(again, name)
            assert (one is None and other is None) or torch.equal(one, other)
        assert len(again.terms) == len(sensitivity.terms)
        for term, other in zip(sensitivity.terms, again.terms, strict=True):
            assert torch.equal(term.left, other.left)
            assert torch.equal(term.right, other.right)
