"""Part 1 of `predicted_gain.py`: each layer alone, by a LoRA and by its whole weight, against every score of the profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from predicted_gain_agreement import TOP_SHARE, agreement, draw, top_overlap, within_role
from predicted_gain_joint_run import RISING, STEPS, JointRun, joint_run
from predicted_gain_runs import Job, Kind, Runs, Trainer
from predicted_gain_scores import layer_scores
from predicted_gain_starts import measure_starts
from predicted_gain_step import measured_steps
from predicted_gain_subjects import Measured, Subject, variant_profiles

from layerlens.artifacts.layers import LayerSpec
from layerlens.validation.association import spearman

#: Layers that a learning rate is chosen on, evenly spaced.
SWEPT_LAYERS = 4


@dataclass(frozen=True)
class GroundTruth:
    """What each layer gains alone: `drops [layers, seeds, samples]`, nats, at the rate that was chosen."""

    kind: Kind
    drops: np.ndarray
    rate: float
    sweep: dict[str, float]

    @property
    def by_sample(self) -> np.ndarray:
        """Mean over seeds."""
        return self.drops.mean(axis=1)


def layer_job(subject: Subject, kind: Kind, layer: str, *, part: str, rate: float, seed: int) -> Job:
    """One layer alone, without the head."""
    return Job(
        kind=kind,
        target=layer,
        part=part,
        ranks=((layer, subject.rank),) if kind is Kind.LORA else (),
        steps=subject.layer_steps,
        batch_size=subject.training.batch_size,
        learning_rate=rate,
        seed=seed,
    )


def swept_layers(names: Sequence[str]) -> list[str]:
    """Layers evenly spaced over the model; the stride falls on different roles."""
    count = min(SWEPT_LAYERS, len(names))
    return [names[int((place + 0.5) * len(names) / count)] for place in range(count)]


def sweep_jobs(subject: Subject, kind: Kind, names: Sequence[str], seed: int) -> dict[float, list[Job]]:
    """The sweep's runs by rate, scored on validation samples."""
    rates = subject.rates if kind is Kind.LORA else subject.full_rates
    return {
        rate: [layer_job(subject, kind, layer, part="race", rate=rate, seed=seed) for layer in swept_layers(names)]
        for rate in rates
    }


def probe_jobs(subject: Subject, names: Sequence[str], *, rate: float, seed: int) -> dict[int, list[Job]]:
    """Short runs of each layer alone at the rate of the long ones, scored on validation samples, by steps."""
    return {
        steps: [replace(layer_job(subject, Kind.LORA, layer, part="race", rate=rate, seed=seed), steps=steps) for layer in names]
        for steps in subject.probe_steps
        if steps < subject.layer_steps
    }


