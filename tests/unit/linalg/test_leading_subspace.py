"""Leading vectors against a full decomposition, on spectra that are hard for methods that iterate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg import leading_subspace as module
from layerlens.linalg.leading_subspace import Products, leading_subspace

_SIZE, _RANK = 400, 60


def matrix(kind: str, rows: int = _SIZE, columns: int = _SIZE) -> Tensor:
    """A seeded matrix of a given spectrum."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(rows, columns, generator=generator)
    if kind == "flat":
        return drawn
    side = min(rows, columns)
    places = torch.arange(1, side + 1, dtype=torch.float32)
    values = {
        "slow": places**-0.5,
        "fast": places**-1.0,
        "cliff": (places <= _RANK).float() + 0.1,
        "step beyond the rank": (places <= _RANK + 20).float() + 0.1,
        "steep": torch.exp(-places / 25),
        "one giant": torch.cat([torch.tensor([1e3]), torch.ones(side - 1)]),
        "exact": (places <= _RANK // 2).float(),
    }[kind]
    left = torch.linalg.qr(torch.randn(rows, side, generator=generator))[0]
    return (left * values) @ torch.linalg.qr(drawn.t())[0][:, :side].t()


KINDS = ("flat", "slow", "fast", "cliff", "step beyond the rank", "one giant")


@pytest.mark.parametrize("is_coarse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_over_is_within_a_hundredth_of_the_least(kind: str, is_coarse: bool) -> None:
    values = matrix(kind)
    exact = Products((values,), None)
    squares = torch.linalg.svdvals(values.double()).square()
    found = leading_subspace(exact, _RANK, squares.sum().item(), torch.bfloat16 if is_coarse else None)
    assert found is not None
    assert found.seen is not None
    assert found.seen.weighted is found.seen.direct
    torch.testing.assert_close(found.vectors.t() @ found.vectors, torch.eye(_RANK), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.seen.direct, values.t() @ found.vectors, rtol=0, atol=1e-4 * squares[0].sqrt().item())
    seen = found.seen.direct.double()
    apart = seen.t() @ seen
    torch.testing.assert_close(apart, apart.diagonal().diag(), rtol=0, atol=1e-4 * apart.amax().item())
    # What W leaves over once its rows are projected on the span of what was seen.
    basis = torch.linalg.qr(seen)[0]
    left = (values.double() - values.double() @ basis @ basis.t()).square().sum()
    assert left.sqrt() <= 1.01 * squares[_RANK:].sum().sqrt()
    assert squares.sum() - apart.trace() <= 1.02 * squares[_RANK:].sum()


def test_a_chain_with_a_metric_is_the_product_written_out() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(300, 300, generator=generator), torch.randn(300, 200, generator=generator)
    metric = torch.rand(200, generator=generator)
    product = first.double() @ second.double() @ metric.double().diag() @ second.double().t() @ first.double().t()
    for given in (metric, metric.diag()):
        products = Products((first, second), given)
        found = leading_subspace(products, 20, product.trace().item())
        assert found is not None
        vectors = found.vectors.double()
        seen = vectors.t() @ product @ vectors
        close = {"rtol": 1e-4, "atol": 1e-4 * seen.amax().item()}
        torch.testing.assert_close(products.times(found.vectors).double(), product @ vectors, **close)
        for form in (products.form(found.vectors), found.seen and found.seen.form):
            assert form is not None
            torch.testing.assert_close(form.double(), seen, **close)
        best = torch.linalg.eigvalsh(product).flip(0)
        assert product.trace() - seen.trace() <= 1.02 * best[20:].sum()
        # Nested: every front of the vectors is nearly the best of its length.
        assert seen.diagonal()[:10].sum() >= 0.995 * best[:10].sum()


def test_what_float32_cannot_resolve_is_given_up() -> None:
    for kind in ("exact", "steep"):
        values = matrix(kind)
        exact = Products((values,), None)
        assert leading_subspace(exact, 3 * _RANK, values.double().square().sum().item()) is None


def test_of_a_large_matrix_all_is_found_but_what_float32_cannot_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_DOUBLE", 100)
    for kind in ("exact", "steep"):
        values = matrix(kind)
        exact, energy = Products((values,), None), values.double().square().sum().item()
        for coarse in (None, torch.bfloat16):
            found = leading_subspace(exact, 3 * _RANK, energy, coarse)
            assert found is not None
            assert (found.vectors.double().t() @ values.double()).square().sum().item() >= (1 - 2e-5) * energy


def test_what_does_not_converge_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUNDS", 1)
    values = matrix("flat")
    exact = Products((values,), None)
    assert leading_subspace(exact, _RANK, values.double().square().sum().item()) is None


@pytest.mark.parametrize("has_metric", [False, True])
@pytest.mark.parametrize("coarse", [None, torch.bfloat16])
def test_the_long_side_of_a_table_is_gone_through_in_parts(
    monkeypatch: pytest.MonkeyPatch, coarse: torch.dtype | None, has_metric: bool
) -> None:
    values = matrix("fast", 300, 1000)
    products = Products(
        (matrix("slow", 300, 300), values), torch.rand(1000, generator=torch.Generator().manual_seed(2)) if has_metric else None
    )
    energy = products.form(torch.eye(300)).trace().item()
    whole = leading_subspace(products, 20, energy, coarse)
    widest = []
    see_part = Products._see_part

    def seen(self: Products, along: Tensor, part: slice) -> module.Seen:
        found = see_part(self, along, part)
        widest.append(len(found.direct))
        return found

    monkeypatch.setattr(module, "LONG", 1000)
    monkeypatch.setattr(module, "COLUMNS_AT_ONCE", 300)
    monkeypatch.setattr(Products, "_see_part", seen)
    parts = leading_subspace(products, 20, energy, coarse)
    assert whole is not None
    assert parts is not None
    assert set(widest) == {300, 100}
    assert whole.seen is not None
    assert parts.seen is None
    captured = [products.form(found.vectors).trace().item() for found in (whole, parts)]
    assert captured[1] == pytest.approx(captured[0], rel=1e-3)
