"""What is believed of plans before any is measured: broad and low rank first, then the MLPs, then the rest.

On MRPC rank 1 in every layer matched rank 4 in every layer, and moving parameters from breadth to rank lost; on a small
language model the MLPs alone came first. Adapters and prefixes have no such record here: among plans as broad in LoRA the one
without them is believed first. The prior orders who races when not all can, and decides where a race
was blind. Simplicity is another order: it decides where a race saw that two plans are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from layerlens.artifacts.plan import OPTIMUM, UNIFORM, Plan
from layerlens.words import Method, Role, Site

EVERYWHERE, ALL_MLP, PARTIAL = 0, 1, 2


def tier(plan: Plan) -> int:
    """How broad a plan's LoRA is: every layer, at least every MLP layer, or less."""
    linear = [entry for entry in plan.layers if entry.site is Site.LINEAR]
    if all(entry.method is Method.LORA for entry in linear):
        return EVERYWHERE
    mlp = [entry for entry in linear if Role(entry.role).is_mlp]
    if mlp and all(entry.method is Method.LORA for entry in mlp):
        return ALL_MLP
    return PARTIAL


def prior_key(name: str, plan: Plan) -> tuple[int, bool, int, int, int, int, bool, str]:
    """Sorts the plan that is believed best first: tier, LoRA alone, then low rank everywhere, then breadth."""
    ranks, others = list(plan.ranks.values()), _other_sizes(plan)
    largest = max(ranks, default=0)
    rank_or_breadth = (largest, -len(ranks)) if tier(plan) == EVERYWHERE else (-len(ranks), largest)
    return (tier(plan), bool(others), *rank_or_breadth, -len(others), max(others, default=0), name != UNIFORM, name)


def simplicity_key(name: str, plan: Plan) -> tuple[bool, int, int, int, int, str]:
    """Sorts the simplest plan first: uniform, then fewest methods, fewest distinct sizes, then widest, then smallest sizes."""
    kinds = {(entry.method, entry.size) for entry in plan.adapted}
    methods = {method for method, _ in kinds}
    largest = max((size for _, size in kinds), default=0)
    return (name != UNIFORM, len(methods), len(kinds), -len(plan.adapted), largest, name)


def is_structured(plan: Plan) -> bool:
    """Whether a person could have written the plan: at most two sizes of each method, and ranks next to each other.

    Structured plans spread what is left of a budget as one size more on some sites; an optimum's sizes follow values.
    """
    ranks = set(plan.ranks.values())
    sizes = {method: {entry.size for entry in plan.adapted if entry.method is method} for method in Method}
    return all(len(found) <= 2 for found in sizes.values()) and max(ranks, default=0) - min(ranks, default=0) <= 1


def field_order(candidates: Mapping[str, Plan]) -> list[str]:
    """Order the candidates by who races first when not all can: uniform, the optimum, then one of each kind in turn.

    The optimum is that of the default value model, which foretells best and trains among the best three of 29 plans on two models
    (docs/results.md). Kinds: broad plans, plans with adapters or prefixes, plans on all MLPs, other optima, other structured
    plans; within a kind by the prior, but of the plans with adapters or prefixes those of a single method come first.
    """
    kinds: list[list[str]] = [[], [], [], [], []]
    for name in sorted(candidates, key=lambda name: prior_key(name, candidates[name])):
        plan = candidates[name]
        if name in (UNIFORM, OPTIMUM):
            continue
        if not is_structured(plan):
            kinds[3].append(name)
        elif _other_sizes(plan):
            kinds[1].append(name)
        else:
            kinds[{EVERYWHERE: 0, ALL_MLP: 2, PARTIAL: 4}[tier(plan)]].append(name)
    kinds[1].sort(key=lambda name: len({entry.method for entry in candidates[name].adapted}))
    first = [name for name in (UNIFORM, OPTIMUM) if name in candidates]
    return first + [name for turn in zip_longest(*kinds) for name in turn if name is not None]


def believed_best(candidates: Mapping[str, Plan]) -> str:
    """The candidate that the prior chooses."""
    return min(candidates, key=lambda name: prior_key(name, candidates[name]))


def simplest(candidates: Mapping[str, Plan]) -> str:
    """The simplest candidate."""
    return min(candidates, key=lambda name: simplicity_key(name, candidates[name]))


def _other_sizes(plan: Plan) -> list[int]:
    """Sizes of a plan's bottlenecks and prefixes."""
    return [entry.size for entry in plan.adapted if entry.method is not Method.LORA]
