"""`layerlens validate`: every check of a plan, in the order a reader asks them. Needs no torch."""

from __future__ import annotations

from layerlens.artifacts.plan import Plan, plan_hash
from layerlens.artifacts.profile import Profile
from layerlens.artifacts.validation import Validation
from layerlens.validation.arithmetic import check_arithmetic
from layerlens.validation.evidence import check_evidence
from layerlens.validation.methods import check_methods
from layerlens.validation.origin import check_origin
from layerlens.validation.proof import check_proof
from layerlens.validation.sensitivity import check_sensitivity


def validate(plan: Plan, profile: Profile | None) -> Validation:
    """Check a plan: sums, budgets, ranges, fit, proof and origin fail; correlations, spreads and evidence warn.

    Args:
        plan: The plan, read without the strict check (`load_plan(path, is_strict=False)`), so that a plan that does
            not add up is described rather than refused.
        profile: The profile it was made from; None where it is not at hand, which makes `profile_match` not applicable.

    Returns:
        The checks with value, target and verdict; `has_failed` decides the exit code.
    """
    return Validation(
        plan=plan.chosen.name,
        plan_hash=plan_hash(plan),
        checks=[
            *check_arithmetic(plan),
            *check_origin(plan, profile),
            *check_methods(plan),
            *check_proof(plan),
            *check_sensitivity(plan),
            *check_evidence(plan),
        ],
    )
