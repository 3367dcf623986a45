"""Factors of Grams against the identities that they stand for."""

from __future__ import annotations

import pytest
import torch

from layerlens.linalg import error_feedback as module
from layerlens.linalg.error_feedback import input_feedback, output_feedback
from tests.unit.linalg.rounding_cases import gram, weight

_GROUP = 8


@pytest.mark.parametrize("features", [8, 24, 37])
@pytest.mark.parametrize("samples", [200, 5], ids=["regular", "singular"])
def test_pivots_and_unit_factor_give_the_damped_loss(features: int, samples: int) -> None:
    inner = gram(features, samples=samples)
    found = input_feedback(inner, _GROUP, damping=0.05)
    padded = len(found.order)
    error = torch.zeros(6, padded, dtype=torch.float64)
    error[:, :features] = weight(6, features)
    damped = inner.double() + 0.05 * found.gram.diagonal().double().mean() * torch.eye(features)
    expected = (error[:, :features] @ damped * error[:, :features]).sum(1)
    seen = error[:, found.order] @ found.unit.double()
    torch.testing.assert_close((seen.square() * found.pivots).sum(1), expected, rtol=1e-4, atol=0)
    assert torch.equal(found.unit.tril(), torch.eye(padded))
    assert found.ridge == pytest.approx(0.05 * found.gram.diagonal().mean().item(), rel=1e-5)


def test_columns_are_rounded_in_whole_groups_of_falling_energy() -> None:
    inner = gram(32)
    energies = inner.diagonal().view(4, _GROUP).sum(1)
    found = input_feedback(inner, _GROUP)
    groups = found.order.view(4, _GROUP) // _GROUP
    assert (groups == groups[:, :1]).all()
    assert groups[:, 0].tolist() == energies.argsort(descending=True).tolist()
    assert found.order.sort().values.tolist() == list(range(32))


@pytest.mark.parametrize("rows", [8, 20, 33])
def test_blocks_of_rows_are_taken_apart_by_the_unit_factor(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """U⁻¹ (B + λI) U⁻ᵀ is block diagonal, and U has unit blocks and nothing below them."""
    monkeypatch.setattr(module, "_SMALLEST_ROW_BLOCK", 4)
    outer = gram(rows)
    found = output_feedback(outer, damping=0.05)
    size, padded = found.block_size, len(found.gram)
    damped = torch.zeros(padded, padded, dtype=torch.float64)
    damped[:rows, :rows] = outer.double()[found.order][:, found.order]
    damped += found.ridge * torch.eye(padded)
    torch.testing.assert_close(found.gram.double(), damped, rtol=1e-5, atol=1e-6)
    inverse = torch.linalg.inv(found.unit.double())
    apart = inverse @ damped @ inverse.t()
    blocks = torch.arange(padded) // size
    is_within = blocks.unsqueeze(0) == blocks.unsqueeze(1)
    assert apart[~is_within].abs().max() < 1e-4 * apart.diagonal().max()
    assert torch.equal(found.unit[is_within], torch.eye(padded)[is_within])
    assert not found.unit[blocks.unsqueeze(1) > blocks.unsqueeze(0)].any()
    assert size * 2 <= padded


def test_a_gram_of_zeros_is_taken_for_the_identity() -> None:
    found = input_feedback(torch.zeros(16, 16), _GROUP)
    assert torch.equal(found.unit, torch.eye(16))
    assert torch.equal(found.pivots, torch.ones(16))
    assert torch.equal(output_feedback(torch.zeros(16, 16)).gram, torch.eye(16))


@pytest.mark.parametrize("largest_double", [0, 4096])
def test_damping_grows_until_a_singular_gram_can_be_factored(largest_double: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_DOUBLE", largest_double)
    inner = torch.ones(16, 16) * 1e6
    inner[0, 0] -= 1.0
    found = input_feedback(inner, _GROUP, damping=1e-18)
    assert found.unit.isfinite().all()
    assert found.ridge > 1e-18 * 1e6


def test_large_grams_are_factored_in_float32_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = gram(64)
    double = input_feedback(inner, _GROUP)
    monkeypatch.setattr(module, "_LARGEST_DOUBLE", 0)
    monkeypatch.setattr(module, "_TURNED_AT_ONCE", 100)
    single = input_feedback(inner, _GROUP)
    torch.testing.assert_close(single.unit, double.unit, rtol=1e-3, atol=1e-4)


def test_the_callers_gram_stays_as_it_is() -> None:
    inner = gram(16)
    before = inner.clone()
    input_feedback(inner, _GROUP)
    output_feedback(inner)
    assert torch.equal(inner, before)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gram_that_is_not_finite_is_refused_and_not_damped_for_ever(bad: float) -> None:
    inner = gram(24, samples=200)
    inner[3, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        input_feedback(inner, _GROUP, damping=0.05)
