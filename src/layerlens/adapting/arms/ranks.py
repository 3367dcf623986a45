"""Arms that differ in their ranks alone: a plan of LoRA ranks for each, at the parameters of the plan it is compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from layerlens.adapting.arms.apportionment import apportion
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import OPTIMUM, UNIFORM, Plan, PlanLayer
from layerlens.errors import ConfigError
from layerlens.words import Method, Role, Site

#: The rank that PEFT's config has by default.
CUSTOMARY_RANK = 8
CUSTOMARY_ROLES = (Role.ATTENTION_QUERY, Role.ATTENTION_VALUE, Role.ATTENTION_QKV)


def with_ranks(plan: Plan, ranks: Mapping[str, int]) -> Plan:
    """A plan of the same model with these LoRA ranks and nothing else; its prices are void, it is only trained."""
    sizes = [(Method.LORA, ranks.get(entry.layer, 0)) if entry.site is Site.LINEAR else (Method.NONE, 0) for entry in plan.layers]
    return _with_sizes(plan, sizes)


def linear_layers(plan: Plan) -> list[PlanLayer]:
    """The layers that a LoRA can sit on, in forward order."""
    return [entry for entry in plan.layers if entry.site is Site.LINEAR]


def even_ranks(plan: Plan, members: Sequence[PlanLayer]) -> dict[str, int]:
    """One rank for every member, the rest as one rank more on evenly spaced ones: as many parameters as the plan has."""
    return _apportioned(plan, members, [1.0] * len(members))


def uniform_plan(plan: Plan, candidates: Mapping[str, Plan]) -> Plan:
    """Uniform over all layers: the planner's own where it has as many parameters as the plan, else filled to that number.

    The planner's uniform stops where a budget of time, memory or compute stops; this arm is what such a budget is compared with.
    """
    planned = candidates.get(UNIFORM)
    if (
        planned is not None
        and planned.params == plan.params
        and not planned.is_cut_short
        and len(planned.ranks) == len(planned.adapted)
    ):
        return planned
    return with_ranks(plan, even_ranks(plan, linear_layers(plan)))


def mlp_ranks(plan: Plan) -> dict[str, int]:
    """Uniform over the layers of the MLPs.

    Raises:
        ConfigError: no layer of the plan belongs to an MLP.
    """
    members = [entry for entry in linear_layers(plan) if entry.role in list(Role) and Role(entry.role).is_mlp]
    if not members:
        raise ConfigError("no layer of this model is known as part of an MLP; leave the mlp arm out")
    return even_ranks(plan, members)


def random_ranks(plan: Plan, *, seed: int) -> dict[str, int]:
    """Ranks in proportion to scores drawn from an exponential distribution, as spread out as a random share can be."""
    members = linear_layers(plan)
    return _apportioned(plan, members, np.random.default_rng(seed).exponential(size=len(members)).tolist())


def gradient_ranks(plan: Plan) -> dict[str, int]:
    """Ranks in proportion to the norm of each layer's mean gradient.

    Raises:
        ConfigError: the plan knows no gradient above zero.
    """
    members = linear_layers(plan)
    norms = [plan.metadata.gradient_norms.get(entry.layer, 0.0) for entry in members]
    if not any(norm > 0.0 for norm in norms):
        raise ConfigError(
            "the plan's metadata holds no gradient norm above zero; profile with the metric gradient_energy and plan again"
        )
    return _apportioned(plan, members, norms)


def shuffled_plan(plan: Plan, *, seed: int) -> Plan:
    """The plan's own sizes, dealt out anew among the sites that pay the same for them.

    A plan that gives all sites of one price the same size has nothing to deal out that way. Then its ranks are dealt out among
    all layers, and filled to the same number of parameters in proportion.
    """
    generator = np.random.default_rng(seed)
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, entry in enumerate(plan.layers):
        narrow, wide = sorted((entry.in_features, entry.out_features))
        # What an adapter costs hangs on the width of the output alone.
        price = (entry.out_features,) if entry.site is Site.SUBLAYER else (narrow, wide, entry.kv_features)
        groups[entry.site, *price].append(number)
    sizes = [(entry.method, entry.size) for entry in plan.layers]
    dealt = list(sizes)
    for members in groups.values():
        for to, taken in zip(members, generator.permutation(members).tolist(), strict=True):
            dealt[to] = sizes[taken]
    can_differ = any(len({sizes[number] for number in members}) > 1 for members in groups.values())
    if can_differ or not plan.ranks:
        return _with_sizes(plan, dealt)
    layers = linear_layers(plan)
    ranks = generator.permutation([float(entry.size) for entry in layers]).tolist()
    return with_ranks(plan, _apportioned(plan, layers, ranks))


def optimum_plan(plan: Plan, candidates: Mapping[str, Plan]) -> Plan:
    """The optimum under the default value model, as planned, whatever a race has made of it.

    Where no layer shows a gain beyond noise the optimum adapts nothing, and the planner returns uniform in its place.

    Raises:
        ConfigError: it is not among the candidates.
    """
    found = candidates.get(OPTIMUM, plan if plan.chosen.name == OPTIMUM else None)
    if found is None and plan.solver.value <= 0.0:
        found = candidates.get(UNIFORM)
    if found is None:
        raise ConfigError(f"the plan has no candidate {OPTIMUM}, which the arm no-race trains; plan again")
    return found


def customary_ranks(plan: Plan, rank: int) -> dict[str, int]:
    """The ranks of PEFT's customary LoRA, by full module path.

    Raises:
        ConfigError: no layer of the plan is a query, a value or both.
    """
    ranks = {entry.layer: rank for entry in plan.layers if entry.site is Site.LINEAR and entry.role in CUSTOMARY_ROLES}
    if not ranks:
        raise ConfigError("no layer of this model is known as query or value; leave the query+value arm out")
    return ranks


def largest_rank(entry: PlanLayer) -> int:
    """The rank beyond which a LoRA can say nothing more."""
    return min(entry.in_features, entry.out_features)


def _apportioned(plan: Plan, members: Sequence[PlanLayer], scores: Sequence[float]) -> dict[str, int]:
    if plan.params == 0:
        raise ConfigError("the plan adapts no layer, so there are no parameters to spend as many of; plan with a larger budget")
    costs = [entry.in_features + entry.out_features for entry in members]
    ranks = apportion(scores, costs, [largest_rank(entry) for entry in members], plan.params)
    if not any(ranks):
        raise ConfigError(
            f"one rank on one layer takes {min(costs):,} parameters, the plan has {plan.params:,}, fewer than a LoRA can have; "
            "plan with a larger budget"
        )
    return {entry.layer: rank for entry, rank in zip(members, ranks, strict=True) if rank}


def _with_sizes(plan: Plan, sizes: Sequence[tuple[Method, int]]) -> Plan:
    layers = []
    for entry, (wanted, size) in zip(plan.layers, sizes, strict=True):
        method = wanted if size else Method.NONE
        params = trainable_params(
            method, size, in_features=entry.in_features, out_features=entry.out_features, kv_features=entry.kv_features
        )
        layers.append(entry.model_copy(update={"method": method, "size": size, "params": params}))
    return plan.model_copy(update={"layers": layers, "budgets": {}, "race": None})
