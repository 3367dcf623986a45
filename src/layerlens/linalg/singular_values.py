"""Leading singular values of a weight by the cheapest route that holds a thousandth.

The eigenvalues of the smaller Gram are the squares. How a Gram is summed decides how far below σ₁ a value may lie:

| summed in | where | right to a thousandth, with a margin, while σ₁/σ_i is under |
|---|---|---|
| bfloat16 products, float32 sums | bfloat16 weights of 2,048 features or more, where the processor multiplies these | 16 |
| float32 | any weight | 100 |
| float64 | any weight, and at once up to 1,024 features | 10⁶ |

The coarsest is tried first, and the next where σ₁/σ_i turns out larger. Products of a bfloat16 weight are exact until their
sums, over 1,024 columns each, are rounded to eight bits. That leaves errors of 2⁻⁹ of each entry off the diagonal (which is
summed apart) with random signs, and what they do to an eigenvalue is of second order: n times their mean square over the gap.

No values but the weight's own are ever held beside the Gram and one copy of it. Measured on one x86 core with AVX-512: processor
seconds on seeded Gaussian weights in bfloat16, whose flat spectrum is the hard case for methods that iterate:

| route | 1024 × 1024 | 2048 × 2048 | 4096 × 4096 | 11008 × 4096 |
|---|---|---|---|---|
| bfloat16 products | | 0.27 | 1.9 | 2.3 |
| float32 | 0.07 | 0.36 | 2.5 | 3.8 |
| float64 | 0.12 | 0.70 | 5.0 | 7.5 |
| block Golub–Kahan to 1e-3, float32 | | 0.8 | 3.0 | 4.5 |
| `torch.linalg.svdvals`, float32 | 0.16 | 1.15 | 12.9 | |

Block Golub–Kahan needs a basis of 1,000, 1,400 and 1,650 vectors before the 256th value of a flat spectrum holds, whose
orthogonalisation and Ritz values take what the Gram would have; and a copy of the weight in float32 that the Gram does without.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.linalg.fast_products import fast_products
from layerlens.linalg.processor import processor_multiplies_bfloat16

#: Values of each weight that the profile keeps.
LEADING = 256
#: Largest smaller side that is decomposed in float64 at once.
_LARGEST_DOUBLE = 1024
#: Smallest smaller side at which rounded products average out.
_SMALLEST_ROUNDED = 2048
#: Largest σ₁/σ_i that each way of summing resolves.
_LARGEST_RATIO = {torch.bfloat16: 16.0, torch.float32: 100.0, torch.float64: float("inf")}
#: Rows of the larger side that are summed at once.
_ROWS_AT_ONCE = 1024
_NUM_BLOCKS = 8


@fast_products()
def singular_values(weight: Float[Tensor, "out_features in_features"], count: int = LEADING) -> Float[Tensor, " leading"]:
    """The largest singular values, to a relative 1e-3 or better.

    Args:
        weight: In any floating type; read without its graph.
        count: How many at most.

    Returns:
        min(count, out_features, in_features) values in float64, largest first.
    """
    values = weight.detach()
    # The smaller side in front, so that the Gram is small.
    values = values if values.shape[0] <= values.shape[1] else values.t()
    count = min(count, len(values))
    for dtype in _routes(values):
        found = _from_gram(values, count, dtype)
        if found[0] <= _LARGEST_RATIO[dtype] * found[-1]:
            break
    return found


def energy(weight: Float[Tensor, "out_features in_features"]) -> float:
    """‖W‖²_F, the sum of the squares of all singular values, in float64."""
    return float(sum(rows.double().square().sum().item() for rows in weight.detach().split(_ROWS_AT_ONCE)))


def singular_values_bytes(out_features: int, in_features: int) -> int:
    """Most bytes that `singular_values` takes beside the weight."""
    small, large = sorted((out_features, in_features))
    # The Gram and LAPACK's copy of it in float64, which any weight may turn out to need; and one slice of the weight.
    return 8 * (2 * small**2 + 2 * small * min(large, _ROWS_AT_ONCE))


def _routes(values: Float[Tensor, "small large"]) -> list[torch.dtype]:
    """Types to multiply in, coarsest first."""
    routes = [torch.float64]
    if len(values) > _LARGEST_DOUBLE:
        routes.insert(0, torch.float32)
    if len(values) >= _SMALLEST_ROUNDED and values.dtype == torch.bfloat16 and multiplies_bfloat16(values.device):
        routes.insert(0, torch.bfloat16)
    return routes


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for it; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor_multiplies_bfloat16()


def _from_gram(values: Float[Tensor, "small large"], count: int, dtype: torch.dtype) -> Float[Tensor, " leading"]:
    """By the Gram of products in `dtype`; sums over slices are in float32 or float64."""
    small, large = values.shape
    gram = torch.zeros(small, small, dtype=torch.promote_types(dtype, torch.float32), device=values.device)
    diagonal = gram.new_zeros(small)
    step = -(-small // _NUM_BLOCKS)
    for start in range(0, large, _ROWS_AT_ONCE):
        columns = values[:, start : start + _ROWS_AT_ONCE].to(dtype)
        for top in range(0, small, step):
            block = gram[top : top + step, top:]
            if dtype == gram.dtype:
                block.addmm_(columns[top : top + step], columns[top:].t())
            else:
                block.add_(columns[top : top + step] @ columns[top:].t())
        if dtype != gram.dtype:
            diagonal += columns.to(gram.dtype).square().sum(dim=1)
    if dtype != gram.dtype:
        gram.diagonal().copy_(diagonal)
    squares = torch.linalg.eigvalsh(gram, UPLO="U")
    return squares.flip(0)[:count].double().clamp_min_(0.0).sqrt_()
