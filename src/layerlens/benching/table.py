"""A suite's results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from layerlens.artifacts.bench import ArmSummary, Bench, Cell, Outcome, OverallArm, Paired
from layerlens.benching.summary import FULL, LAYERLENS, UNIFORM

#: How a difference from uniform is marked, beside the number.
_MARKS = {Outcome.BETTER: "better", Outcome.WORSE: "worse", Outcome.NO_DIFFERENCE: "none shown"}
_WIDE = 110  # columns from which memory and the differences from full fit beside the rest


def bench_tables(bench: Bench, *, width: int) -> Iterator[Table]:
    """One table for each cell, and one for all together where there are several.

    Args:
        bench: The results.
        width: Columns of the terminal; the lesser figures come only where there is room.
    """
    for cell in bench.cells:
        yield _cell_table(cell, is_wide=width >= _WIDE)
    if bench.overall:
        yield _overall_table(bench.overall)


def _cell_table(cell: Cell, *, is_wide: bool) -> Table:
    better = "lower is better" if cell.is_lower_better else "higher is better"
    references = [name for name in (UNIFORM, FULL) if cell.arm(name) is not None][: 2 if is_wide else 1]
    table = Table(
        title=f"{cell.name}: {cell.metric}, {better}; {cell.eval_samples:,} test samples, {cell.steps:,} steps",
        caption="mean ± half of the 95 % interval over seeds; differences are paired by seed, more is better",
    )
    table.add_column("arm", no_wrap=True)
    for name in (cell.metric, "params", "seconds", *(("time ÷ full", "peak MiB", "of full") if is_wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for name in references:
        table.add_column(f"− {name}", no_wrap=True)
    for arm in cell.arms:
        lesser = [_ratio(arm.time_ratio), f"{arm.peak_memory_bytes / 2**20:,.0f}", _share(arm.share_of_full)] if is_wide else []
        table.add_row(
            arm.arm,
            _mean(arm),
            f"{arm.trainable_params:,}",
            f"{arm.train_seconds:.1f}",
            *lesser,
            *(_difference(arm.against(name), is_wide=is_wide) for name in references),
            style="bold" if arm.arm == LAYERLENS else "",
        )
    return table


def _overall_table(arms: list[OverallArm]) -> Table:
    references = [name for name in (UNIFORM,) if any(arm.arm == name for arm in arms)]
    table = Table(
        title="all cells: scores as shares of full fine-tuning's", caption="differences of these shares, paired by seed"
    )
    table.add_column("arm", no_wrap=True)
    for name in ("mean", "worst cell", "cells", "time ÷ full", "memory ÷ full"):
        table.add_column(name, justify="right")
    for name in references:
        table.add_column(f"− {name}", no_wrap=True)
    for arm in arms:
        table.add_row(
            arm.arm,
            _share(arm.share_of_full),
            _share(arm.least_share_of_full),
            str(arm.cells),
            _ratio(arm.time_ratio),
            _ratio(arm.memory_ratio),
            *(_difference(arm.against(name), is_wide=False) for name in references),
            style="bold" if arm.arm == LAYERLENS else "",
        )
    return table


def cost_lines(bench: Bench) -> Iterator[str]:
    """What profile, plan and race took in each cell, as shares of training."""
    for cell in bench.cells:
        for cost in cell.costs:
            spent = f"profile {cost.profile_seconds:.0f} s + plan {cost.plan_seconds:.1f} s + race {cost.race_seconds:.0f} s"
            shares = f"{cost.share_of_run:.0%} of one run of {cost.run}, {cost.share_of_5000_steps:.1%} of 5,000 steps"
            yield f"{cell.name}, {cost.arm}: {spent} = {shares}"


def _mean(arm: ArmSummary) -> str:
    digits = 4 if abs(arm.mean) < 10 else 2
    if arm.interval is None:
        return f"{arm.mean:.{digits}f}"
    return f"{arm.mean:.{digits}f} ±{(arm.interval[1] - arm.interval[0]) / 2:.{digits}f}"


def _difference(paired: Paired | None, *, is_wide: bool) -> str:
    if paired is None:
        return "–"
    p_value = f", p {paired.t_p_value:.2g}" if is_wide and paired.t_p_value is not None else ""
    mark = _MARKS.get(paired.outcome, "one seed" if len(paired.seeds) == 1 else "no spread")
    return f"{paired.difference:+.4f} {mark}{p_value}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
