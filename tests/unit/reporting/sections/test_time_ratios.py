from __future__ import annotations

from pathlib import Path
from statistics import fmean

from layerlens.artifacts.evaluation import with_time_ratios
from layerlens.reporting.quantities import NO_BREAK
from layerlens.reporting.run import build_report
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.sections.time_ratios import time_ratios_section
from layerlens.words import BudgetName
from tests.unit.reporting import artifacts
from tests.unit.reporting.sections.reading import a_run, read_section, rows


def measured(predicted: dict[str, float], **changes: object) -> RunFolder:
    """A run whose arms know what was foreseen of them."""
    evaluation = artifacts.evaluation()
    arms = [arm.model_copy(update=changes) for arm in with_time_ratios(evaluation.arms, predicted)]
    return a_run(evaluation=evaluation.model_copy(update={"arms": arms}))


def test_predicted_stands_beside_measured_for_every_arm() -> None:
    predicted = {"layerlens": 0.48, "full": 1.0}
    head, *body = rows(read_section(time_ratios_section(measured(predicted))))
    assert head[:4] == ["Arm", "Time, predicted", "Time, measured", "Measured ÷ predicted"]
    seconds = {name: [arm.train_seconds for arm in artifacts.evaluation().arms if arm.name == name] for name in artifacts.SCORES}
    for row in body:
        ratio = fmean(one / other for one, other in zip(seconds[row[0]], seconds["full"], strict=True))
        assert row[2] == f"{ratio:.2f}"
        foreseen = predicted.get(row[0])
        assert row[1] == ("–" if foreseen is None else f"{foreseen:.2f}")
        assert row[3] == ("–" if foreseen is None else f"{ratio / foreseen:.2f}")


def test_frozen_blocks_and_what_is_kept_of_them_are_shown() -> None:
    _, *body = rows(read_section(time_ratios_section(measured({}, frozen_blocks=3, kept_bytes=5 * 2**20))))
    assert all(row[5:] == ["3", f"5.00{NO_BREAK}MiB"] for row in body)


def test_without_full_fine_tuning_there_is_nothing_to_hold_it_against() -> None:
    alone = artifacts.evaluation((0,), {"layerlens": 0.8})
    arms = with_time_ratios(alone.arms, {"layerlens": 0.5})
    assert [(arm.predicted_time_ratio, arm.time_ratio) for arm in arms] == [(0.5, None)]
    assert time_ratios_section(a_run(evaluation=alone.model_copy(update={"arms": arms}))) is None
    assert time_ratios_section(a_run(evaluation=None)) is None


def test_another_number_of_epochs_than_was_priced_is_said() -> None:
    plan = artifacts.plan()
    metadata = plan.metadata.model_copy(update={"optimization": {"epochs": 3.0}})
    told = "Time was priced for 3 passes over the data; the run made 1.0."
    for epochs, is_told in ((1.0, True), (2.9, False)):
        run = measured({"layerlens": 0.5}, frozen_blocks=2, epochs=epochs)
        section = time_ratios_section(a_run(evaluation=run.evaluation, plan=plan.model_copy(update={"metadata": metadata})))
        assert (told in read_section(section).all("figcaption")[-1].text) is is_told


def test_the_section_is_on_the_page(tmp_path: Path) -> None:
    plan = artifacts.raced_plan()
    evaluation = artifacts.evaluation()
    arms = with_time_ratios(evaluation.arms, {"layerlens": plan.budgets[BudgetName.TIME_RATIO].spent})
    folder = artifacts.write_run(tmp_path, made=plan, evaluated=evaluation.model_copy(update={"arms": arms}))
    assert "Time and memory against full fine-tuning" in build_report(folder)
