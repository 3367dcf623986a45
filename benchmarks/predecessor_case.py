"""The predecessor's case: one 2048² matrix at rank 128, 256 and 384, and what the same bytes buy in each format.

    python benchmarks/predecessor_case.py [--out runs/benchmarks/predecessor_case.json]

The matrix is made: seeded directions, and singular values σ_i = (i + s)^−p with p and s such that rank 128 keeps a cosine of .58
and rank 256 one of .71, as the predecessor's did. The spectrum foretells every rank before anything is compressed:
cos² = Σ_{i≤r} σ_i² / Σ σ_i², and cos² + error² = 1. Errors are of what is stored and read back, against W in float64. No inputs
are looked at: scales are searched for the least squared error of the weights, factors are those of the plain decomposition.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from layerlens.artifacts.formats import Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.compressing.stored_matrix import restored, stored
from layerlens.linalg.codes import dequantise
from layerlens.linalg.nearest_rounding import round_with_searched_scales
from layerlens.linalg.whitened_factors import plain_factors

SIZE, RANKS = 2048, (128, 256, 384)
COSINES = {128: 0.58, 256: 0.71}
GROUP = 128
SCHEMES = (
    integer(8, GROUP),
    low_rank(512, 16, GROUP),
    low_rank(1024, 8, GROUP),
    integer(6, GROUP),
    integer_low_rank(4, 128, 8, GROUP),
    integer_low_rank(4, 64, 8, GROUP),
    integer(4, GROUP),
    low_rank(512, 8, GROUP),
    integer_low_rank(3, 64, 8, GROUP),
    low_rank(384, 8, GROUP),
    integer(3, GROUP),
    low_rank(256, 8, GROUP),
    integer(2, GROUP),
    low_rank(128, 16, GROUP),
    low_rank(128, 8, GROUP),
    low_rank(128, 4, GROUP),
)


def cosine(squares: Tensor, rank: int) -> float:
    """Cosine of W with its truncation, from the spectrum."""
    return (squares[:rank].sum() / squares.sum()).sqrt().item()


def spectrum() -> tuple[Tensor, float, float]:
    """Singular values with the given cosines, their power and their shift."""
    places = torch.arange(1, SIZE + 1, dtype=torch.float64)

    def values(shift: float) -> tuple[Tensor, float]:
        """The power that gives the first cosine."""
        low, high = 0.0, 64.0
        for _ in range(60):
            power = (low + high) / 2
            is_flat = cosine((1 + places / shift) ** (-2 * power), 128) < COSINES[128]
            low, high = (power, high) if is_flat else (low, power)
        return (1 + places / shift) ** -power, power

    low, high = 1.0, 1e5
    for _ in range(60):
        shift = (low * high) ** 0.5
        is_early = cosine(values(shift)[0].square(), 256) < COSINES[256]
        low, high = (shift, high) if is_early else (low, shift)
    return (*values(shift), shift)


def measured(weight: Tensor, read: Tensor) -> tuple[float, float]:
    """Cosine and relative error of what was read back."""
    read = read.double()
    product = (weight * read).sum() / (weight.norm() * read.norm())
    return product.item(), ((read - weight).norm() / weight.norm()).item()


def read_back(scheme: Scheme, weight: Tensor) -> tuple[Tensor, int]:
    """The matrix after it was stored, and the bytes of its tensors."""
    codes = round_with_searched_scales(weight, scheme.bits, scheme.group_size) if scheme.format.has_codes else None
    left = weight if codes is None else weight - dequantise(codes)
    factors = plain_factors(left, scheme.rank) if scheme.format.has_factors else None
    up, down = (None, None) if factors is None else (factors.up, factors.down)
    tensors = stored(scheme, weight=weight, codes=codes, up=up, down=down)
    return restored(scheme, tensors, SIZE, SIZE), sum(tensor.nbytes for tensor in tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/predecessor_case.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    values, power, shift = spectrum()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0] for _ in range(2))
    weight = (left * values.float()) @ right
    exact, squares = weight.double(), values.square()
    console = Console(width=110)

    ranks: list[dict[str, Any]] = []
    factors = plain_factors(weight, max(RANKS))
    for rank in RANKS:
        scheme = low_rank(rank, 8, GROUP)
        kept = measured(exact, factors.up[:rank].t() @ factors.down[:rank])
        read, num_bytes = read_back(scheme, weight)
        foretold = cosine(squares, rank)
        ranks.append(
            {
                "rank": rank,
                "foretold_cosine": foretold,
                "foretold_error": (1 - foretold**2) ** 0.5,
                "cosine": kept[0],
                "error": kept[1],
                "int8_error": measured(exact, read)[1],
                "int8_bits_per_weight": 8 * num_bytes / SIZE**2,
            }
        )
    table = Table(title=f"{SIZE}² with σ_i = (i + {shift:.0f})^-{power:.3f}: what the spectrum foretells, and what is measured")
    for column in ("rank", "cosine foretold", "measured", "error foretold", "measured", "with int8 factors", "bits per weight"):
        table.add_column(column)
    for row in ranks:
        figures = ("foretold_cosine", "cosine", "foretold_error", "error", "int8_error")
        table.add_row(str(row["rank"]), *(f"{row[name]:.4f}" for name in figures), f"{row['int8_bits_per_weight']:.2f}")
    console.print(table)

    formats: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        read, num_bytes = read_back(scheme, weight)
        if num_bytes != size_bytes(scheme, SIZE, SIZE, 4):
            raise SystemExit(
                f"predecessor_case: {scheme.name} takes {num_bytes} bytes, {size_bytes(scheme, SIZE, SIZE, 4)} foretold"
            )
        kept_cosine, kept_error = measured(exact, read)
        bits_per_weight = 8 * num_bytes / SIZE**2
        formats.append({"format": scheme.name, "bits_per_weight": bits_per_weight, "cosine": kept_cosine, "error": kept_error})
    formats.sort(key=lambda row: -row["bits_per_weight"])
    table = Table(title=f"the same matrix in each format, groups of {GROUP}: what the bytes buy")
    for column in ("format", "bits per weight", "cosine", "relative error", "less than all cheaper ones"):
        table.add_column(column)
    for row in formats:
        bits, kept_cosine, kept_error = row["bits_per_weight"], row["cosine"], row["error"]
        is_least = all(
            kept_error < 0.999 * other["error"] for other in formats if other is not row and other["bits_per_weight"] <= bits
        )
        table.add_row(row["format"], f"{bits:.3f}", f"{kept_cosine:.4f}", f"{kept_error:.4f}", "yes" if is_least else "")
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"power": power, "shift": shift, "ranks": ranks, "formats": formats}
    options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
