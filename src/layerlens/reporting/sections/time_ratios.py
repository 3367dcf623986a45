"""Training time and memory as shares of full fine-tuning's: what the plan foresaw beside what was measured."""

from __future__ import annotations

from statistics import fmean

from layerlens.artifacts.evaluation import Arm
from layerlens.artifacts.plan import Plan
from layerlens.reporting.arms import ArmGroup, ArmKind, find_arm, group_arms
from layerlens.reporting.quantities import memory
from layerlens.reporting.run_folder import RunFolder
from layerlens.reporting.section import Cell, Column, Section, figure, table


def time_ratios_section(run: RunFolder) -> Section | None:
    """Each arm's share of full fine-tuning's time and memory; None without a full fine-tuning to hold it against."""
    if run.evaluation is None:
        return None
    groups = group_arms(run.evaluation)
    full = find_arm(groups, ArmKind.FULL)
    if full is None or all(arm.time_ratio is None for group in groups for arm in group.arms):
        return None
    heads = ("Time, predicted", "Time, measured", "Measured ÷ predicted", "Peak memory", "Frozen blocks", "Kept beside")
    columns = [Column("Arm"), *(Column(head, is_number=True) for head in heads)]
    rows = [_row(group, full) for group in groups]
    marked = [group.kind is ArmKind.LAYERLENS for group in groups]
    body = figure(table("Time and memory", columns, rows, highlighted=marked), _caption(groups, run.plan))
    return Section("time", "Time and memory against full fine-tuning", body)


def _row(group: ArmGroup, full: ArmGroup) -> list[Cell | str]:
    predicted = group.arms[0].predicted_time_ratio
    measured = _measured(group)
    first = group.arms[0]
    return [
        Cell(group.name),
        _ratio(predicted),
        _ratio(measured),
        _ratio(measured / predicted if measured is not None and predicted else None),
        _ratio(group.peak_memory_bytes / full.peak_memory_bytes if full.peak_memory_bytes else None),
        str(first.frozen_blocks) if first.frozen_blocks else "–",
        memory(first.kept_bytes) if first.kept_bytes else "–",
    ]


def _measured(group: ArmGroup) -> float | None:
    ratios = [arm.time_ratio for arm in group.arms if arm.time_ratio is not None]
    return fmean(ratios) if ratios else None


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _caption(groups: list[ArmGroup], plan: Plan | None) -> str:
    text = (
        "Shares of full fine-tuning of the same seed in this run; time is the mean over seeds, memory the highest of any. "
        "Predicted from the seconds of each block in the profile. Frozen blocks lie below the lowest adapted one: they run "
        "without gradients and dropout, and what they give is kept beside from the first epoch on where samples come again."
    )
    priced = None if plan is None else plan.metadata.optimization.get("epochs")
    ran = next((arm.epochs for group in groups for arm in group.arms if _is_predicted(arm)), None)
    if priced is not None and ran is not None and abs(ran - float(priced)) > 0.5:
        text += f" Time was priced for {float(priced):g} passes over the data; the run made {ran:.1f}."
    return text


def _is_predicted(arm: Arm) -> bool:
    return arm.predicted_time_ratio is not None and arm.epochs is not None and arm.frozen_blocks > 0
