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
    found = leading_subspace(exact, exact.to(torch.bfloat16) if is_coarse else exact, _RANK, squares.sum().item())
    assert found is not None
    seen = found.direct.double()
    assert found.weighted is found.direct
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
        found = leading_subspace(Products((first, second), given), Products((first, second), given), 20, product.trace().item())
        assert found is not None
        seen = found.direct.double().t() @ found.weighted.double()
        weighted = metric.double().unsqueeze(1) * found.direct.double()
        torch.testing.assert_close(found.weighted.double(), weighted, rtol=1e-4, atol=1e-4 * weighted.amax().item())
        best = torch.linalg.eigvalsh(product).flip(0)
        assert product.trace() - seen.trace() <= 1.02 * best[20:].sum()
        # Nested: every front of the vectors is nearly the best of its length.
        assert seen.diagonal()[:10].sum() >= 0.995 * best[:10].sum()


def test_what_float32_cannot_resolve_is_given_up() -> None:
    for kind in ("exact", "steep"):
        values = matrix(kind)
        exact = Products((values,), None)
        assert leading_subspace(exact, exact, 3 * _RANK, values.double().square().sum().item()) is None


def test_of_a_large_matrix_all_is_found_but_what_float32_cannot_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_DOUBLE", 100)
    for kind in ("exact", "steep"):
        values = matrix(kind)
        exact, energy = Products((values,), None), values.double().square().sum().item()
        for coarse in (exact, exact.to(torch.bfloat16)):
            found = leading_subspace(exact, coarse, 3 * _RANK, energy)
            assert found is not None
            assert found.direct.double().square().sum().item() >= (1 - 2e-5) * energy


def test_what_does_not_converge_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUNDS", 1)
    values = matrix("flat")
    exact = Products((values,), None)
    assert leading_subspace(exact, exact, _RANK, values.double().square().sum().item()) is None