def planned_jobs(subject: Subject, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Every run of this part, with a stand-in for the rates that the sweep will choose: for the estimate."""
    jobs = []
    for kind in (Kind.LORA, Kind.FULL):
        sweep = sweep_jobs(subject, kind, names, seeds[0])
        jobs += [job for members in sweep.values() for job in members] if len(sweep) > 1 else []
        rate = next(iter(sweep))
        jobs += [layer_job(subject, kind, layer, part="test", rate=rate, seed=seed) for layer in names for seed in seeds]
    probes = probe_jobs(subject, names, rate=subject.rates[0], seed=seeds[0])
    return jobs + [job for own in probes.values() for job in own]


def ground_truth(runs: Runs, kind: Kind, names: Sequence[str], seeds: Sequence[int]) -> GroundTruth:
    """Choose the rate on validation samples, then adapt every layer alone from every seed."""
    subject = runs.subject
    sweep = sweep_jobs(subject, kind, names, seeds[0])
    if len(sweep) == 1:
        rate, losses = next(iter(sweep)), {}
    else:
        store = runs.do([job for jobs in sweep.values() for job in jobs], f"{subject.name}: rates, {kind}")
        losses = {candidate: float(np.mean([store[job].mean for job in jobs])) for candidate, jobs in sweep.items()}
        rate = min(losses, key=lambda candidate: losses[candidate])
    jobs = [[layer_job(subject, kind, layer, part="test", rate=rate, seed=seed) for seed in seeds] for layer in names]
    start = Job(Kind.START, "start", "test")
    store = runs.do([start, *(job for row in jobs for job in row)], f"{subject.name}: {kind}, one layer at a time")
    before = store[start].losses
    # A run that diverged has gained nothing.
    drops = [[before - store[job].losses if len(store[job].losses) else np.zeros(len(before)) for job in row] for row in jobs]
    return GroundTruth(kind, np.array(drops), rate, {f"{candidate:g}": loss for candidate, loss in losses.items()})


def measured_probes(runs: Runs, names: Sequence[str], *, rate: float, seed: int) -> dict[str, list[float]]:
    """Drop of validation loss after few steps at the rate that was chosen: a score that costs some training."""
    jobs = probe_jobs(runs.subject, names, rate=rate, seed=seed)
    start = Job(Kind.START, "start", "race")
    store = runs.do([start, *(job for own in jobs.values() for job in own)], f"{runs.subject.name}: short probes")
    before = store[start].mean
    return {
        f"probe, {steps} steps": [before - store[job].mean if len(store[job].losses) else 0.0 for job in own]
        for steps, own in jobs.items()
    }


def joint_runs(trainer: Trainer, layers: Sequence[LayerSpec], *, rate: float, rank: int) -> dict[str, JointRun]:
    """One run of all layers at once, at the rate of one layer alone and at a rising one: two short runs in all."""
    return {
        f"joint run, {STEPS} steps": joint_run(trainer, layers, [rate] * STEPS, rank=rank),
        "joint run, rising rate": joint_run(trainer, layers, RISING, rank=rank),
    }


def measure_layers(runs: Runs, measured: Measured, seeds: Sequence[int]) -> dict[str, Any]:
    """Do the runs of this part and compare; returns what goes into the JSON."""
    subject, layers = runs.subject, measured.profile.layers
    names, roles = [layer.layer for layer in layers], [layer.role.value for layer in layers]
    truths = [ground_truth(runs, kind, names, seeds) for kind in (Kind.LORA, Kind.FULL)]
    starts = measure_starts(runs.trainer, rank=max(subject.rank, subject.profiling.max_rank or 0))
    variants = variant_profiles(subject, runs.folder, runs.progress)
    probes = measured_probes(runs, names, rate=truths[0].rate, seed=seeds[0])
    together = joint_runs(runs.trainer, layers, rate=truths[0].rate, rank=subject.rank)
    probes |= {label: [run.shares[name] for name in names] for label, run in together.items()}
    steps = measured_steps(runs.trainer, names, rank=subject.rank)
    probes["one measured step"] = [steps[name] for name in names]
    scores = layer_scores(measured, variants, starts, probes, rank=subject.rank)
    start_loss = float(runs.store[Job(Kind.START, "start", "test")].mean)
    gains = {truth.kind.value: truth.by_sample.mean(axis=1).tolist() for truth in truths}
    lora, full = gains[Kind.LORA.value], gains[Kind.FULL.value]
    return {
        "layers": names,
        "roles": roles,
        "rank": subject.rank,
        "steps": subject.layer_steps,
        "batch_size": subject.training.batch_size,
        "seeds": list(seeds),
        "held_out": subject.held_out,
        "start_loss": start_loss,
        "rates": {truth.kind.value: truth.rate for truth in truths},
        "sweeps": {truth.kind.value: truth.sweep for truth in truths},
        "gains": gains,
        "gains_by_seed": {truth.kind.value: truth.drops.mean(axis=2).tolist() for truth in truths},
        "ceilings": {
            **{truth.kind.value: ceiling(truth.drops, roles) for truth in truths},
            "LoRA against whole weight": {
                "spearman": spearman(lora, full),
                "within_role": within_role(lora, full, roles),
                "top": top_overlap(lora, full),
            },
        },
        "joint_runs": {label: {"steps": run.steps, "drop": run.drop, "error": run.error} for label, run in together.items()},
        "top_share": TOP_SHARE,
        "scores": scores,
        "agreement": {
            truth.kind.value: {
                name: agreement(values, truth.by_sample, roles, draws).as_dict() for name, values in scores.items()
            }
            for truth, draws in ((truth, draw(truth.by_sample)) for truth in truths)
        },
    }


def ceiling(drops: np.ndarray, roles: Sequence[str]) -> dict[str, float | None] | None:
    """How well the measurement foretells itself: seeds and samples of one half against those of the other.

    The figure is for half of the data; a perfect score would correlate a little better than this with all of it.
    """
    if drops.shape[1] < 2:
        return None
    half = drops.shape[1] // 2
    one, other = drops[:, :half, ::2].mean(axis=(1, 2)).tolist(), drops[:, half:, 1::2].mean(axis=(1, 2)).tolist()
    return {"spearman": spearman(one, other), "within_role": within_role(one, other, roles), "top": top_overlap(one, other)}
