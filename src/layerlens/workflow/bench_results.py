"""From the records of a suite's jobs to `bench.json`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from layerlens.artifacts.bench import Bench, BenchRun, Cell, PlanCost, PlanFacts
from layerlens.artifacts.evaluation import is_lower_better
from layerlens.artifacts.plan import Plan, load_plan
from layerlens.benching.conditions import condition_notes, machines_of, versions_of
from layerlens.benching.findings import findings_of
from layerlens.benching.job import Done, done_record
from layerlens.benching.summary import FULL, overall, summarise_arms
from layerlens.config.bench import BenchSuite
from layerlens.errors import ManifestError
from layerlens.words import BudgetName
from layerlens.workflow.bench_arms import LAYERLENS, VARIANTS, is_search, trained_by
from layerlens.workflow.bench_cell import BenchCell

BENCH_FILE = "bench.json"
#: The length of run that the cost of a plan is held against.
_LONG_RUN_STEPS = 5000


def collect(suite: BenchSuite, cells: Sequence[BenchCell], *, command: str) -> Bench:
    """Read every record and work out what the arms came to."""
    runs: list[BenchRun] = []
    summaries = []
    finished: dict[str, list[Done]] = {}
    for cell in cells:
        own, records = _runs(cell)
        runs += own
        finished[cell.place.title] = records
        if records:
            summaries.append(_cell(suite, cell, own, records))
    all_records = [record for records in finished.values() for record in records]
    bench = Bench(
        suite=suite.name,
        description=suite.description,
        seeds=list(suite.seeds),
        arms=list(suite.arms),
        cells=summaries,
        overall=overall(summaries, runs, suite.arms),
        runs=runs,
        notes=[*_notes(suite), *condition_notes(finished)],
        machine=machines_of(all_records),
        command=command,
        versions=versions_of(all_records),
    )
    return bench.model_copy(update={"findings": findings_of(bench)})


def _runs(cell: BenchCell) -> tuple[list[BenchRun], list[Done]]:
    runs, records = [], []
    for arm, seed, job, why in cell.run_jobs():
        place = {"model": cell.place.model, "task": cell.place.task_name, "arm": arm, "seed": seed}
        record = None if job is None else done_record(cell.root, job)
        if record is None or record.arm is None:
            error = why or (cell.failure(job.name) if job is not None else None) or "not run"
            runs.append(BenchRun(**place, error=error))
            continue
        records.append(record)
        found = record.arm
        runs.append(
            BenchRun(
                **place,
                metrics=found.metrics,
                trainable_params=found.trainable_params,
                head_params=found.head_params,
                train_seconds=found.train_seconds,
                peak_memory_bytes=found.peak_memory_bytes,
                learning_rate=found.learning_rate,
                steps=found.steps,
                frozen_blocks=found.frozen_blocks,
                details=found.details,
            )
        )
    return runs, records


def _cell(suite: BenchSuite, cell: BenchCell, runs: list[BenchRun], records: list[Done]) -> Cell:
    metric = records[0].metric or "loss"
    rates = [rate for arm in suite.arms if (rate := cell.rate(arm)) is not None]
    plan = load_plan(cell.plan_path(LAYERLENS))
    return Cell(
        model=cell.place.model,
        task=cell.place.task_name,
        metric=metric,
        is_lower_better=is_lower_better(metric),
        eval_samples=records[0].eval_samples or 0,
        steps=max(run.steps or 0 for run in runs),
        params_limit=suite.budget.params(plan.model.num_parameters),
        arms=summarise_arms(runs, suite.arms, metric),
        rates=rates,
        plans=[facts for name in cell.raced if name in suite.arms for facts in _plans(cell, name)],
        costs=[cost for name in cell.raced if (cost := _cost(cell, name, runs)) is not None],
    )


def _plans(cell: BenchCell, variant: str) -> list[PlanFacts]:
    found = []
    for seed in cell.race_seeds:
        plan = _raced(cell, variant, seed)
        if plan is not None:
            ours = None if variant == LAYERLENS else _raced(cell, LAYERLENS, seed)
            race, timed = plan.race, plan.budgets.get(BudgetName.TIME_RATIO)
            found.append(
                PlanFacts(
                    arm=variant,
                    seed=seed,
                    chosen=plan.chosen.name,
                    params=plan.params,
                    is_blind=None if race is None else race.is_blind,
                    verdict="" if race is None else race.verdict,
                    predicted_time_ratio=None if timed is None else timed.spent,
                    is_cut_short=plan.is_cut_short,
                    is_as_layerlens=ours is not None and trained_by(plan) == trained_by(ours),
                )
            )
    return found


def _cost(cell: BenchCell, variant: str, runs: Sequence[BenchRun]) -> PlanCost | None:
    """Seconds of profile, plan and race beside those of one run; the race from the first seed where there are several."""
    finished = [run for run in runs if run.error is None and run.steps]
    reference = next((arm for arm in (FULL, LAYERLENS, variant) if any(run.arm == arm for run in finished)), None)
    seed = cell.race_seeds[0]
    raced = _raced(cell, variant, seed)
    profiled = done_record(cell.root, cell.profile_job(variant))
    plan_seconds = cell.plan_seconds(variant)
    if reference is None or raced is None or profiled is None or plan_seconds is None:
        return None
    race = _race_record(cell, variant, seed)
    race_seconds = 0.0 if race is None else race.seconds
    mine = [run for run in finished if run.arm == reference]
    run_seconds = fmean(run.train_seconds for run in mine)
    step_seconds = run_seconds / fmean(run.steps or 1 for run in mine)
    total = profiled.seconds + plan_seconds + race_seconds
    return PlanCost(
        arm=variant,
        profile_seconds=profiled.seconds,
        plan_seconds=plan_seconds,
        race_seconds=race_seconds,
        race_steps_share=None if raced.race is None else raced.race.share_of_tuning,
        run=reference,
        share_of_run=total / run_seconds,
        share_of_5000_steps=total / (_LONG_RUN_STEPS * step_seconds),
    )


def _race_record(cell: BenchCell, variant: str, seed: int | None) -> Done | None:
    rate = cell.rate("uniform")
    return None if rate is None else done_record(cell.root, cell.race_job(variant, seed, rate.rate))


def _raced(cell: BenchCell, variant: str, seed: int | None) -> Plan | None:
    try:
        plan = load_plan(cell.raced_path(variant, seed))
    except ManifestError:
        return None
    return plan if plan.race is not None else None


def _notes(suite: BenchSuite) -> list[str]:
    """How the figures are meant."""
    rates = suite.learning_rates
    searches = " and ".join(arm for arm in suite.arms if is_search(arm)) if rates.tuned == "arm" else ""
    tuned = "one arm of each grid, for all others," if rates.tuned == "kind" else f"every arm{searches and f' but {searches}'}"
    raced = "raced anew from each seed" if suite.race_each_seed else f"raced once, from seed {suite.seeds[0]}"
    notes = [
        f"A plan is profiled and made once for each model and task, from seed {suite.seeds[0]}, and {raced}; the seeds vary what "
        "is trained on and in what order, and how adapters and heads start.",
        "Intervals are Student's, over seeds alone: another sample of test data would move all arms together.",
        f"Learning rates: full {_grid(rates.full)}, head {_grid(rates.head)}, adapters {_grid(rates.adapter)}; "
        f"{tuned} tuned on at most {rates.samples} validation samples by {rates.select_by}, from seed {suite.seeds[0]}.",
        "Parameters are those of the adapters, the head apart; of full fine-tuning all but the head's.",
        "Seconds are of training alone. Peak memory is the highest resident set of the process (on a GPU: allocated bytes).",
    ]
    if searches:
        notes.append(
            f"{searches} trained at uniform's rate, in the trials as in what they found: a rate of their own would take a search "
            "for each rate of the grid."
        )
    if "query+value" in suite.arms:
        notes.append(f"query+value is PEFT's customary LoRA at rank {suite.query_value_rank}, whatever the budget.")
    if any(arm in VARIANTS for arm in suite.arms) and rates.tuned == "arm":
        notes.append("A plan that ends as uniform takes uniform's rate, whose trials trained the same.")
    if any(arm in VARIANTS and arm != LAYERLENS for arm in suite.arms):
        notes.append("Variants of LayerLens share its rate grid and are profiled, planned and raced on their own.")
    return notes


def _grid(rates: Sequence[float]) -> str:
    return "/".join(f"{rate:g}".replace("e-0", "e-") for rate in rates)
