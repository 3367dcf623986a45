"""Part 2 of `predicted_gain.py`: whole plans at one budget, trained to the end, against every predicted order of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from predicted_gain_agreement import draw, leading, regret, spearman_interval
from predicted_gain_field import field_of_plans
from predicted_gain_joint_run import RISING, joint_run
from predicted_gain_predictors import Predictor, joint_predictors, signal_predictors
from predicted_gain_runs import Job, Kind, Runs, Store
from predicted_gain_starts import measure_starts
from predicted_gain_step import measured_steps, step_predictors
from predicted_gain_subjects import Measured, Subject

from layerlens.validation.association import spearman

SWEPT_PLANS = ("uniform", "optimum-whitened")
Ranks = Mapping[str, int]


def rates_of(subject: Subject) -> tuple[float, ...]:
    """The grid of whole plans."""
    return subject.plan_rates or subject.rates


def plan_job(subject: Subject, name: str, ranks: Ranks, *, part: str, rate: float, seed: int) -> Job:
    """One plan with the head, to the end."""
    return Job(
        kind=Kind.LORA,
        target=name,
        part=part,
        ranks=tuple(sorted(ranks.items())),
        trains_head=True,
        steps=subject.plan_steps,
        batch_size=subject.training.batch_size,
        learning_rate=rate,
        seed=seed,
    )


def short_jobs(final: Job, subject: Subject) -> dict[tuple[int, int], Job]:
    """The short runs of a plan from the same seed, scored on validation samples, by (steps, samples per step)."""
    horizons = subject.horizons if subject.race_seeds else ()
    return {
        (steps, size): replace(final, part="race", steps=steps, batch_size=size)
        for steps, size in horizons
        if steps * size < final.steps * final.batch_size
    }


def probe_jobs(final: Job, subject: Subject) -> dict[int, Job]:
    """Gradients after each short run of the full batch size but the longest, one seed's worth."""
    horizons = subject.horizons if subject.race_seeds else ()
    steps = sorted(own for own, size in horizons if size == final.batch_size and own < final.steps)[:-1]
    return {own: replace(final, kind=Kind.PROBE, part="", steps=own) for own in steps[-1:]}


def planned_plan_jobs(subject: Subject, measured: Measured, seeds: Sequence[int]) -> list[Job]:
    """Every run of this part at the first rate of the grid: for the estimate."""
    jobs: list[Job] = []
    plans = field_of_plans(measured)
    rates = rates_of(subject)
    for rate in rates if len(rates) > 1 else ():
        jobs += [_sweep_job(subject, name, plans, rate, seeds[0]) for name in SWEPT_PLANS if name in plans]
    for name, ranks in plans.items():
        for seed in seeds:
            final = plan_job(subject, name, ranks, part="test", rate=rates[0], seed=seed)
            jobs += [final]
            jobs += short_jobs(final, subject).values() if seed in seeds[: subject.race_seeds] else []
            jobs += probe_jobs(final, subject).values() if seed == seeds[0] else []
    return jobs


def measure_plans(runs: Runs, measured: Measured, seeds: Sequence[int], measured_gains: Mapping[str, float]) -> dict[str, Any]:
    """Do the runs of this part and compare; returns what goes into the JSON.

    Args:
        runs: Of this subject.
        measured: Its profile and plans.
        seeds: Of the final runs; short runs have the first ones, probes the first.
        measured_gains: Gain of each layer alone as part 1 measured it; empty where it did not run.
    """
    subject, plans = runs.subject, field_of_plans(measured)
    rate, sweep = _chosen_rate(runs, plans, seeds[0])
    names = list(plans)
    finals = {
        name: [plan_job(subject, name, ranks, part="test", rate=rate, seed=seed) for seed in seeds]
        for name, ranks in plans.items()
    }
    starts = [Job(Kind.START, "start", part) for part in ("test", "race")]
    raced = {name: jobs[: subject.race_seeds] for name, jobs in finals.items()}
    short = [job for jobs in raced.values() for final in jobs for job in short_jobs(final, subject).values()]
    probes = [job for jobs in finals.values() for job in probe_jobs(jobs[0], subject).values()]
    store = runs.do([*starts, *(job for jobs in finals.values() for job in jobs)], f"{subject.name}: plans to the end")
    runs.do([*short, *probes], f"{subject.name}: short runs")
    before = store[starts[0]].losses
    after = np.array([[_losses(store, job, before) for job in finals[name]] for name in names])
    losses = after.mean(axis=(1, 2))
    gradients = measure_starts(runs.trainer, rank=max(max(ranks.values()) for ranks in plans.values()))
    start_loss = store[starts[1]].mean
    together = joint_run(runs.trainer, measured.profile.layers, RISING, rank=subject.rank)
    predictors = joint_predictors(measured, plans, losses, gradients, measured_gains, together.shares, rank=subject.rank)
    steps = measured_steps(runs.trainer, [layer.layer for layer in measured.profile.layers], rank=subject.rank)
    predictors += step_predictors(measured.profile.layers, plans, steps)
    predictors += signal_predictors(
        training={name: np.array([_on_the_way(store, job) for job in finals[name]]) for name in names},
        short={
            horizon: np.array(
                [[_mean(store, short_jobs(job, subject)[horizon], start_loss) for job in raced[name]] for name in names]
            )
            for horizon in short_jobs(finals[names[0]][0], subject)
        },
        probes={
            steps: np.array([_probed(store, probe_jobs(finals[name][0], subject)[steps]) for name in names])
            for steps in probe_jobs(finals[names[0]][0], subject)
        },
        start_loss=start_loss,
        final_steps=subject.plan_steps,
        batch_size=subject.training.batch_size,
        joint=predictors,
    )
    drops = before[None] - after.mean(axis=1)
    by_seed = after.mean(axis=2)
    price = {layer.layer: layer.in_features + layer.out_features for layer in measured.profile.layers}
    return {
        "budget": measured.budget,
        "steps": subject.plan_steps,
        "batch_size": subject.training.batch_size,
        "seeds": list(seeds),
        "held_out": subject.held_out,
        "start_loss": float(before.mean()),
        "learning_rate": rate,
        "sweep": sweep,
        "plans": [
            {
                "name": name,
                "params": sum(price[layer] * rank for layer, rank in plans[name].items()),
                "layers": len(plans[name]),
                "largest_rank": max(plans[name].values()),
                "loss": float(loss),
                "losses_by_seed": own.tolist(),
                "seed_spread": float(own.std(ddof=1)) if len(own) > 1 else 0.0,
            }
            for name, loss, own in zip(names, losses, by_seed, strict=True)
        ],
        "ceiling": spearman(by_seed[:, 0].tolist(), by_seed[:, -1].tolist()) if len(seeds) > 1 else None,
        "best_minus_uniform": float(losses.min() - losses[names.index("uniform")]),
        "predictors": _judged(predictors, names, by_seed, drops),
    }


