"""Does the plan add up, and does it stay inside its budgets while using them?"""

from __future__ import annotations

from layerlens.artifacts.plan import Budget, Plan, inconsistencies
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.judging import holds, not_applicable

ROUNDING = 1e-9
"""A sum of floats may exceed its limit by this share and still keep it."""

MIN_UTILISATION = 0.7


def check_arithmetic(plan: Plan) -> list[Check]:
    """Sums, then every limited budget, then how much of the binding one is used."""
    return [_sums(plan), *_budgets(plan), _utilisation(plan)]


def limited_budgets(plan: Plan) -> dict[str, Budget]:
    """The budgets that have a limit, by name."""
    return {str(name): budget for name, budget in plan.budgets.items() if budget.limit is not None}


def _sums(plan: Plan) -> Check:
    faults = inconsistencies(plan)
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    return holds(
        "sums",
        not faults,
        value=shown or "all add up",
        target="every count is exact",
        meaning="Parameters, spend and value of the layers add up to what the plan says; not that the costs are the right ones.",
    )


def _budgets(plan: Plan) -> list[Check]:
    meaning = "The plan costs no more than was allowed by its own cost model; measured memory and time may differ."
    return [
        holds(
            f"budget.{name}",
            budget.spent <= limit * (1 + ROUNDING),
            value=budget.spent,
            target=f"≤ {limit:,.0f}" if limit >= 1000 else f"≤ {limit:g}",
            meaning=meaning,
        )
        for name, budget in limited_budgets(plan).items()
        if (limit := budget.limit) is not None
    ]


def _utilisation(plan: Plan) -> Check:
    name, target = "utilisation", "70–100 % of the binding budget"
    meaning = "The budget is put to use; not that it is put to good use. Below 70 % the plan's notes say what stopped it."
    share_allowed = plan.metadata.optimization.get("max_utilisation", 1.0)
    allowed = float(share_allowed) if isinstance(share_allowed, int | float) and share_allowed > 0 else 1.0
    if allowed < 1.0:
        target += f", of which {allowed:.0%} may be spent"
    shares = {
        key: budget.spent / (limit * allowed)
        for key, budget in limited_budgets(plan).items()
        if (limit := budget.limit) is not None and limit > 0
    }
    if not shares:
        return not_applicable(name, target, value="no budget has a limit", meaning=meaning)
    binding = max(shares, key=lambda key: shares[key])
    is_used = MIN_UTILISATION <= shares[binding] <= 1 + ROUNDING
    value = f"{shares[binding]:.1%} of {binding}".replace("%", " %")
    return holds(name, is_used, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)
