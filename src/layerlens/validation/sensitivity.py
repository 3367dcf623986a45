"""Do the utilities tell layers apart, agree with what was measured, and show in the ranks?

A correlation of utility with the metrics it is made from, or of ranks with the utility they were made from, proves
that nothing was lost on the way. It never proves that the plan trains well: a race or a full run does.
"""

from __future__ import annotations

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.association import is_constant, pairwise_consistency, pearson, spearman, variation
from layerlens.validation.judging import at_least, holds
from layerlens.words import Method, Site

MIN_GRADIENT_PEARSON, MIN_FISHER_PEARSON = 0.7, 0.6
MIN_VARIATION = 0.2
MIN_RANK_SPEARMAN, MIN_RANK_CONSISTENCY = 0.6, 0.8


def check_sensitivity(plan: Plan) -> list[Check]:
    """Utility against gradient norms and Fisher traces, spread of utility, ranks against utility."""
    metadata = plan.metadata
    return [
        _against_metric(plan, "utility_gradient_pearson", metadata.gradient_norms, MIN_GRADIENT_PEARSON, "gradient norms"),
        _against_metric(plan, "utility_fisher_pearson", metadata.fisher_traces, MIN_FISHER_PEARSON, "Fisher traces"),
        _spread(plan),
        *_ranks_against_utility(plan),
    ]


def utilities(plan: Plan) -> dict[str, float]:
    """Utility of every linear layer of the plan, by full module path."""
    return {entry.layer: entry.utility for entry in plan.layers if entry.site is Site.LINEAR}


def _against_metric(plan: Plan, name: str, metric: dict[str, float], target: float, what: str) -> Check:
    pairs = [(utility, metric[layer]) for layer, utility in utilities(plan).items() if layer in metric]
    utility, measured = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(pairs) < 3:
        absent = f"only {len(pairs)} layers have both"
    else:
        absent = "utility is constant" if is_constant(utility) else f"{what} are constant"
    return at_least(
        name,
        pearson(utility, measured),
        target,
        otherwise=Verdict.WARN,
        meaning=f"Utility follows the {what} it is made from; not that these predict what training a layer gains.",
        absent=absent,
    )


def _spread(plan: Plan) -> Check:
    name, target = "utility_variation", f"≥ {MIN_VARIATION:g}"
    meaning = "Utilities tell layers apart (standard deviation ÷ mean); not that they tell them apart rightly."
    found = variation(list(utilities(plan).values()))
    if found is None:
        value = "every utility is zero"
        return holds(name, False, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)
    return at_least(name, found, MIN_VARIATION, otherwise=Verdict.WARN, meaning=meaning, absent="")


def _ranks_against_utility(plan: Plan) -> list[Check]:
    adapted = [entry for entry in plan.layers if entry.method is Method.LORA]
    ranks, utility = [float(entry.size) for entry in adapted], [entry.utility for entry in adapted]
    if len(adapted) < 3:
        absent = f"{len(adapted)} layers get a LoRA"
    elif is_constant(ranks):
        absent = f"every rank is {ranks[0]:g}"
    else:
        absent = "utility is constant"
    return [
        at_least(
            "rank_utility_spearman",
            spearman(ranks, utility),
            MIN_RANK_SPEARMAN,
            otherwise=Verdict.WARN,
            meaning="Layers of higher utility get higher ranks; importance is not rank demand: low is no fault by itself.",
            absent=absent,
        ),
        at_least(
            "rank_utility_consistency",
            pairwise_consistency(ranks, utility),
            MIN_RANK_CONSISTENCY,
            otherwise=Verdict.WARN,
            meaning="Share of layer pairs, different in rank and in utility, where the higher utility has the higher rank; "
            "says nothing about how much higher.",
            absent=absent,
        ),
    ]
