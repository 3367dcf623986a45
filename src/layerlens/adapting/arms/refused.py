"""Arms that a plan or its base rules out, known before anything runs."""

from __future__ import annotations

from layerlens.adapting.arms.names import ArmName
from layerlens.artifacts.plan import Plan


def why_refused(name: str, plan: Plan, *, is_compressed: bool) -> str | None:
    """Why an arm cannot be run, with a way out; None where nothing is known against it.

    Args:
        name: Of the arm.
        plan: The plan that it is compared with.
        is_compressed: Whether it trains over a folder of `layerlens compress`.
    """
    if name == ArmName.HEAD and not plan.head:
        return f"a plan for {plan.task.kind} trains no head, so nothing would be trained; leave head out"
    if name == ArmName.ADALORA and is_compressed:
        return (
            "PEFT puts AdaLoRA on no compressed matrix; leave adalora out, or run it over the model as it is, in a run of its own"
        )
    return None
