"""How far one model's predictions are from another's, row by row, in float64.

    KL(p‖q) = Σ p (log p − log q)     p, q: softmax of the reference's and of the other's logits; in nats
    1 − cos(a, b) = ½ ‖a/‖a‖ − b/‖b‖‖²     so that it keeps its digits where both are nearly one

Source: Kullback & Leibler (1951). Logits are the largest tensors of a language model, so few rows at a time are in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Numbers of each side that are in float64 at once: small enough for a processor's cache to help.
_CHUNK_NUMBERS = 1 << 17


@dataclass(frozen=True)
class RowDivergence:
    """Of each row: KL in nats (float64), whether the most probable class is the same, and the cosine of the logits (float64)."""

    kl_nats: Float[Tensor, " rows"]
    is_same_top: Bool[Tensor, " rows"]
    cosine: Float[Tensor, " rows"]


def row_divergence(reference: Float[Tensor, "rows classes"], other: Float[Tensor, "rows classes"]) -> RowDivergence:
    """Compare logits row by row.

    A class whose logit is minus infinity in both is left out; of the cosine too. NaN stays NaN.

    Args:
        reference: Logits of the model that is taken as right.
        other: Logits of the other model.
    """
    kl, same, cosines = [], [], []
    for first, second in _chunks(reference, other):
        same.append(first.argmax(-1) == second.argmax(-1))
        mine, theirs = first.double(), second.double()
        if any(bool(end.isinf()) for side in (first, second) for end in side.aminmax()):
            kl.append(_kl_with_shut_classes(mine, theirs))
            mine, theirs = (torch.where(side.isinf(), 0.0, side) for side in (mine, theirs))
        else:
            kl.append(_kl(mine, theirs))
        sizes = (_dot(mine, mine) * _dot(theirs, theirs)).sqrt()
        cosines.append(_dot(mine, theirs) / sizes.clamp_min(torch.finfo(torch.float64).tiny))
    return RowDivergence(_joined(kl), torch.cat(same) if same else torch.zeros(0, dtype=torch.bool), _joined(cosines))


def _kl(mine: Tensor, theirs: Tensor) -> Tensor:
    log_sum, other_log_sum = mine.logsumexp(-1), theirs.logsumexp(-1)
    p = (mine - log_sum[:, None]).exp_()
    # Rounding alone can take it below 0.
    return (_dot(p, mine - theirs) - log_sum + other_log_sum).clamp_min_(0.0)


def _kl_with_shut_classes(mine: Tensor, theirs: Tensor) -> Tensor:
    log_p = mine.log_softmax(-1)
    p = log_p.exp()
    # Where p is 0 nothing is lost, whatever q says.
    return torch.where(p == 0, 0.0, p * (log_p - theirs.log_softmax(-1))).sum(-1).clamp_min_(0.0)


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return torch.linalg.vecdot(first, second)


def cosine_distance(reference: Float[Tensor, "rows features"], other: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
    """1 − cosine of each pair of rows, float64, for embeddings; 1 where one of them is zero, 0 where both are."""
    return _joined([_distance(mine.double(), theirs.double()) for mine, theirs in _chunks(reference, other)])


def _chunks(reference: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _CHUNK_NUMBERS // max(1, reference.shape[1]))
    for start in range(0, len(reference), step):
        yield reference[start : start + step].detach(), other[start : start + step].detach()


def _distance(first: Tensor, second: Tensor) -> Tensor:
    sizes = [side.norm(dim=-1, keepdim=True) for side in (first, second)]
    units = [side / torch.where(size > 0, size, 1.0) for side, size in zip((first, second), sizes, strict=True)]
    distance = 0.5 * (units[0] - units[1]).square().sum(-1)
    is_zero = [(size == 0).squeeze(-1) for size in sizes]
    return torch.where((is_zero[0] ^ is_zero[1]) & distance.isfinite(), 1.0, distance)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
