"""The rows that the best low-rank update reads, against the minimum found by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from layerlens.linalg.cholesky_whitening import Whitener, damped_whitener
from layerlens.linalg.gram import GramSum
from layerlens.linalg.whitened_directions import whitened_directions

DAMPING = 0.05


def sums(features: int, generator: torch.Generator, *, num: int = 200) -> tuple[Whitener, Tensor]:
    """A whitener, and the damped Gram that it is of."""
    rows = torch.randn(num, features, generator=generator, dtype=torch.float64) @ torch.randn(
        features, features, generator=generator, dtype=torch.float64
    )
    gram = GramSum(features, num)
    gram.add(rows)
    full = rows.t() @ rows / num
    whitener = damped_whitener(gram, num, DAMPING)
    assert whitener is not None
    return whitener, full + DAMPING * full.trace() / features * torch.eye(features, dtype=torch.float64)


@pytest.mark.parametrize(("out_features", "in_features"), [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("rank", [1, 2])
def test_no_update_that_reads_other_inputs_lowers_the_quadratic_as_far(out_features: int, in_features: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(out_features + rank)
    inputs, a = sums(in_features, generator)
    outputs, b = sums(out_features, generator)
    gradient = torch.randn(out_features, in_features, generator=generator, dtype=torch.float64)

    def least(down: Tensor) -> float:
        # With the rows fixed the best up is up = −B⁻¹ G Dᵀ (D A Dᵀ)⁻¹, at −½ tr(B⁻¹ G Dᵀ (D A Dᵀ)⁻¹ D Gᵀ).
        seen = gradient @ down.t()
        return -0.5 * torch.trace(torch.linalg.solve(b, seen) @ torch.linalg.solve(down @ a @ down.t(), seen.t())).item()

    found = whitened_directions(gradient, inputs, outputs, rank)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(rank, dtype=torch.float64))
    lowest = least(found)
    for _ in range(50):
        for size in (1.0, 0.01):
            noise = torch.randn(rank, in_features, generator=generator, dtype=torch.float64)
            assert least(found + size * noise) >= lowest - 1e-12


def test_the_strongest_comes_first_and_more_rows_leave_it_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, _ = sums(7, generator)
    outputs, _ = sums(4, generator)
    gradient = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    three = whitened_directions(gradient, inputs, outputs, 3)
    one = whitened_directions(gradient, inputs, outputs, 1)
    torch.testing.assert_close((three[0] @ one[0]).abs(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_rows_beyond_the_rank_of_the_gradient_are_zero(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, _ = sums(shape[1], generator)
    outputs, _ = sums(shape[0], generator)
    gradient = torch.outer(
        torch.randn(shape[0], generator=generator, dtype=torch.float64),
        torch.randn(shape[1], generator=generator, dtype=torch.float64),
    )
    found = whitened_directions(gradient, inputs, outputs, 3)
    assert found[0].any()
    assert not found[1:].any()
