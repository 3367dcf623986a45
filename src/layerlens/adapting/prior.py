"""What is believed of plans before any is measured: broad and low rank first; else what is foretold to gain most.

On MRPC rank 1 in every layer matched rank 4 in every layer, and moving parameters from breadth to rank lost; on CIFAR-10 uniform
over 52 of 72 layers was ahead of all MLPs. Where a budget is too small for that, breadth is no guide: at a fifth of rank 1
everywhere it puts all of attention first, which trained among the worst of 29 plans on two language models, while predicted
values order those plans at .88 and .73 (docs/results.md, "Budgets under rank 1"). An optimum is believed after the plans that a
person could have written: it is where the prediction errs most in its own favour. So is what leaves the lower blocks out: on
sentence pairs values favour that, and it trains worst.
Adapters and prefixes have no such record here: among plans as broad in LoRA the one without them is believed first. The prior
orders who races when not all can, and decides where a race was blind. Simplicity is another order: it decides where a race saw
that two plans are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from layerlens.artifacts.plan import OPTIMUM, UNIFORM, Plan, PlanLayer
from layerlens.words import Method, Role, Site

EVERYWHERE, ALL_MLP, PARTIAL = 0, 1, 2
#: How the names of plans begin that a solver made.
_OPTIMA = OPTIMUM.split("-")[0] + "-"
#: Share of the layers from which on uniform counts as broad although its budget does not suffice for all of them.
BROAD_SHARE = 0.5


def tier(plan: Plan) -> int:
    """How broad a plan's LoRA is in the blocks that its budgets reach: every layer, at least every MLP layer, or less."""
    linear = _reached(plan)
    if all(entry.method is Method.LORA for entry in linear):
        return EVERYWHERE
    mlp = [entry for entry in linear if Role(entry.role).is_mlp]
    if mlp and all(entry.method is Method.LORA for entry in mlp):
        return ALL_MLP
    return PARTIAL


def is_broad(name: str, plan: Plan) -> bool:
    """Whether a plan adapts every layer that its budgets reach, or is uniform and adapts half of them."""
    if tier(plan) == EVERYWHERE:
        return True
    linear = _reached(plan)
    return name == UNIFORM and sum(entry.method is Method.LORA for entry in linear) >= BROAD_SHARE * len(linear)


def prior_key(name: str, plan: Plan) -> tuple[bool, bool, bool, bool, float, bool, int, int, int, str]:
    """Sorts the plan that is believed best first.

    Broad LoRA of low rank; then LoRA alone, no optimum, from the lowest block that budgets reach, by predicted value, and uniform
    where values say nothing.
    """
    largest, others, has_breadth = max(plan.ranks.values(), default=0), _other_sizes(plan), is_broad(name, plan)
    order = float(largest) if has_breadth else -plan.chosen.value
    is_optimum = not has_breadth and name.startswith(_OPTIMA)
    is_cut = not has_breadth and plan.depth_cut > plan.reach
    breadth, width = tier(plan), -len(plan.adapted)
    largest_other = max(others, default=0)
    return (not has_breadth, bool(others), is_optimum, is_cut, order, name != UNIFORM, breadth, width, largest_other, name)


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
        if name.startswith(_OPTIMA) or not is_structured(plan):
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


def why_believed(name: str, plan: Plan) -> str:
    """What speaks for the plan that the prior chose."""
    return "broad and low rank first" if is_broad(name, plan) else "no plan is broad, so by predicted value"


def simplest(candidates: Mapping[str, Plan]) -> str:
    """The simplest candidate."""
    return min(candidates, key=lambda name: simplicity_key(name, candidates[name]))


def _reached(plan: Plan) -> list[PlanLayer]:
    """The linear layers of the blocks that a plan's budgets reach."""
    return [entry for entry in plan.layers if entry.site is Site.LINEAR and (entry.block or 0) >= plan.reach]


def _other_sizes(plan: Plan) -> list[int]:
    """Sizes of a plan's bottlenecks and prefixes."""
    return [entry.size for entry in plan.adapted if entry.method is not Method.LORA]
