"""Does each method sit where it can, in a size it may have?"""

from __future__ import annotations

from collections import Counter

from layerlens.artifacts.plan import Plan, PlanLayer
from layerlens.artifacts.validation import Check, Verdict
from layerlens.config import default_max_rank
from layerlens.validation.judging import FOR_INFORMATION, at_least, holds, not_applicable
from layerlens.words import Method, Role, Site

MIN_FIT = 0.95

_TRAINED_ANYWAY = {Role.POOLER.value, Role.HEAD.value, Role.EMBEDDING.value}
_SUBLAYER_OUTPUTS = {role.value for role in Role if role.is_sublayer_output}
_PROJECTIONS = {role.value for role in Role if role.is_attention or role.is_mlp}


def check_methods(plan: Plan) -> list[Check]:
    """Range of the ranks, fit of the methods, and which methods are used."""
    return [_ranks(plan), _fit(plan), _used(plan)]


def fits(entry: PlanLayer) -> bool:
    """Whether an adapted site can hold its method: LoRA on a linear layer, an adapter after a sublayer, a prefix on attention."""
    match entry.method:
        case Method.LORA:
            return entry.site is Site.LINEAR and entry.role not in _TRAINED_ANYWAY
        case Method.ADAPTER:
            return entry.site is Site.SUBLAYER and entry.role in _SUBLAYER_OUTPUTS
        case Method.PREFIX:
            return entry.site is Site.ATTENTION and entry.role not in _PROJECTIONS and entry.kv_features > 0
        case Method.NONE:
            return True


def _ranks(plan: Plan) -> Check:
    low, asked = _asked(plan, "min_rank") or 1, _asked(plan, "max_rank")
    high = asked or default_max_rank(plan.model.hidden_size)
    target = f"{low} … {high} ({'as asked' if asked else 'hidden size / 10'})"
    meaning = "Ranks stay low enough to be adapters and high enough to exist; not that a rank suits its layer."
    ranks = plan.ranks
    if not ranks:
        return not_applicable("rank_range", target, value="no layer gets a LoRA", meaning=meaning)
    outside = [f"{layer} has {rank}" for layer, rank in ranks.items() if not low <= rank <= high]
    value = f"{min(ranks.values())} … {max(ranks.values())}"
    if outside:
        value += f"; outside: {', '.join(outside[:3])}" + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
    return holds("rank_range", not outside, value=value, target=target, meaning=meaning)


def _asked(plan: Plan, option: str) -> int | None:
    """A whole number above zero from the options that made the plan."""
    value = plan.metadata.optimization.get(option)
    return value if isinstance(value, int) and value > 0 else None


def _fit(plan: Plan) -> Check:
    share = sum(map(fits, plan.adapted)) / len(plan.adapted) if plan.adapted else None
    return at_least(
        "method_fit",
        share,
        MIN_FIT,
        otherwise=Verdict.FAIL,
        meaning="Each method sits at a kind of site that can hold it; not that it is the best method there.",
        absent="nothing is adapted",
    )


def _used(plan: Plan) -> Check:
    meaning = "Which methods the plan uses, and on how many sites; one method throughout is neither good nor bad."
    counts = Counter(entry.method for entry in plan.adapted)
    if not counts:
        target = "at least one adapted site"
        return holds("methods_used", False, value="nothing is adapted", target=target, meaning=meaning, otherwise=Verdict.WARN)
    shown = ", ".join(f"{method} on {counts[method]}" for method in Method if counts[method])
    value = f"{len(counts)}: {shown} of {len(plan.layers)} sites"
    return not_applicable("methods_used", FOR_INFORMATION, value=value, meaning=meaning)
