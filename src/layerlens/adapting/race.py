"""The race: candidates train briefly on one base model, and held-out loss picks among them.

lay out ─► rung 0 ─► better half ─► … ─► finalists ─► did it see? ── yes ─► winner, or the simplest of equals
                                                          └── no ──► twice as long (if allowed), else the prior
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.adapting.evidence import RungResult, placings, raced, uncontested
from layerlens.adapting.halving import Rung, lay_out, survivors
from layerlens.adapting.head_start import start_head_
from layerlens.adapting.lora import check_model
from layerlens.adapting.order import num_tuning_steps
from layerlens.adapting.precision import on_training_device
from layerlens.adapting.prior import field_order
from layerlens.adapting.runner import Runner
from layerlens.adapting.samples import Samples, choose
from layerlens.adapting.sight import Sight, look
from layerlens.adapting.verdict import decide
from layerlens.artifacts.plan import UNIFORM, Plan, Race
from layerlens.config import RaceConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError, DataError, ManifestError, NotFiniteError
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress

#: Fewer held-out samples cannot be split into two halves that mean anything.
FEWEST_HELD_OUT = 8


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
        The winner's plan with `race` filled in.

    Raises:
        ConfigError: `only` names an unknown candidate, or the file holds another race's runs.
        ManifestError: a plan or candidate of another model.
        DataError: too few training or held-out samples.
        NotFiniteError: every candidate diverged.
    """
    runnable = _runnable(plan, candidates, config)
    check_model(plan, task_model)
    training = Samples(data, choose(part.train, config.max_train_samples, seed=config.seed))
    held_out = Samples(data, choose(part.race, config.held_out_samples, seed=config.seed))
    if not training.indices or len(held_out) < FEWEST_HELD_OUT:
        raise DataError(
            f"a race needs training samples and at least {FEWEST_HELD_OUT} held-out ones, got {len(training)} and "
            f"{len(held_out)} of {data.id}; give more data, or tune with --no-race"
        )
    order = field_order(runnable)
    tuning_steps = config.tuning_steps or num_tuning_steps(len(training), batch_size=config.batch_size, epochs=config.epochs)
    details: dict[str, Any] = {"tuning_steps": tuning_steps, "share_asked": config.share}
    if len(order) == 1:
        return uncontested(runnable, order[0], details)
    rungs = lay_out(
        len(order),
        budget_steps=config.share * tuning_steps,
        longest=tuning_steps,
        min_steps=config.min_steps,
        num_seeds=config.num_seeds,
    )
    field = order[: rungs[0].num_candidates]
    details |= {"unraced": order[len(field) :], "held_out_samples": len(held_out)}
    with threads(config.threads):
        start_head_(task_model, data, part, config, progress)
        with on_training_device(task_model.model):
            runner = Runner(
                task_model,
                training,
                held_out,
                runnable,
                config,
                state_path=state_path,
                progress=progress,
                may_start_anew=may_start_anew,
            )
            return _run(runner, field, rungs, tuning_steps, details, progress)


def _run(
    runner: Runner, field: list[str], rungs: tuple[Rung, ...], tuning_steps: int, details: dict[str, Any], progress: Progress
) -> Plan:
    config = runner.config
    start = runner.start_losses()
    history: list[RungResult] = []
    while True:
        results = _heats(runner, [name for name in field if name not in runner.diverged], rungs, progress)
        history += results
        if not results:
            sight = Sight(float(start.mean()), float(start.mean()), float(start.mean()), 0.0, None)
            break
        sight = look(start, results[0].stacked, results[-1].stacked, seed=config.seed)
        longer = tuple(Rung(rung.num_candidates, 2 * rung.steps, rung.num_seeds) for rung in rungs)
        if not (sight.is_blind and config.may_extend) or longer[-1].steps > tuning_steps or runner.is_out_of_time:
            break
        progress.note(f"the race is blind at {rungs[-1].steps} steps ({sight.reason}); it runs on to {longer[-1].steps}")
        rungs = longer
    finals = results[-1].losses if results else {}
    finite = {name: plan for name, plan in runner.candidates.items() if name not in runner.diverged}
    decision = decide(finite, finals, sight, seed=config.seed)
    progress.note(decision.verdict)
    details |= {
        "rungs": [{"steps": rung.steps, "seeds": rung.seeds, "candidates": list(rung.losses)} for rung in history],
        "diverged": sorted(runner.diverged),
        "is_out_of_time": runner.was_stopped,
        "fall": sight.fall,
        "agreement": sight.agreement,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
    }
    evidence = Race(
        candidates=placings(history, float(start.mean())),
        winner=decision.winner,
        margin=decision.margin,
        interval=None if decision.interval is None else list(decision.interval),
        share_of_tuning=runner.steps / tuning_steps,
        is_blind=sight.is_blind,
        verdict=decision.verdict,
        details=details,
    )
    return raced(runner.candidates, decision, evidence)


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
            progress.note(f"the race stops at its limit of {runner.config.max_seconds:g} s; what has run so far decides")
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


def _runnable(plan: Plan, candidates: dict[str, Plan], config: RaceConfig) -> dict[str, Plan]:
    """The candidates that shall run, by name in order."""
    known = candidates or {plan.chosen.name: plan}
    if config.only is not None:
        if unknown := sorted(set(config.only) - set(known)):
            raise ConfigError(f"only: no candidate named {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        known = {name: entry for name, entry in known.items() if name in {*config.only, UNIFORM}}
    if foreign := sorted(name for name, entry in known.items() if entry.model.hash != plan.model.hash):
        raise ManifestError(f"candidates of another model than the plan's: {', '.join(foreign[:3])}; plan again")
    return {name: known[name] for name in sorted(known) if name == UNIFORM or not _is_uniform(known[name], known.get(UNIFORM))}


def _is_uniform(plan: Plan, uniform: Plan | None) -> bool:
    """Whether an optimum or another plan is uniform under another name: racing it would compare a plan with itself."""
    return uniform is not None and [(e.layer, e.site, e.method, e.size) for e in plan.layers] == [
        (e.layer, e.site, e.method, e.size) for e in uniform.layers
    ]
