"""Factors against the singular value decomposition of B^½ W A^½ in float64, and losses against factors multiplied out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg import leading_subspace
from layerlens.linalg import whitened_factors as module
from layerlens.linalg.whitened_factors import Factors, plain_factors, whitened_factors
from tests.unit.linalg.rounding_cases import gram, loss, weight
from tests.unit.linalg.test_leading_subspace import KINDS, matrix

_SHAPES = [(20, 33), (33, 20), (24, 24), (1, 5), (5, 1)]


def _root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram.double())
    return (vectors * values.clamp_min(0.0).sqrt()) @ vectors.t()


def _best(values: Tensor, inner: Tensor, outer: Tensor | None) -> Tensor:
    """½ Σ_{i>r} σ_i² for r = 0, 1, …"""
    whitened = values.double() @ _root(inner)
    squares = torch.linalg.svdvals(whitened if outer is None else _root(outer) @ whitened).square()
    return 0.5 * (squares.sum() - torch.cat([torch.zeros(1).double(), squares.cumsum(0)]))


def _losses(found: Factors, values: Tensor, inner: Tensor, outer: Tensor | None) -> Tensor:
    """The loss of every rank, factors multiplied out."""
    errors = (found.up[:rank].t() @ found.down[:rank] - values for rank in range(len(found.up) + 1))
    return torch.tensor([loss(error, inner, outer) for error in errors], dtype=torch.float64)


def _outer(kind: str, size: int) -> Tensor | None:
    full = gram(size, seed=2, samples=3 if kind == "singular" else 0)
    return {"none": None, "diagonal": full.diagonal().clone()}.get(kind, full)


@pytest.mark.parametrize("samples", [0, 6], ids=["regular", "singular"])
@pytest.mark.parametrize("outer_kind", ["none", "diagonal", "full", "singular"])
@pytest.mark.parametrize("shape", _SHAPES)
def test_every_rank_loses_what_the_whitened_spectrum_foretells(shape: tuple[int, int], outer_kind: str, samples: int) -> None:
    values, inner = weight(*shape), gram(shape[1], samples=samples)
    outer = _outer(outer_kind, shape[0])
    full = outer.diag() if outer is not None and outer.dim() == 1 else outer
    found = whitened_factors(values, inner, outer, 100)
    best = _best(values, inner, full)
    assert len(found.up) == len(found.down) == min(shape)
    torch.testing.assert_close(_losses(found, values, inner, full), best, rtol=1e-3, atol=1e-5 * best[0].item())
    torch.testing.assert_close(found.loss_of_rank, best, rtol=1e-3, atol=1e-5 * best[0].item())
    assert (found.loss_of_rank.diff() <= 0).all()


@pytest.mark.parametrize("shape", _SHAPES)
def test_plain_factors_are_the_truncated_decomposition(shape: tuple[int, int]) -> None:
    values = weight(*shape)
    found = plain_factors(values, 100)
    lefts, sizes, rights = torch.linalg.svd(values.double(), full_matrices=False)
    for rank in range(min(shape) + 1):
        expected = (lefts[:, :rank] * sizes[:rank]) @ rights[:rank]
        torch.testing.assert_close((found.up[:rank].t() @ found.down[:rank]).double(), expected, rtol=1e-3, atol=1e-6)
        left_over = 0.5 * sizes[rank:].square().sum().item()
        assert found.loss_of_rank[rank].item() == pytest.approx(left_over, rel=1e-3, abs=1e-6 * sizes.square().sum().item())


def test_a_smaller_rank_is_the_front_of_a_larger_one() -> None:
    values, inner, outer = weight(20, 33), gram(33), gram(20, seed=2)
    short, long = (whitened_factors(values, inner, outer, rank) for rank in (4, 20))
    torch.testing.assert_close(short.up.t() @ short.down, long.up[:4].t() @ long.down[:4], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(short.loss_of_rank, long.loss_of_rank[:5], rtol=1e-4, atol=0)


def test_all_ranks_together_are_the_matrix() -> None:
    values = weight(20, 33)
    found = whitened_factors(values, gram(33), gram(20, seed=2), 20)
    torch.testing.assert_close(found.up.t() @ found.down, values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(20, 33), (33, 20)])
def test_grams_of_zeros_stand_for_the_identity(shape: tuple[int, int]) -> None:
    values = weight(*shape)
    found = whitened_factors(values, torch.zeros(shape[1], shape[1]), torch.zeros(shape[0]), 5)
    plain = plain_factors(values, 5)
    torch.testing.assert_close(found.up.t() @ found.down, plain.up.t() @ plain.down)


def test_a_matrix_of_zeros_has_factors_of_zeros() -> None:
    found = whitened_factors(torch.zeros(6, 9), gram(9), None, 3)
    assert not (found.up.t() @ found.down).any()
    assert found.loss_of_rank.tolist() == [0.0] * 4


@pytest.mark.parametrize("shape", [(600, 640), (640, 600)])
@pytest.mark.parametrize("kind", KINDS)
def test_few_vectors_of_a_large_matrix_come_within_a_hundredth_of_the_best(kind: str, shape: tuple[int, int]) -> None:
    values = matrix(kind, *shape)
    inner, outer = gram(shape[1]), gram(shape[0], seed=2)
    plain, whitened = plain_factors(values, 60), whitened_factors(values, inner, outer, 60)
    identity = torch.eye(shape[1])
    for found, best, spent in (
        (plain, _best(values, identity, None), 0.5 * (plain.up.t() @ plain.down - values).double().square().sum()),
        (whitened, _best(values, inner, outer), loss(whitened.up.t() @ whitened.down - values, inner, outer)),
    ):
        assert float(spent) ** 0.5 <= 1.01 * best[60].item() ** 0.5
        # Float32 products tell some millionths of the whole.
        assert found.loss_of_rank[-1].item() == pytest.approx(float(spent), rel=1e-3, abs=5e-6 * best[0].item())


def test_a_large_matrix_is_decomposed_in_full_where_the_iteration_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    values = matrix("flat", 600, 640)
    iterated = plain_factors(values, 60)
    monkeypatch.setattr(module, "leading_subspace", lambda *given: None)
    full = plain_factors(values, 60)
    least = 0.5 * torch.linalg.svdvals(values.double())[60:].square().sum().item()
    assert full.loss_of_rank[-1].item() == pytest.approx(least, rel=1e-6)
    assert least * (1 - 1e-6) <= iterated.loss_of_rank[-1].item() <= 1.02 * least


@pytest.mark.parametrize("outer_kind", ["none", "diagonal"])
def test_the_long_side_of_a_table_is_gone_through_in_parts(monkeypatch: pytest.MonkeyPatch, outer_kind: str) -> None:
    values, inner = weight(45, 20), gram(20)
    outer = _outer(outer_kind, 45)
    for part in (module, leading_subspace):
        monkeypatch.setattr(part, "LONG", 30)
        monkeypatch.setattr(part, "COLUMNS_AT_ONCE", 7)
    monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 3 * 45)
    for found, metric in ((whitened_factors(values, inner, outer, 100), inner), (plain_factors(values, 100), torch.eye(20))):
        full = outer.diag() if outer is not None and metric is inner else None
        best = _best(values, metric, full)
        torch.testing.assert_close(_losses(found, values, metric, full), best, rtol=1e-3, atol=1e-5 * best[0].item())
        torch.testing.assert_close(found.loss_of_rank, best, rtol=1e-3, atol=1e-5 * best[0].item())