def _judged(
    predictors: Sequence[Predictor], names: Sequence[str], by_seed: np.ndarray, drops: np.ndarray
) -> list[dict[str, Any]]:
    """Each predictor against the final order.

    `upper` is the order within the better half of the plans, `crossed` is of one seed's signal and other seeds' finals.
    """
    draws, losses = draw(drops), by_seed.mean(axis=1)
    upper = leading((-losses).tolist(), (len(losses) + 1) // 2)
    rows = []
    for predictor in predictors:
        scores = predictor.scores.tolist()
        if predictor.anchored is not None:
            rows.append({**predictor.row(names), **predictor.anchored.as_row()})
            continue
        rows.append(
            {
                **predictor.row(names),
                "spearman": spearman(scores, (-losses).tolist()),
                "interval": spearman_interval(scores, draws),
                "upper": spearman([scores[number] for number in upper], [-float(losses[number]) for number in upper]),
                "crossed": None if predictor.by_seed is None else crossed(predictor.by_seed, by_seed),
                "pick": names[leading(scores, 1)[0]],
                "regret": regret(scores, losses.tolist()),
                "scores": scores,
            }
        )
    return rows


def crossed(signals: np.ndarray, finals: np.ndarray) -> float | None:
    """Mean Spearman of each seed's signal with the final order of the other seeds: a run does not foretell itself.

    Args:
        signals: Higher is better, `[seeds, plans]`; of the first seeds of the finals.
        finals: Final losses, `[plans, seeds]`.
    """
    if finals.shape[1] < 2:
        return None
    found = [spearman(own.tolist(), (-np.delete(finals, seed, axis=1).mean(axis=1)).tolist()) for seed, own in enumerate(signals)]
    known = [rho for rho in found if rho is not None]
    return float(np.mean(known)) if known else None


def _chosen_rate(runs: Runs, plans: Mapping[str, Ranks], seed: int) -> tuple[float, dict[str, float]]:
    """The rate of the lowest mean validation loss of two plans, and the sweep."""
    subject, rates = runs.subject, rates_of(runs.subject)
    if len(rates) == 1:
        return rates[0], {}
    jobs = {rate: [_sweep_job(subject, name, plans, rate, seed) for name in SWEPT_PLANS if name in plans] for rate in rates}
    store = runs.do([job for own in jobs.values() for job in own], f"{subject.name}: rates of plans")
    sweep = {rate: float(np.mean([store[job].mean for job in own])) for rate, own in jobs.items()}
    return min(sweep, key=lambda rate: sweep[rate]), {f"{rate:g}": loss for rate, loss in sweep.items()}


def _sweep_job(subject: Subject, name: str, plans: Mapping[str, Ranks], rate: float, seed: int) -> Job:
    return plan_job(subject, name, plans[name], part="race", rate=rate, seed=seed)


def _losses(store: Store, job: Job, before: np.ndarray) -> np.ndarray:
    """Held-out losses of a run; a run that diverged has its start's."""
    found = store[job].losses
    return found if len(found) else before


def _mean(store: Store, job: Job, before: float) -> float:
    """Mean held-out loss of a short run, alike."""
    found = store[job]
    return found.mean if len(found.losses) else before


def _on_the_way(store: Store, job: Job) -> np.ndarray:
    """Training losses of a run; of one that diverged, constant at its start."""
    found = store[job].training
    return found if len(found) == job.steps else np.full(job.steps, store[Job(Kind.START, "start", "test")].mean)


def _probed(store: Store, job: Job) -> np.ndarray:
    """What a probe found; nothing where it diverged."""
    found = store[job].losses
    return found if len(found) else np.zeros(3)
