"""The race: candidates train briefly on one base model, and held-out loss picks among them.

lay out ─► rung 0 ─► better half ─► … ─► finalists ─► did it see? ── yes ─► winner, or the simplest of equals
                │            │                            └── no ──► twice as long (if allowed), else the prior
                └── out of time ─► a finalist's steps from two seeds decide; blind, the prior; with less the plan stays
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.evidence import RungResult, placings, raced, uncontested
from layerlens.adapting.halving import Rung, survivors
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.lora import check_model
from layerlens.adapting.precision import on_training_device
from layerlens.adapting.race_layout import Layout, race_layout
from layerlens.adapting.runner import Runner
from layerlens.adapting.sight import Sight, look
from layerlens.adapting.verdict import FEWEST_SEEDS, Stop, decide
from layerlens.artifacts.plan import UNIFORM, Plan, Race
from layerlens.config import RaceConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import NotFiniteError
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress


def race(
    plan: Plan,
    candidates: dict[str, Plan],
    task_model: TaskModel,
    data: LoadedData,
    part: Partition,
    config: RaceConfig,
    *,
    state_path: Path | None,
    may_start_anew: bool = False,
    progress: Progress = SILENT,
) -> Plan:
    """Race the candidates and return the plan to use, with the evidence in its `race`.

    Args:
        plan: The plan that the candidates belong to.
        candidates: Every candidate as a plan of its own, by name.
        task_model: The base model; only its random head is changed (fitted), everything else stays to the bit.
        data: Samples of the plan's task.
        part: Trains on `train`, scores on `race`, never touches `test`.
        config: How to race.
        state_path: File for the finished runs: a killed race goes on there and ends with the same bytes.
        may_start_anew: Whether runs of another race in that file are put aside; else they are refused.
        progress: Who watches.

    Returns:
        The winner's plan with `race` filled in; the plan itself where a time limit came before enough was measured.

    Raises:
        ConfigError: `only` names an unknown candidate, or the file holds another race's runs.
        ManifestError: a plan of another model, or a candidate that was not made with the plan.
        DataError: too few training or held-out samples.
        NotFiniteError: every candidate diverged.
    """
    layout = race_layout(plan, candidates, data, part, config)
    check_model(plan, task_model)
    details: dict[str, Any] = {
        "tuning_steps": layout.tuning_steps,
        "share_asked": config.share,
        "eval_data": config.eval_data,
    }
    if not layout.rungs:
        return uncontested(layout.runnable, layout.field[0], details)
    details |= {"unraced": layout.unraced, "held_out_samples": len(layout.held_out)}
    with threads(config.threads):
        start_head_(task_model, data, part, config, progress)
        with on_training_device(task_model.model):
            runner = Runner(
                task_model,
                layout.training,
                layout.held_out,
                layout.runnable,
                config,
                state_path=state_path,
                progress=progress,
                may_start_anew=may_start_anew,
            )
            return _run(plan, runner, layout, details, progress)


def _run(plan: Plan, runner: Runner, layout: Layout, details: dict[str, Any], progress: Progress) -> Plan:
    config, rungs = runner.config, layout.rungs
    start = runner.start_losses()
    history: list[RungResult] = []
    finals: dict[str, NDArray[np.float64]] = {}
    sight: Sight | None = None
    stop: Stop | None = None
    while True:
        results = _heats(runner, [name for name in layout.field if name not in runner.diverged], rungs, progress)
        history += results
        stopped = _stop(results, rungs, config)
        if stopped is not None and sight is not None:
            # A race that had been run to its end before stands as it was: too little was seen of a longer one.
            break
        stop = stopped
        if results:
            finals, sight = results[-1].losses, look(start, [result.stacked for result in results], seed=config.seed)
        longer = tuple(Rung(rung.num_candidates, 2 * rung.steps, rung.num_seeds) for rung in rungs)
        if stop is not None or sight is None or not (sight.is_blind and config.may_extend) or runner.is_out_of_time:
            break
        if longer[-1].steps > layout.tuning_steps:
            break
        progress.note(f"the race is blind at {rungs[-1].steps} steps ({sight.reason}); it runs on to {longer[-1].steps}")
        rungs = longer
    finite = {name: entry for name, entry in runner.candidates.items() if name not in runner.diverged}
    planned = plan.chosen.name if plan.chosen.name not in runner.diverged else None
    decision = decide(finite, finals, sight, seed=config.seed, stop=stop, planned=planned)
    progress.note(decision.verdict)
    details |= {
        "rungs": [{"steps": rung.steps, "seeds": rung.seeds, "candidates": list(rung.losses)} for rung in history],
        "diverged": sorted(runner.diverged),
        "is_out_of_time": runner.was_stopped,
        "fall": None if sight is None else sight.fall,
        "agreement": None if sight is None else sight.agreement,
        "halfway_loss": None if sight is None else sight.halfway_loss,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
    }
    evidence = Race(
        candidates=placings(history, float(start.mean())),
        winner=decision.winner,
        margin=decision.margin,
        interval=None if decision.interval is None else list(decision.interval),
        share_of_tuning=runner.steps / layout.tuning_steps,
        is_blind=decision.is_blind,
        is_stopped=stop is not None,
        verdict=decision.verdict,
        details=details,
    )
    kept = {plan.chosen.name: plan} if stop is not None and decision.is_blind else {}
    return raced({**runner.candidates, **kept}, decision, evidence)


def _stop(results: list[RungResult], rungs: tuple[Rung, ...], config: RaceConfig) -> Stop | None:
    """Where a time limit ended a race; none where the final has run from every seed."""
    if len(results) == len(rungs) and len(results[-1].seeds) == rungs[-1].num_seeds:
        return None
    num_seeds = len(results[-1].seeds) if results else 0
    is_enough = num_seeds >= FEWEST_SEEDS and results[-1].steps >= config.min_steps
    return Stop(config.max_seconds or 0.0, len(results), len(rungs), num_seeds, is_enough=is_enough)


def _heats(runner: Runner, field: list[str], rungs: tuple[Rung, ...], progress: Progress) -> list[RungResult]:
    """Run rung after rung; fewer than `rungs` where time ran out."""
    results: list[RungResult] = []
    for number, rung in enumerate(rungs):
        if results:
            field = survivors(results[-1].means, rung.num_candidates, exempt=UNIFORM)
        title = f"race, round {number + 1} of {len(rungs)}: {len(field)} plans, {rung.steps} steps"
        result = _heat(runner, field, rung, title, progress)
        if result is None:
            break
        results.append(result)
    return results


def _heat(runner: Runner, field: list[str], rung: Rung, title: str, progress: Progress) -> RungResult | None:
    """Run one rung, seed by seed; none where time ran out before every candidate had run from one seed."""
    seeds = [runner.config.seed + offset for offset in range(rung.num_seeds)]
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in field}
    whole = 0
    jobs = [(seed, name) for seed in seeds for name in field]
    for seed, name in progress.track(jobs, title, len(jobs)):
        if runner.is_out_of_time and not runner.has_finished(name, rung.steps, seed):
            runner.was_stopped = True
            progress.note(f"the race stops at its limit of {runner.config.max_seconds:g} s")
            break
        if name in found:
            losses = runner.run(name, rung.steps, seed)
            if losses is None:
                progress.note(f"{name} diverged at learning rate {runner.config.learning_rate:g} and leaves the race")
                del found[name]
            else:
                found[name].append(losses)
        if name == field[-1]:
            whole += 1
    if not found:
        raise NotFiniteError(
            f"every candidate diverged with learning rate {runner.config.learning_rate:g}; use a lower --learning-rate"
        )
    if whole == 0:
        return None
    return RungResult(rung.steps, seeds[:whole], {name: np.stack(losses[:whole]) for name, losses in found.items()})
