"""What is believed of plans before any is measured: broad and low rank first, then the MLPs, then the rest.

On MRPC rank 1 in every layer matched rank 4 in every layer, and moving parameters from breadth to rank lost; on a small
language model the MLPs alone came first. The prior orders who races when not all can, and decides where a race
was blind. Simplicity is another order: it decides where a race saw that two plans are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from layerlens.artifacts.plan import UNIFORM, Plan
from layerlens.words import Method, Role, Site

EVERYWHERE, ALL_MLP, PARTIAL = 0, 1, 2


def tier(plan: Plan) -> int:
    """How broad a plan is: every layer, at least every MLP layer, or less."""
    linear = [entry for entry in plan.layers if entry.site is Site.LINEAR]
    if all(entry.method is Method.LORA for entry in linear):
        return EVERYWHERE
    mlp = [entry for entry in linear if Role(entry.role).is_mlp]
    if mlp and all(entry.method is Method.LORA for entry in mlp):
        return ALL_MLP
    return PARTIAL


def prior_key(name: str, plan: Plan) -> tuple[int, int, int, bool, str]:
    """Sorts the plan that is believed best first: tier, then low rank everywhere, then breadth."""
    ranks = list(plan.ranks.values())
    largest = max(ranks, default=0)
    rank_or_breadth = (largest, -len(ranks)) if tier(plan) == EVERYWHERE else (-len(ranks), largest)
    return (tier(plan), *rank_or_breadth, name != UNIFORM, name)


def simplicity_key(name: str, plan: Plan) -> tuple[bool, int, int, int, str]:
    """Sorts the simplest plan first: uniform, then fewest distinct ranks, then widest, then lowest rank."""
    ranks = list(plan.ranks.values())
    return (name != UNIFORM, len(set(ranks)), -len(ranks), max(ranks, default=0), name)


def is_structured(plan: Plan) -> bool:
    """Whether a person could have written the plan: at most two ranks, next to each other.

    Structured plans spread what is left of a budget as one rank more on some layers; an optimum's ranks follow values.
    """
    ranks = set(plan.ranks.values())
    return len(ranks) <= 2 and max(ranks, default=0) - min(ranks, default=0) <= 1


def field_order(candidates: Mapping[str, Plan]) -> list[str]:
    """Order the candidates by who races first when not all can: uniform, then one of each kind in turn.

    Kinds: broad plans, plans on all MLPs, optima, other structured plans; within a kind by the prior.
    """
    kinds: list[list[str]] = [[], [], [], []]
    for name in sorted(candidates, key=lambda name: prior_key(name, candidates[name])):
        plan = candidates[name]
        if name == UNIFORM:
            continue
        if not is_structured(plan):
            kinds[2].append(name)
        else:
            kinds[{EVERYWHERE: 0, ALL_MLP: 1, PARTIAL: 3}[tier(plan)]].append(name)
    turns = [name for turn in zip_longest(*kinds) for name in turn if name is not None]
    return [UNIFORM, *turns] if UNIFORM in candidates else turns


def believed_best(candidates: Mapping[str, Plan]) -> str:
    """The candidate that the prior chooses."""
    return min(candidates, key=lambda name: prior_key(name, candidates[name]))


def simplest(candidates: Mapping[str, Plan]) -> str:
    """The simplest candidate."""
    return min(candidates, key=lambda name: simplicity_key(name, candidates[name]))
