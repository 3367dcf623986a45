"""Samples that a random head is fitted on before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Held-out samples of the head's early stopping, as a share of all it gets.
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class HeadSamples:
    """Positions in the data set, disjoint from each other; `has_overlap` where they are measured on as well."""

    train: list[int]
    held_out: list[int]
    has_overlap: bool


def choose_head_samples(candidates: Sequence[int], measured: Sequence[int], num_samples: int, seed: int) -> HeadSamples:
    """Choose up to `num_samples`, and a share more to stop by, that are not measured on where the data is large enough.

    A head fitted on the measured samples has seen their labels: its gradients there are smaller than elsewhere. But a head fitted
    on too few samples is noise, which is worse; so with fewer free samples than asked for, all candidates serve.
    """
    taken = set(measured)
    free = [candidate for candidate in candidates if candidate not in taken]
    has_overlap = len(free) < num_samples
    pool = list(candidates) if has_overlap else free
    order = np.random.default_rng([seed, 3]).permutation(len(pool)).tolist()
    wanted = [pool[position] for position in order[: round(num_samples * (1 + _HELD_OUT_SHARE))]]
    num_held_out = max(1, round(len(wanted) * _HELD_OUT_SHARE / (1 + _HELD_OUT_SHARE)))
    return HeadSamples(train=wanted[num_held_out:], held_out=wanted[:num_held_out], has_overlap=has_overlap)
