"""Turns a value and a target into a check with a verdict."""

from __future__ import annotations

from layerlens.artifacts.validation import Check, Verdict

FOR_INFORMATION = "none, for information"


def at_least(name: str, value: float | None, target: float, *, otherwise: Verdict, meaning: str, absent: str) -> Check:
    """Pass from `target` upwards, `otherwise` below it, not applicable where there is no value.

    Args:
        name: Key of the check.
        value: What was found; None where it is not defined.
        target: The lowest value that passes.
        otherwise: The verdict below the target.
        meaning: One line: what the check does and does not prove.
        absent: Why there is no value, shown in its place.
    """
    goal = f"≥ {target:g}"
    if value is None:
        return not_applicable(name, goal, value=absent, meaning=meaning)
    verdict = Verdict.PASS if value >= target else otherwise
    return Check(name=name, value=value, target=goal, verdict=verdict, meaning=meaning)


def holds(
    name: str, is_so: bool, *, value: float | str | None, target: str, meaning: str, otherwise: Verdict = Verdict.FAIL
) -> Check:
    """Pass where `is_so`, `otherwise` where not."""
    return Check(name=name, value=value, target=target, verdict=Verdict.PASS if is_so else otherwise, meaning=meaning)


def not_applicable(name: str, target: str, *, value: float | str | None, meaning: str) -> Check:
    """A check that cannot be judged here; it never counts as a pass."""
    return Check(name=name, value=value, target=target, verdict=Verdict.NOT_APPLICABLE, meaning=meaning)
