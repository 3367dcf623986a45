"""The plans that are trained to the end: candidates of the planner at one budget, and controls that know nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from predicted_gain_subjects import Measured

#: Seeds of random plans over all layers, of random plans over a random half of them, and of shuffled optima.
NUM_RANDOM, NUM_HALF, NUM_SHUFFLED = 2, 1, 2


def field_of_plans(measured: Measured) -> dict[str, dict[str, int]]:
    """Ranks by layer of every plan, by name; all within the budget."""
    plans = {name: dict(plan.ranks) for name, plan in measured.candidates.items()}
    prices = {layer.layer: layer.in_features + layer.out_features for layer in measured.profile.layers}
    optimum = plans.get("optimum-whitened") or plans["uniform"]
    for seed in range(NUM_RANDOM):
        plans[f"random-{seed}"] = random_ranks(prices, measured.budget, seed=seed)
    for seed in range(NUM_HALF):
        chosen = np.random.default_rng([seed, 7]).permutation(list(prices))[: len(prices) // 2]
        plans[f"random-half-{seed}"] = random_ranks({str(name): prices[str(name)] for name in chosen}, measured.budget, seed=seed)
    for seed in range(NUM_SHUFFLED):
        plans[f"shuffled-{seed}"] = shuffled_ranks(optimum, prices, measured.budget, seed=seed)
    return plans


def random_ranks(prices: Mapping[str, int], budget: int, *, seed: int) -> dict[str, int]:
    """One rank more on a random layer, again and again, while any layer's next rank fits.

    Args:
        prices: Parameters of one rank, by layer.
        budget: Parameters at most.
        seed: Of the draws.
    """
    return _filled(dict.fromkeys(prices, 0), prices, budget, np.random.default_rng(seed))


def shuffled_ranks(ranks: Mapping[str, int], prices: Mapping[str, int], budget: int, *, seed: int) -> dict[str, int]:
    """The same ranks on other layers, cut or filled at random to the budget, since layers differ in price.

    Args:
        ranks: By layer, those of the plan; the others have none.
        prices: Parameters of one rank, by layer, of every layer.
        budget: Parameters at most.
        seed: Of the permutation and of what is cut or filled.
    """
    random = np.random.default_rng([seed, 1])
    names = list(prices)
    moved = {names[to]: ranks.get(names[place], 0) for place, to in enumerate(random.permutation(len(names)))}
    while (spent := sum(prices[name] * rank for name, rank in moved.items())) > budget:
        adapted = [name for name, rank in moved.items() if rank]
        name = adapted[int(random.integers(len(adapted)))]
        # No more is cut than is too much.
        moved[name] -= min(moved[name], -(-(spent - budget) // prices[name]))
    # Filled where it is adapted already, so that its breadth stays.
    filled = _filled({name: rank for name, rank in moved.items() if rank}, prices, budget, random)
    return {name: filled[name] for name in names if name in filled}


def _filled(ranks: dict[str, int], prices: Mapping[str, int], budget: int, random: np.random.Generator) -> dict[str, int]:
    left = budget - sum(prices[name] * rank for name, rank in ranks.items())
    while fitting := [name for name in ranks if prices[name] <= left]:
        name = fitting[int(random.integers(len(fitting)))]
        ranks[name] += 1
        left -= prices[name]
    return {name: rank for name, rank in ranks.items() if rank}
