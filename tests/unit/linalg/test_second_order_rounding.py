"""Second-order rounding against exhaustive search, and against the nearest rounding that it must never lose to."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from layerlens.artifacts.formats import WIDTHS
from layerlens.linalg import error_feedback
from layerlens.linalg import second_order_rounding as module
from layerlens.linalg.codes import Codes, dequantise
from layerlens.linalg.error_feedback import input_feedback, output_feedback
from layerlens.linalg.nearest_rounding import round_with_searched_scales
from layerlens.linalg.second_order_rounding import second_order_rounding
from tests.unit.linalg.rounding_cases import gram, least_row_loss, loss, weight

_GROUP = 8


def _nearest(values: Tensor, inner: Tensor, bits: int, group: int = _GROUP) -> Tensor:
    return dequantise(round_with_searched_scales(values, bits, group, inner.diagonal())) - values


def _error(codes: Codes, values: Tensor) -> Tensor:
    return dequantise(codes) - values


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("rows", [1, 24, 37])
def test_correlated_inputs_make_good_for_each_other(bits: int, rows: int) -> None:
    values, inner = weight(rows, 64), gram(64)
    found = second_order_rounding(values, inner, bits, _GROUP)
    assert loss(_error(found, values), inner) < 0.6 * loss(_nearest(values, inner, bits), inner)
    assert found.values.min() >= -(1 << (bits - 1))
    assert found.values.max() <= (1 << (bits - 1)) - 1


@pytest.mark.parametrize("bits", WIDTHS)
def test_correlated_outputs_make_good_for_each_other_too(bits: int) -> None:
    values, inner, outer = weight(48, 64), gram(64), gram(48, seed=2)
    one_sided = second_order_rounding(values, inner, bits, _GROUP)
    found = second_order_rounding(values, inner, bits, _GROUP, output_gram=outer)
    assert loss(_error(found, values), inner, outer) < 0.7 * loss(_error(one_sided, values), inner, outer)


@pytest.mark.parametrize(("bits", "size"), [(2, 8), (3, 6)])
def test_rows_come_near_the_best_codes_of_all(bits: int, size: int) -> None:
    values, inner = weight(24, size), gram(size)
    found = second_order_rounding(values, inner, bits, size, damping=1e-6)
    losses = [loss(row.unsqueeze(0), inner) for row in _error(found, values)]
    best = [least_row_loss(row, scale.item(), bits, inner) for row, scale in zip(values, found.scales.float(), strict=True)]
    assert all(one >= least * (1 - 1e-4) for one, least in zip(losses, best, strict=True))
    nearest = loss(_nearest(values, inner, bits, size), inner)
    assert sum(losses) - sum(best) < 0.2 * (nearest - sum(best))


def _singular(samples: int) -> Tensor:
    return gram(64, samples=samples)


def _dead() -> Tensor:
    inner = gram(64)
    inner[5:20] = inner[:, 5:20] = 0.0
    return inner


_HARD = {
    "ten samples": _singular(10),
    "one sample": _singular(1),
    "dead inputs": _dead(),
    "zeros": torch.zeros(64, 64),
    "uncorrelated": torch.logspace(0, -6, 64).diag(),
    "nearly equal inputs": torch.ones(64, 64) + 1e-4 * torch.eye(64),
}


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", _HARD)
def test_no_row_ends_worse_than_nearest_rounding(name: str, bits: int) -> None:
    values, inner = weight(16, 64), _HARD[name]
    found = _error(second_order_rounding(values, inner, bits, _GROUP), values).double()
    nearest = _nearest(values, inner, bits).double()
    before, after = (((error @ inner.double()) * error).sum(1) for error in (nearest, found))
    assert found.isfinite().all()
    assert (after <= before * (1 + 1e-4) + 1e-12 * inner.trace()).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", _HARD)
def test_no_matrix_ends_worse_than_nearest_rounding_with_both_grams(name: str, bits: int) -> None:
    values, inner = weight(64, 64), gram(64, seed=5)
    found = _error(second_order_rounding(values, inner, bits, _GROUP, output_gram=_HARD[name]), values)
    before, after = (loss(error, inner, _HARD[name]) for error in (_nearest(values, inner, bits), found))
    assert found.isfinite().all()
    assert after <= before * (1 + 1e-4) + 1e-12


def test_damping_keeps_weights_near_where_calibration_saw_nothing() -> None:
    """Half of the directions were never seen and cost nothing: with no damping to speak of, weights drift there at will."""
    values = weight(64, 64)
    inner, outer = gram(64, samples=30), gram(64, samples=30, seed=2)
    free, bound = (
        _error(second_order_rounding(values, inner, 2, _GROUP, output_gram=outer, damping=damping), values).norm()
        for damping in (1e-6, 0.1)
    )
    assert bound < values.norm()
    assert free > 10 * bound


def test_a_refused_rounding_is_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what was found is spoilt, rows that lose by it are given nearest rounding, and the others are left."""
    values, inner = weight(16, 64), gram(64)
    good = second_order_rounding(values, inner, 4, _GROUP)

    def spoil(target: Tensor, codes: Tensor, scales: Tensor, inner: Tensor, ridge: float, *others: object) -> Tensor:
        codes[:, ::2] = 0
        error = (codes.view(len(scales), -1, codes.shape[1]) * scales.unsqueeze(1)).view(target.shape) - target
        return ((inner + ridge * torch.eye(len(inner))) @ error).mul(error).sum(0)

    monkeypatch.setattr(module, "descend_", spoil)
    found = second_order_rounding(values, inner, 4, _GROUP)
    nearest = round_with_searched_scales(values, 4, _GROUP, inner.diagonal())
    assert torch.equal(found.values[::2], nearest.values[::2])
    assert torch.equal(found.scales[::2], nearest.scales[::2])
    assert not torch.equal(found.values[1::2], nearest.values[1::2])
    assert good.values.shape == found.values.shape


