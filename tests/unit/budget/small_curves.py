"""Small curves to plan, and the oracles: every combination, and scipy's mixed-integer solver."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from examples.synthetic_curves import DecoderShape, synthesise_curves
from layerlens.artifacts.compression import Curves, Option
from layerlens.budget.format_menu import Offer

SMALL = DecoderShape(blocks=3, hidden=128, inner=320, kv=64, vocabulary=512)


def small(seed: int = 0, **changes: object) -> Curves:
    """22 matrices with every kind of option; a tied embedding, keys and values narrower than queries."""
    return synthesise_curves(DecoderShape(**{**SMALL.__dict__, **changes}), seed=seed)  # type: ignore[arg-type]


def tiny(seed: int = 0, *, num_options: int = 5) -> Curves:
    """The embedding and the first block's attention, few enough plans to try them all."""
    curves = small(seed)
    rng = np.random.default_rng(seed)
    matrices = []
    for matrix in curves.matrices[:5]:
        drawn = sorted(rng.permutation(len(matrix.options) - 1)[: num_options - 1].tolist())
        options = [matrix.options[place] for place in drawn] + [matrix.options[-1]]
        matrices.append(matrix.model_copy(update={"options": options}))
    return curves.model_copy(update={"matrices": matrices})


def best_of_all(choices: Sequence[Sequence[Option]] | Sequence[Sequence[Offer]], room: int) -> float:
    """Least sum of losses of any combination that fits; infinite where none does."""
    best = math.inf
    for combination in itertools.product(*choices):
        if sum(each.size_bytes for each in combination) <= room:
            best = min(best, math.fsum(loss_of(each) for each in combination))
    return best


def milp_loss(choices: Sequence[Sequence[Option]], room: int) -> float:
    """Least sum of losses by HiGHS, one binary per option."""
    flat = [(group, option) for group, options in enumerate(choices) for option in options]
    losses = np.array([loss_of(option) for _, option in flat])
    sizes = np.array([option.size_bytes for _, option in flat], float)
    one_each = np.zeros((len(choices), len(flat)))
    one_each[[group for group, _ in flat], np.arange(len(flat))] = 1
    scale = losses[losses > 0].mean()
    found = milp(
        losses / scale,
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(sizes[None] / room, -np.inf, 1.0)],
        integrality=np.ones(len(flat), np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-9},
    )
    chosen = found.x > 0.5
    assert sizes[chosen].sum() <= room * (1 + 1e-9)
    return math.fsum(losses[chosen].tolist())


def loss_of(each: Option | Offer) -> float:
    return each.predicted_loss if isinstance(each, Option) else each.loss
