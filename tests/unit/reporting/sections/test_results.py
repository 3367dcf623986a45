from __future__ import annotations

import statistics

from layerlens.reporting.quantities import NO_BREAK
from layerlens.reporting.sections.losses import losses_section
from layerlens.reporting.sections.results import results_section
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def test_the_table_has_mean_and_deviation_over_seeds_for_every_arm() -> None:
    head, *body = rows(read_section(results_section(a_run())))
    assert head[:4] == ["Arm", "Accuracy", "Loss", "Trained parameters"]
    assert [row[0] for row in body] == list(artifacts.SCORES)
    for row in body:
        values = [arm.metrics["accuracy"] for arm in artifacts.evaluation().arms if arm.name == row[0]]
        expected = f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}{NO_BREAK}%"
        assert row[1] == expected
        assert row[-1] == "0, 1, 2"


def test_one_seed_shows_no_deviation_and_says_so() -> None:
    page = read_section(results_section(a_run(evaluation=artifacts.evaluation((0,)))))
    assert "±" not in "".join(cell for row in rows(page) for cell in row)
    assert "One seed per arm" in page.all("figcaption")[-1].text


def test_what_was_not_measured_is_a_dash_and_not_a_zero() -> None:
    evaluation = artifacts.evaluation((0,), {"base": 0.5})
    arms = [
        arm.model_copy(update={"train_seconds": 0.0, "peak_memory_bytes": 0, "learning_rate": None}) for arm in evaluation.arms
    ]
    page = read_section(results_section(a_run(evaluation=evaluation.model_copy(update={"arms": arms}))))
    row = rows(page)[1]
    assert row[5:8] == ["–", "–", "–"]


def test_dots_are_the_seeds_and_the_stroke_their_mean() -> None:
    section = results_section(a_run())
    assert section is not None
    traces = section.charts[0].traces
    dots = {trace["y"][0]: trace["x"] for trace in traces if "text" in trace}
    strokes = {trace["y"][0]: trace["x"] for trace in traces if "text" not in trace}
    for name in artifacts.SCORES:
        values = [100 * arm.metrics["accuracy"] for arm in artifacts.evaluation().arms if arm.name == name]
        assert [round(x, 2) for x in dots[name]] == [round(value, 2) for value in values]
        assert abs(strokes[name][0] - statistics.fmean(values)) < 0.01


def test_only_the_plan_s_own_arm_is_highlighted() -> None:
    page = read_section(results_section(a_run()))
    assert ["layerlens" in row.text for row in page.all("tr", class_="marked")] == [True]


def test_loss_curves_are_drawn_as_logged() -> None:
    section = losses_section(a_run())
    assert section is not None
    arms = artifacts.evaluation().arms
    assert len(section.charts[0].traces) == len(arms)
    first = section.charts[0].traces[0]
    assert first["x"] == [point.step for point in arms[0].loss_curve]
    assert first["y"] == [float(f"{point.loss:.5g}") for point in arms[0].loss_curve]
    legend = [trace["name"] for trace in section.charts[0].traces if trace["showlegend"]]
    assert legend == list(artifacts.SCORES)


def test_without_logged_losses_there_is_no_section() -> None:
    evaluation = artifacts.evaluation()
    bare = evaluation.model_copy(update={"arms": [arm.model_copy(update={"loss_curve": []}) for arm in evaluation.arms]})
    assert losses_section(a_run(evaluation=bare)) is None
    assert losses_section(a_run(evaluation=None)) is None
    assert results_section(a_run(evaluation=None)) is None