@pytest.mark.parametrize("sweeps", [0, 1])
@pytest.mark.parametrize("inner", _HARD.values(), ids=_HARD)
def test_what_is_refused_at_a_glance_is_what_the_whole_product_refuses(
    inner: Tensor, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = weight(64, 64)
    quick = second_order_rounding(values, inner, 3, _GROUP, sweeps=sweeps)
    monkeypatch.setattr(module, "_SURE", 1e30)
    whole = second_order_rounding(values, inner, 3, _GROUP, sweeps=sweeps)
    assert torch.equal(quick.values, whole.values)
    assert torch.equal(quick.scales, whole.scales)


@pytest.mark.parametrize(("features", "group"), [(64, 8), (70, 16), (40, 64)])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_rows_are_refused_by_what_they_lose_with_the_ridge(
    features: int, group: int, sweeps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, inner = weight(24, features), gram(features)
    inputs = input_feedback(inner, group)
    seen: list[tuple[Codes, Tensor]] = []

    def caught(weight: Tensor, found: Codes, inputs: object, losses: Tensor) -> Codes:
        seen.append((found, losses))
        return found

    monkeypatch.setattr(module, "_refused_by_row", caught)
    second_order_rounding(values, inputs, 3, group, sweeps=sweeps)
    (found, losses), damped = seen[0], inner.double() + inputs.ridge * torch.eye(features)
    error = _error(found, values).double()
    torch.testing.assert_close(losses.double(), ((error @ damped) * error).sum(1), rtol=1e-4, atol=0)


def test_correlated_inputs_spare_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied = []
    whole = module.row_form_differences

    def counted(first: Tensor, second: Tensor, inner: Tensor) -> Tensor:
        multiplied.append(len(first))
        return whole(first, second, inner)

    monkeypatch.setattr(module, "row_form_differences", counted)
    second_order_rounding(weight(64, 256), gram(256, samples=32), 4, 32, sweeps=0)
    assert sum(multiplied) == 0


def test_errors_passed_on_by_several_groups_at_once_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    values, inner, outer = weight(48, 152), gram(152), gram(48, seed=2)
    inputs, outputs = input_feedback(inner, _GROUP), output_feedback(outer)
    together = [second_order_rounding(values, inputs, 3, _GROUP, output_gram=of, sweeps=0) for of in (None, outputs)]
    monkeypatch.setattr(module, "_GROUPS_AT_ONCE", 1)
    alone = [second_order_rounding(values, inputs, 3, _GROUP, output_gram=of, sweeps=0) for of in (None, outputs)]
    for one, other, of in zip(together, alone, (None, outer), strict=True):
        # Rounding may settle a tie otherwise, and what follows with it: the losses must not tell them apart.
        assert (one.values != other.values).float().mean() < 0.05
        assert loss(_error(one, values), inner, of) == pytest.approx(loss(_error(other, values), inner, of), rel=0.02)


def test_more_bits_lose_less() -> None:
    values, inner, outer = weight(32, 64), gram(64), gram(32, seed=2)
    inputs, outputs = input_feedback(inner, _GROUP), output_feedback(outer)
    losses = [
        loss(_error(second_order_rounding(values, inputs, bits, _GROUP, output_gram=outputs), values), inner, outer)
        for bits in WIDTHS
    ]
    assert all(2 * more < fewer for more, fewer in itertools.pairwise(losses))


def test_what_is_factored_before_gives_the_same_codes() -> None:
    values, inner, outer = weight(32, 40), gram(40), gram(32, seed=2)
    whole = second_order_rounding(values, inner, 3, 16, output_gram=outer, damping=0.05)
    shared = second_order_rounding(
        values, input_feedback(inner, 16, damping=0.05), 3, 16, output_gram=output_feedback(outer, damping=0.05)
    )
    assert torch.equal(whole.values, shared.values)
    assert torch.equal(whole.scales, shared.scales)


def test_without_an_output_gram_rows_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    values, inner = weight(24, 64), gram(64)
    whole = dequantise(second_order_rounding(values, inner, 3, _GROUP))
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    torch.testing.assert_close(dequantise(second_order_rounding(values, inner, 3, _GROUP)), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize("features", [7, 8, 9, 44])
def test_rows_that_fill_no_whole_group_are_padded_with_code_zero(features: int) -> None:
    values, inner, outer = weight(19, features), gram(features), gram(19, seed=2)
    for found in (
        second_order_rounding(values, inner, 4, _GROUP),
        second_order_rounding(values, inner, 4, _GROUP, output_gram=outer),
    ):
        assert found.values.shape == (19, -(-features // _GROUP) * _GROUP)
        assert not found.values[:, features:].any()
        assert loss(_error(found, values), inner) <= loss(torch.zeros_like(values) - values, inner)


def test_an_order_of_rounding_leaves_columns_and_rows_where_they_are() -> None:
    """At 8 bits every weight lies near its own code, whatever order it was rounded in."""
    values, inner, outer = weight(24, 64), gram(64).flip(0, 1), gram(24, seed=2).flip(0, 1)
    found = second_order_rounding(values, inner, 8, _GROUP, output_gram=outer)
    assert (_error(found, values).norm() / values.norm()).item() < 0.05


def test_groups_are_rounded_from_weights_that_make_good_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the factors replaced by the identity the feedback, and most of the gain, is gone."""
    values, inner = weight(24, 64), gram(64)
    full = loss(_error(second_order_rounding(values, inner, 4, _GROUP, sweeps=0), values), inner)
    monkeypatch.setattr(
        error_feedback, "_upper_factor", lambda gram, order, damping: (gram.diagonal()[order].sqrt().diag(), 0.01)
    )
    without = loss(_error(second_order_rounding(values, inner, 4, _GROUP, sweeps=0), values), inner)
    assert full < 0.6 * without
