from __future__ import annotations

import pytest

from layerlens.artifacts.plan import UNIFORM, RaceCandidate
from layerlens.reporting.sections.race import points, race_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_no_race_no_section() -> None:
    assert race_section(a_run(plan=artifacts.plan())) is None
    assert race_section(a_run(plan=None)) is None


def test_the_table_says_who_left_when() -> None:
    found = {row[0]: row[1:] for row in rows(read_section(race_section(a_run())))[1:]}
    assert found["blocks-2-5"][0] == "chosen"
    assert found[UNIFORM][0] == "ran to the end"
    assert found["mlp"][0] == "left after 20 steps"
    assert found["query+value"][0] == "left after 10 steps"
    assert [row[3] for row in found.values()] == ["2"] * len(found)


def test_nobody_ran_to_the_end_of_a_race_that_was_stopped() -> None:
    plan = artifacts.plan(race=artifacts.race(is_stopped=True))
    outcomes = [row[1] for row in rows(read_section(race_section(a_run(plan=plan))))[1:]]
    assert "ran to the end" not in outcomes
    assert outcomes.count("ran until the race was stopped") == 2


def test_longest_runners_come_first_then_the_lowest_loss() -> None:
    order = [row[0] for row in rows(read_section(race_section(a_run())))[1:]]
    losses = {candidate.name: (-candidate.steps, candidate.held_out_loss) for candidate in artifacts.race().candidates}
    assert order == sorted(losses, key=lambda name: losses[name])


def test_every_point_is_the_mean_of_its_seeds_and_the_bar_spans_them() -> None:
    section = race_section(a_run())
    assert section is not None
    traces = {trace["text"]: trace for trace in section.charts[0].traces}
    for candidate in artifacts.race().candidates:
        trace = traces[candidate.name]
        for place, rung in enumerate(candidate.rungs):
            low, high = min(rung["losses"].values()), max(rung["losses"].values())
            assert trace["x"][place] == rung["steps"]
            assert trace["y"][place] == pytest.approx((low + high) / 2, rel=1e-4)
            assert trace["y"][place] + trace["error_y"]["array"][place] == pytest.approx(high, rel=1e-4)
            assert trace["y"][place] - trace["error_y"]["arrayminus"][place] == pytest.approx(low, rel=1e-4)


def test_only_those_that_left_end_in_a_cross() -> None:
    section = race_section(a_run())
    assert section is not None
    crossed = {trace["text"] for trace in section.charts[0].traces if trace["marker"]["symbol"][-1].startswith("x")}
    assert crossed == {candidate.name for candidate in artifacts.race().candidates if candidate.steps < 40}


def test_a_race_that_ran_on_keeps_each_length_once_in_order() -> None:
    rungs = [{"steps": steps, "losses": {"0": loss}} for steps, loss in ((10, 1.0), (20, 0.9), (10, 1.0), (20, 0.9), (40, 0.8))]
    runner = RaceCandidate(name="a", held_out_loss=0.8, steps=40, seeds=[0], rungs=rungs)
    assert points(runner) == [(10, [1.0]), (20, [0.9]), (40, [0.8])]


def test_a_runner_without_rungs_has_its_last_loss() -> None:
    assert points(RaceCandidate(name="a", held_out_loss=0.8, steps=40, seeds=[0])) == [(40, [0.8])]


def test_an_uncontested_plan_has_a_sentence_and_no_chart() -> None:
    race = artifacts.race(candidates=[], verdict="uniform is the only candidate: nothing to race against")
    section = race_section(a_run(plan=artifacts.plan(race=race)))
    assert section is not None
    assert section.charts == ()
    assert "only candidate" in section.body
