"""From runs to what the arms came to: each cell's means, intervals and paired tests, then all cells together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from layerlens.artifacts.bench import ArmSummary, BenchRun, Cell, OverallArm, Paired
from layerlens.artifacts.evaluation import is_lower_better
from layerlens.benching.paired_seeds import compare_paired, mean_interval

FULL, UNIFORM, LAYERLENS, RANDOM, SHUFFLED = "full", "uniform", "layerlens", "random", "shuffled"
LAYERLENS_TIME = "layerlens-time"
#: What every arm is held against.
REFERENCES = (UNIFORM, FULL)


def summarise_arms(runs: Sequence[BenchRun], arms: Sequence[str], metric: str) -> list[ArmSummary]:
    """One summary per arm of a cell that has a finished run, in the order of `arms`.

    Args:
        runs: Of one cell; runs that died are left out.
        arms: Names, in order.
        metric: To compare by.
    """
    by_arm = {arm: [run for run in runs if run.arm == arm and metric in run.metrics] for arm in arms}
    return [_summary(arm, by_arm, metric) for arm in arms if by_arm[arm]]


def share_of(score: float, reference: float, metric: str) -> float | None:
    """A score as a share of another one, such that more is better; None where the ratio means nothing.

    Where higher is better, a score at or below zero is a share at or below zero: an arm's failure counts like any other score.
    """
    is_lower = is_lower_better(metric)
    if reference <= 0 or (is_lower and score <= 0):
        return None
    return reference / score if is_lower else score / reference


def overall(cells: Sequence[Cell], runs: Sequence[BenchRun], arms: Sequence[str]) -> list[OverallArm]:
    """Every arm over the cells that it and full fine-tuning ran in; nothing for a single cell or without full."""
    if len(cells) < 2:
        return []
    shares = {arm: _shares_by_seed(cells, runs, arm) for arm in arms}
    found = []
    for arm in arms:
        mine = [summary for cell in cells if (summary := cell.arm(arm)) is not None and summary.share_of_full is not None]
        if not mine:
            continue
        of_full = [summary.share_of_full for summary in mine if summary.share_of_full is not None]
        found.append(
            OverallArm(
                arm=arm,
                cells=len(mine),
                share_of_full=fmean(of_full),
                least_share_of_full=min(of_full),
                time_ratio=_mean(summary.time_ratio for summary in mine),
                memory_ratio=_mean(summary.memory_ratio for summary in mine),
                paired=[
                    pair
                    for other in _compared_with(arm, arms)
                    if (pair := compare_paired(shares[arm], shares.get(other, {}), other)) is not None
                ],
            )
        )
    return found


def _shares_by_seed(cells: Sequence[Cell], runs: Sequence[BenchRun], arm: str) -> dict[int, float]:
    """Mean over the cells of the arm's score as a share of full's mean there; seeds that lack a cell are left out.

    Cells where full's mean is no reference are left out for every arm alike.
    """
    found: dict[int, list[float]] = {}
    references = [(cell, full.mean) for cell in cells if (full := cell.arm(FULL)) is not None and full.mean > 0]
    for cell, reference in references:
        for run in runs:
            if (run.model, run.task, run.arm) == (cell.model, cell.task, arm) and cell.metric in run.metrics:
                share = share_of(run.metrics[cell.metric], reference, cell.metric)
                if share is not None:
                    found.setdefault(run.seed, []).append(share)
    return {seed: fmean(shares) for seed, shares in found.items() if len(shares) == len(references)}


def _summary(arm: str, by_arm: dict[str, list[BenchRun]], metric: str) -> ArmSummary:
    mine, full = by_arm[arm], by_arm.get(FULL, [])
    scores = [run.metrics[metric] for run in mine]
    interval = mean_interval(scores)
    common = {run.seed for run in mine} & {run.seed for run in full}
    ours, theirs = ([run for run in runs if run.seed in common] for runs in (mine, full))
    return ArmSummary(
        arm=arm,
        seeds=[run.seed for run in mine],
        mean=fmean(scores),
        deviation=stdev(scores) if len(scores) > 1 else None,
        interval=None if interval is None else list(interval),
        trainable_params=round(fmean(run.trainable_params for run in mine)),
        head_params=mine[0].head_params,
        train_seconds=fmean(run.train_seconds for run in mine),
        peak_memory_bytes=round(fmean(run.peak_memory_bytes for run in mine)),
        share_of_full=share_of(_score(ours, metric), _score(theirs, metric), metric) if common else None,
        time_ratio=_ratio([run.train_seconds for run in ours], [run.train_seconds for run in theirs]),
        memory_ratio=_ratio([run.peak_memory_bytes for run in ours], [run.peak_memory_bytes for run in theirs]),
        paired=[
            pair for other in _compared_with(arm, list(by_arm)) if (pair := _paired(mine, by_arm[other], metric)) is not None
        ],
    )


def _score(runs: Sequence[BenchRun], metric: str) -> float:
    return fmean(run.metrics[metric] for run in runs)


def _compared_with(arm: str, arms: Sequence[str]) -> list[str]:
    """Whom an arm is held against: uniform and full, and LayerLens against every other arm too."""
    others = arms if arm == LAYERLENS else [name for name in REFERENCES if name in arms]
    return [other for other in others if other != arm]


def _paired(mine: Sequence[BenchRun], theirs: Sequence[BenchRun], metric: str) -> Paired | None:
    if not theirs:
        return None
    ours = {run.seed: run.metrics[metric] for run in mine}
    return compare_paired(
        ours, {run.seed: run.metrics[metric] for run in theirs}, theirs[0].arm, is_lower_better=is_lower_better(metric)
    )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    return sum(ours) / sum(theirs) if ours and sum(theirs) > 0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
