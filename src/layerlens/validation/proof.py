"""Is the optimum proven, and does it refuse to lose to uniform on paper?"""

from __future__ import annotations

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.validation import Check, Verdict
from layerlens.validation.judging import holds, not_applicable

MAX_GAP = 1e-6
TINY = 1e-12


def check_proof(plan: Plan) -> list[Check]:
    """Solver gap, the optimum against uniform, and the chosen candidate against uniform."""
    return [_gap(plan), _optimum_against_uniform(plan), _chosen_against_uniform(plan)]


def _gap(plan: Plan) -> Check:
    solver = plan.solver
    meaning = "No plan within the budgets has a higher predicted value; not that the prediction holds."
    recomputed = (solver.bound - solver.value) / max(abs(solver.value), TINY)
    is_bound = solver.bound >= solver.value - MAX_GAP * max(abs(solver.value), TINY)
    gap = max(solver.gap, recomputed, 0.0) if abs(solver.value) > TINY else max(solver.gap, 0.0)
    value: float | str = gap if is_bound else f"bound {solver.bound:g} is below value {solver.value:g}"
    return holds("solver_gap", is_bound and gap <= MAX_GAP, value=value, target="≤ 1e-06", meaning=meaning)


def _optimum_against_uniform(plan: Plan) -> Check:
    name, target = "optimum_against_uniform", "≥ value of uniform"
    meaning = "The exact optimum is predicted to gain no less than uniform; a prediction, since gains of layers do not add up."
    uniform = plan.solver.uniform_value
    if uniform is None:
        return not_applicable(name, target, value="uniform does not fit the budgets", meaning=meaning)
    is_so = plan.solver.value >= uniform - MAX_GAP * max(abs(uniform), TINY)
    return holds(name, is_so, value=f"{plan.solver.value:.4g} against {uniform:.4g}", target=target, meaning=meaning)


def _chosen_against_uniform(plan: Plan) -> Check:
    name, target = "chosen_against_uniform", "≥ value of uniform, unless a race decided"
    meaning = "The chosen candidate is not worse than uniform on paper; where a race decided, its measurement outranks the paper."
    uniform = plan.solver.uniform_value
    if uniform is None:
        return not_applicable(name, target, value="uniform does not fit the budgets", meaning=meaning)
    value = f"{plan.chosen.value:.4g} against {uniform:.4g}"
    if plan.race is not None and not plan.race.is_blind:
        return not_applicable(name, target, value=f"{value}; a race decided", meaning=meaning)
    is_so = plan.chosen.value >= uniform - MAX_GAP * max(abs(uniform), TINY)
    return holds(name, is_so, value=value, target=target, meaning=meaning, otherwise=Verdict.WARN)
