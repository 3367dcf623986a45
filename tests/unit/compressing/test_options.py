"""Every option's price is that of what it would really store, and what is kept gives exactly that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.artifacts.compression import Option, Rounding
from layerlens.artifacts.formats import KEEP, Format, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.compressing import moment_sums, option_grid, pricing
from layerlens.compressing import options as solving
from layerlens.compressing.option_grid import OptionGrid, kept_bytes
from layerlens.compressing.options import (
    Solved,
    effective_rank,
    needed_tensors,
    restored_option,
    solve_matrix,
    tensors_of_option,
)
from layerlens.compressing.pricing import Pricer
from layerlens.compressing.sensitivity import PriceTerm, Sensitivity, idle_sensitivity
from layerlens.linalg import bit_planes, leading_subspace, nearest_rounding, second_order_rounding, whitened_factors
from tests.unit.allocations import peak_bytes

OUT, IN = 96, 160


def gram_and_root(features: int, seed: int) -> tuple[Tensor, Tensor]:
    """A Gram to fit by, and a root of another sample of the same distribution."""
    torch.manual_seed(seed)
    mixing = torch.randn(features, features) * torch.logspace(0, -1.5, features)
    fitted, held = (torch.randn(900, features) @ mixing.T / 30 for _ in range(2))
    return fitted.T @ fitted, held


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Sensitivity, Solved]:
    torch.manual_seed(0)
    weight = torch.randn(OUT, IN)
    (A, right), (B, left) = gram_and_root(IN, 1), gram_and_root(OUT, 2)
    sensitivity = Sensitivity(A, B, (PriceTerm(left, right),), inputs=right)
    return weight, sensitivity, solve_matrix(weight, sensitivity, 4, OptionGrid())


def loss(solved: Solved, scheme: Scheme, rounding: Rounding) -> float:
    return next(o.predicted_loss for o in solved.options if o.scheme == scheme and o.rounding is rounding)


def test_every_option_costs_what_its_stored_tensors_do(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    weight, sensitivity, solved = problem
    pricer = Pricer(weight, sensitivity)
    for option in solved.options:
        rows = needed_tensors(option)
        assert set(rows) <= set(solved.tensors)
        tensors = tensors_of_option(option, {name: solved.tensors[name][:stop] for name, stop in rows.items()}, weight)
        assert sum(tensor.nbytes for tensor in tensors.values()) == option.size_bytes == size_bytes(option.scheme, OUT, IN, 4)
        found = pricer.errors(restored_option(option, tensors, OUT, IN) - weight)
        name = f"{option.scheme.name} {option.rounding}"
        assert option.predicted_loss == pytest.approx(found.loss, rel=2e-3, abs=1e-9), name
        assert option.weight_error == pytest.approx(found.weight, rel=2e-3, abs=1e-4), name
        assert option.output_error == pytest.approx(found.output, rel=2e-3, abs=1e-6), name


def test_every_kind_of_option_is_there_once_cheapest_first(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    options = problem[2].options
    assert len({(option.scheme, option.rounding) for option in options}) == len(options)
    assert [option.size_bytes for option in options] == sorted(option.size_bytes for option in options)
    assert {option.scheme.format for option in options} == set(Format)
    assert {option.rounding for option in options} == set(Rounding)
    integers = {(o.scheme.bits, o.rounding) for o in options if o.scheme.format is Format.INTEGER}
    assert integers == {(bits, rounding) for bits in range(2, 9) for rounding in (Rounding.NEAREST, Rounding.SECOND_ORDER)}
    assert {o.scheme.factor_bits for o in options if o.rounding is Rounding.PLAIN} == {8}
    assert {o.scheme.factor_bits for o in options if o.rounding is Rounding.WHITENED} == {16, 8, 4}


def test_what_knows_the_data_loses_less_than_what_does_not(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    solved = problem[2]
    for bits in (2, 3, 4):
        second, nearest = (loss(solved, integer(bits), r) for r in (Rounding.SECOND_ORDER, Rounding.NEAREST))
        assert second < 0.7 * nearest
        assert loss(solved, integer_low_rank(bits, 16, 8), Rounding.SECOND_ORDER) < second
    for rank in (16, 32):
        assert loss(solved, low_rank(rank, 8), Rounding.WHITENED) < loss(solved, low_rank(rank, 8), Rounding.PLAIN)


def test_more_bytes_of_one_kind_lose_less(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    by_kind: dict[object, list[Option]] = {}
    for option in problem[2].options:
        kind = option.scheme.format, option.rounding, option.scheme.factor_bits
        is_plain = option.scheme.format in (Format.INTEGER, Format.LOW_RANK) and option.scheme.factor_bits != 4
        if is_plain:
            by_kind.setdefault(kind, []).append(option)
    for options in by_kind.values():
        losses = [option.predicted_loss for option in options]
        assert losses == sorted(losses, reverse=True)


def test_solving_again_gives_the_same_bytes(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    weight, sensitivity, solved = problem
    again = solve_matrix(weight, sensitivity, 4, OptionGrid())
    assert again.options == solved.options
    assert all(torch.equal(again.tensors[name], values) for name, values in solved.tensors.items())


@pytest.mark.parametrize(("widths", "widest"), [((8, 4), 8), ((3, 4), 4)])
def test_a_matrix_that_no_loss_feels_is_only_rounded_to_the_widest_codes(widths: tuple[int, ...], widest: int) -> None:
    solved = solve_matrix(torch.randn(32, 64), idle_sensitivity(32, 64), 2, OptionGrid(widths=widths))
    assert [(o.scheme, o.rounding) for o in solved.options] == [(integer(widest), Rounding.NEAREST), (KEEP, Rounding.NONE)]
    assert solved.tensors == {}


def test_a_matrix_smaller_than_a_step_of_ranks_has_integers_alone() -> None:
    A, right = gram_and_root(24, 3)
    sensitivity = Sensitivity(A, torch.ones(10), (PriceTerm(torch.ones(10), right),), inputs=right)
    solved = solve_matrix(torch.randn(10, 24), sensitivity, 2, OptionGrid())
    assert {o.scheme.format for o in solved.options} == {Format.KEEP, Format.INTEGER}


def test_a_table_is_solved_without_a_second_one_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = 2000, 128
    for module, name, value in (
        (option_grid, "_TABLE_ROWS", rows),
        (solving, "_ROWS_AT_ONCE", 64),
        (pricing, "_ROWS", 64),
        (pricing, "_WEIGHTED", 4 * rows),
        (moment_sums, "_SQUARED", 64 * columns),
        (bit_planes, "_CODES_AT_ONCE", 64 * columns),
        (nearest_rounding, "_ELEMENTS_AT_ONCE", 64 * columns),
        (second_order_rounding, "_ROWS_AT_ONCE", 100),
        (leading_subspace, "LONG", rows),
        (whitened_factors, "LONG", rows),
        (leading_subspace, "COLUMNS_AT_ONCE", 64),
        (whitened_factors, "COLUMNS_AT_ONCE", 64),
        (whitened_factors, "_NUMBERS_AT_ONCE", 4 * rows),
    ):
        monkeypatch.setattr(module, name, value)
    torch.manual_seed(0)
    weight, (A, right), shares = torch.randn(rows, columns), gram_and_root(columns, 1), torch.rand(rows)
    sensitivity = Sensitivity(A, shares, (PriceTerm(shares, right[:64]),), seen_rows=shares)
    grid = OptionGrid(widths=(8,), sweeps=0, two_sided_widths=(), corrected_widths=())
    found: list[Solved] = []
    # Beside the table: 8-bit codes, a quarter of it; two pairs of factors in bfloat16, a fifth each; one of them in float32.
    assert peak_bytes(lambda: found.append(solve_matrix(weight, sensitivity, 4, grid))) < 1.6 * weight.nbytes
    assert {option.rounding for option in found[0].options} == set(Rounding)
    assert found[0].spectrum_rank > 1.0


def test_what_will_be_kept_on_disk_is_foretold(problem: tuple[Tensor, Sensitivity, Solved]) -> None:
    weight, sensitivity, solved = problem
    lean = OptionGrid(corrected_widths=(), widths=(8, 4), sweeps=0, two_sided_widths=())
    for grid, found in ((OptionGrid(), solved), (lean, solve_matrix(weight, sensitivity, 4, lean))):
        assert kept_bytes(grid, OUT, IN) == sum(tensor.nbytes for tensor in found.tensors.values())


def test_the_effective_rank_of_equal_directions_is_their_number() -> None:
    losses = torch.tensor([6.0, 4.0, 2.0, 0.0])
    assert effective_rank(losses, 3) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([5.0, 0.0, 0.0]), 2) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(3), 2) == 0.0


def test_the_effective_rank_of_a_flat_spectrum_does_not_hang_on_the_ranks_that_were_sought() -> None:
    flat = torch.arange(64.0, -1.0, -1.0)
    assert effective_rank(flat, 64) == pytest.approx(64.0)
    assert effective_rank(flat[:17], 64) == pytest.approx(64.0)
