from __future__ import annotations

from layerlens.reporting.quantities import NO_BREAK
from layerlens.reporting.sections.budgets import budgets_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section


def test_a_limited_budget_is_a_bar_in_proportion_and_the_others_are_facts() -> None:
    plan = artifacts.plan()
    page = read_section(budgets_section(a_run(plan=plan)))
    fills = [element.attributes["style"] for element in page.all("span", class_="fill")]
    shares = [budget.spent / budget.limit for budget in plan.budgets.values() if budget.limit]
    assert fills == [f"width:{100 * share:.2f}%" for share in shares]
    facts = page.one("dl").text
    assert "54.9 MFLOP per token".replace(" M", f"{NO_BREAK}M") in facts
    assert "Training time" in facts


def test_the_task_head_is_shown_apart() -> None:
    assert (
        "150,920 parameters (bert.pooler, classifier), outside the budget"
        in read_section(budgets_section(a_run())).one("dl").text
    )


def test_no_plan_no_section() -> None:
    assert budgets_section(a_run(plan=None)) is None
