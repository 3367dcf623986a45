"""What was allowed and what the plan spends, as bars."""

from __future__ import annotations

from layerlens.artifacts.plan import Budget, Plan
from layerlens.reporting.markup import Markup, element, join
from layerlens.reporting.quantities import BUDGET_LABELS, count, percent, spend
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Section, figure
from layerlens.words import BudgetName


def budgets_section(run: RunFolder) -> Section | None:
    """One bar per limited budget, one line per other cost; None without a plan."""
    if run.plan is None:
        return None
    plan = run.plan
    limited = [_bar(name, budget, budget.limit) for name, budget in plan.budgets.items() if budget.limit is not None]
    free = [_free(name, budget) for name, budget in plan.budgets.items() if budget.limit is None]
    parts: list[Markup | None] = []
    if limited:
        parts.append(figure(element("ul", join(limited), class_="bars"), "A full bar is the limit; the plan never goes over it."))
    parts.append(element("h3", "Costs without a limit") if free and limited else None)
    parts.append(element("dl", join(free), _head(plan), class_="facts"))
    if plan.metadata.assumptions:
        notes = [element("li", text) for text in plan.metadata.assumptions]
        parts.append(element("details", element("summary", "How these costs are meant"), element("ul", join(notes))))
    return Section("budgets", "Budgets", join(parts))


def _bar(name: BudgetName, budget: Budget, limit: float) -> Markup:
    share = budget.spent / limit
    width = f"width:{min(100.0, 100 * share):.2f}%"
    amounts = f"{spend(name, budget.spent)} of {spend(name, limit)}"
    return element(
        "li",
        element("span", element("span", BUDGET_LABELS[name]), element("span", amounts, class_="amounts"), class_="bar-head"),
        element("span", element("span", class_="fill", style=width), class_="track"),
        element("span", percent(share) if share < 0.995 or share == 1 else f"{100 * share:.1f} %", class_="bar-share"),
    )


def _free(name: BudgetName, budget: Budget) -> Markup:
    return join([element("dt", BUDGET_LABELS[name]), element("dd", spend(name, budget.spent))])


def _head(plan: Plan) -> Markup:
    names = ", ".join(plan.head) or "none"
    value = f"{count(plan.head_params)} parameters ({names}), outside the budget"
    return join([element("dt", "Task head, trained beside any plan"), element("dd", value)])
