from __future__ import annotations

import math

from layerlens.reporting.sections.pareto import pareto_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run


def test_the_line_the_candidates_and_the_choice_are_drawn_from_the_plans() -> None:
    run = a_run()
    section = pareto_section(run)
    assert section is not None
    assert run.plan is not None
    optimum, uniform, rest, chosen = section.charts[0].traces
    assert optimum["x"] == [point.limit for point in run.plan.pareto]
    assert len(uniform["x"]) == sum(point.uniform_value is not None for point in run.plan.pareto)
    others = {name: plan for name, plan in run.candidates.items() if name != run.plan.chosen.name}
    assert dict(zip(rest["text"], rest["x"], strict=True)) == {name: plan.params for name, plan in others.items()}
    assert (chosen["x"], chosen["text"]) == ([run.plan.params], [run.plan.chosen.name])


def test_the_limit_is_marked_where_the_axis_has_it() -> None:
    layout = pareto_section(a_run()).charts[0].layout  # type: ignore[union-attr]
    assert layout["xaxis"]["type"] == "log"
    assert layout["shapes"][0]["x0"] == artifacts.LIMIT
    assert layout["annotations"][0]["x"] == math.log10(artifacts.LIMIT)


def test_with_the_plan_alone_there_is_nothing_to_draw() -> None:
    lone = artifacts.plan(pareto=[])
    assert pareto_section(a_run(plan=lone, candidates={})) is None
    assert pareto_section(a_run(plan=None)) is None


def test_candidates_alone_are_drawn_without_a_line_or_a_word_of_one() -> None:
    section = pareto_section(a_run(plan=artifacts.raced_plan().model_copy(update={"pareto": []})))
    assert section is not None
    assert {trace["mode"] for trace in section.charts[0].traces} == {"markers"}
    assert "The line is" not in section.body
