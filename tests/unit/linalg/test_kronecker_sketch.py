"""Sketched inner products against those of the written-out gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from layerlens.linalg.kronecker_sketch import SKETCH_SIZE, SketchSide, sketches


def _case(inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(4, 7, inputs, generator=generator), torch.randn(4, 7, outputs, generator=generator)
    written_out = torch.einsum("sto,sti->soi", g, x).flatten(1)
    return x, g, written_out @ written_out.t()


def _sketched(x: Tensor, g: Tensor, seed: int) -> Tensor:
    numbers = sketches(SketchSide(g.shape[2], 2 * seed)(g), SketchSide(x.shape[2], 2 * seed + 1)(x))
    return numbers @ numbers.t()


def test_small_layers_are_exact() -> None:
    x, g, exact = _case(SKETCH_SIZE, 5)
    torch.testing.assert_close(_sketched(x, g, 0), exact, rtol=1e-4, atol=1e-3)


def test_inner_products_are_right_on_average_and_within_their_stated_noise() -> None:
    x, g, exact = _case(40, 50)
    draws = torch.stack([_sketched(x, g, seed) for seed in range(2000)])
    norms = exact.diagonal().sqrt()
    scale = norms[:, None] * norms[None, :]
    assert ((draws.mean(dim=0) - exact).abs() / scale).max() < 4 * (2 / SKETCH_SIZE) ** 0.5 / 2000**0.5
    assert (draws.std(dim=0) / scale).max() < (2 / SKETCH_SIZE) ** 0.5


def test_a_side_projects_all_batches_alike_and_two_sides_do_not() -> None:
    rows = torch.eye(40)[None]
    side = SketchSide(40, 0)
    assert torch.equal(side(rows), side(rows))
    assert torch.equal(side(rows), SketchSide(40, 0)(rows))
    assert not torch.equal(side(rows), SketchSide(40, 1)(rows))
