"""A run of all-MiniLM-L6-v2's shape, synthesised from the schemas alone: seeded numbers, no model, no training."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.artifacts.evaluation import Arm, Evaluation, LossPoint
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import (
    UNIFORM,
    Budget,
    Chosen,
    ParetoPoint,
    Plan,
    PlanLayer,
    PlanMetadata,
    Race,
    RaceCandidate,
    Solver,
    candidates_folder,
    save_plan,
)
from layerlens.artifacts.profile import save_profile
from layerlens.artifacts.store import write_json
from layerlens.artifacts.validation import Validation
from layerlens.words import BudgetName, Method, Role
from tests.unit.reporting.synthetic_profile import BLOCKS, SHAPES, VERSIONS, curves, model_info, profile, task_info, timing

LIMIT = 50_000

Sizes = dict[str, int]


def even(blocks: range, roles: list[Role], limit: int = LIMIT) -> Sizes:
    """The largest rank that fits everywhere among some blocks and roles, the rest as one rank more from the top."""
    chosen = [layer for layer in profile().layers if layer.block in blocks and layer.role in roles]
    unit = {layer.layer: layer.in_features + layer.out_features for layer in chosen}
    rank = limit // sum(unit.values())
    sizes = dict.fromkeys(unit, rank)
    spare = limit - rank * sum(unit.values())
    for name in reversed(list(unit)):
        if unit[name] <= spare:
            sizes[name] += 1
            spare -= unit[name]
    return {name: size for name, size in sizes.items() if size}


def greedy(limit: int) -> Sizes:
    """Steepest gain per parameter first: exact for concave curves up to the last step."""
    arrays, steps = curves(), []
    for layer in profile().layers:
        unit = layer.in_features + layer.out_features
        gains = np.diff(arrays[f"gain/{layer.layer}"], prepend=0.0)
        steps += [(float(gain) / unit, layer.layer, unit) for gain in gains if gain > 1e-9]
    sizes: Sizes = {}
    for _, name, unit in sorted(steps, reverse=True):
        if unit <= limit:
            sizes[name] = sizes.get(name, 0) + 1
            limit -= unit
    return sizes


def value_of(sizes: Sizes) -> float:
    arrays = curves()
    return math.fsum(float(arrays[f"gain/{name}"][size - 1]) for name, size in sizes.items())


@cache
def pareto() -> tuple[ParetoPoint, ...]:
    """Optimum and uniform at a range of limits."""
    return tuple(
        ParetoPoint(limit=limit, value=value_of(greedy(limit)), uniform_value=value_of(even(range(BLOCKS), list(SHAPES), limit)))
        for limit in (6_250, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000)
    )


def plan(name: str = "whitened", sizes: Sizes | None = None, **changes: Any) -> Plan:
    """A plan that adds up; `sizes` are the ranks by layer, the optimum's if not given."""
    sizes = greedy(LIMIT) if sizes is None else sizes
    arrays, measured = curves(), profile()
    layers = []
    for layer in measured.layers:
        size = sizes.get(layer.layer, 0)
        method = Method.LORA if size else Method.NONE
        value = float(arrays[f"gain/{layer.layer}"][size - 1]) if size else 0.0
        params = trainable_params(method, size, in_features=layer.in_features, out_features=layer.out_features)
        layers.append(
            PlanLayer(
                layer=layer.layer,
                block=layer.block,
                role=layer.role.value,
                method=method,
                size=size,
                utility=layer.utility,
                value=value,
                params=params,
                flops=6.0 * params,
                vram_bytes=16.0 * params,
                latency_ms=0.011 + 0.0002 * size if size else 0.0,
                why=f"gains {value:.4f} nats; the next rank costs {layer.in_features + layer.out_features:,} parameters more",
                in_features=layer.in_features,
                out_features=layer.out_features,
            )
        )
    spent = sum(layer.params for layer in layers)
    at_limit = next(point for point in pareto() if point.limit == LIMIT)
    optimum, uniform = at_limit.value, at_limit.uniform_value
    made = Plan(
        model=model_info(),
        task=task_info(),
        budgets={
            BudgetName.TRAINABLE_PARAMS: Budget(limit=LIMIT, spent=spent),
            BudgetName.FLOPS: Budget(spent=54_600_000.0 + 6.0 * spent),
            BudgetName.VRAM_BYTES: Budget(limit=1.5 * 2**30, spent=0.9 * 2**30 + 16.0 * spent),
            BudgetName.LATENCY_MS: Budget(spent=math.fsum(layer.latency_ms for layer in layers)),
            BudgetName.TIME_RATIO: Budget(spent=0.68),
        },
        solver=Solver(status="optimal", value=optimum, bound=optimum * (1 + 4e-8), gap=4e-8, uniform_value=uniform),
        chosen=Chosen(name=name, value=math.fsum(layer.value for layer in layers)),
        pareto=list(pareto()),
        layers=layers,
        head=["bert.pooler", "classifier"],
        head_params=150_920,
        depth_cut=min((layer.block or 0 for layer in layers if layer.size), default=0),
        metadata=PlanMetadata(
            gradient_norms={layer.layer: math.sqrt(layer.metrics["gradient_norm_squared"]) for layer in measured.layers},
            fisher_traces={layer.layer: layer.metrics["fisher"] for layer in measured.layers},
            command="layerlens plan runs/demo/profile --max-trainable-params 50000 --out runs/demo/plan.json",
            versions=VERSIONS,
            seed=0,
            profile="runs/demo/profile",
            profile_identity=measured.identity,
            metric_weights=measured.metric_weights,
            optimization={"max_trainable_params": LIMIT, "max_rank": None, "min_rank": 1, "max_utilisation": 1.0},
            assumptions=[
                "memory priced for batches of 16 × 128 tokens, AdamW in float32",
                "latency is unmerged; merged LoRA adds none",
            ],
        ),
    )
    return made.model_copy(update=changes)


@cache
def candidate_sizes() -> dict[str, Sizes]:
    every, mlp = list(SHAPES), [Role.MLP_UP, Role.MLP_DOWN]
    return {
        "whitened": greedy(LIMIT),
        UNIFORM: even(range(BLOCKS), every),
        "mlp": even(range(BLOCKS), mlp),
        "mlp+attention-output": even(range(BLOCKS), [*mlp, Role.ATTENTION_OUTPUT]),
        "blocks-1-5": even(range(1, BLOCKS), every),
        "blocks-2-5": even(range(2, BLOCKS), every),
        "blocks-2-5-mlp": even(range(2, BLOCKS), mlp),
        "query+value": even(range(BLOCKS), [Role.ATTENTION_QUERY, Role.ATTENTION_VALUE]),
    }


def race(**changes: Any) -> Race:
    """Three rungs of successive halving; uniform runs to the end and comes second."""
    rng = np.random.default_rng(3)
    final = {
        "blocks-2-5": 0.512,
        UNIFORM: 0.521,
        "mlp+attention-output": 0.528,
        "blocks-1-5": 0.531,
        "mlp": 0.56,
        "whitened": 0.571,
        "blocks-2-5-mlp": 0.60,
        "query+value": 0.74,
    }
    rungs_of = dict(zip(final, (3, 3, 3, 2, 2, 1, 1, 1), strict=True))
    candidates = []
    for name, loss in final.items():
        rungs = []
        for steps in (10, 20, 40)[: rungs_of[name]]:
            mean = loss + (1.14 - loss) * math.exp(-steps / 14)
            rungs.append({"steps": steps, "losses": {str(seed): mean + float(rng.normal(0, 0.008)) for seed in (0, 1)}})
        candidates.append(
            RaceCandidate(
                name=name,
                held_out_loss=sum(rungs[-1]["losses"].values()) / 2,
                steps=rungs[-1]["steps"],
                seeds=[0, 1],
                start_loss=1.14,
                rungs=rungs,
            )
        )
    race = Race(
        candidates=candidates,
        winner="blocks-2-5",
        margin=0.009,
        interval=[0.002, 0.017],
        share_of_tuning=0.11,
        verdict="blocks-2-5 ended 0.009 nats below uniform, outside the noise of samples and seeds",
    )
    return race.model_copy(update=changes)


def raced_plan() -> Plan:
    return plan("blocks-2-5", candidate_sizes()["blocks-2-5"], race=race())


SCORES = {"full": 0.842, "layerlens": 0.836, UNIFORM: 0.829, "query+value": 0.801, "head": 0.712}


def evaluation(seeds: tuple[int, ...] = (0, 1, 2), scores: dict[str, float] = SCORES) -> Evaluation:
    rng = np.random.default_rng(4)
    arms = []
    params = {"full": 22_565_376, "head": 0, "query+value": 49_152, UNIFORM: 49_920, "layerlens": 49_920}
    seconds = {"full": 96.0, "head": 11.0, "query+value": 61.0, UNIFORM: 66.0, "layerlens": 49.0}
    for name, score in scores.items():
        for seed in seeds:
            noise = float(rng.normal(0, 0.004))
            floor = 1.9 - 1.6 * score
            points = [
                LossPoint(step=step, loss=floor + 1.4 * math.exp(-step / 22) + float(rng.normal(0, 0.04)))
                for step in range(5, 101, 5)
            ]
            arms.append(
                Arm(
                    name=name,
                    metrics={"accuracy": round(score + noise, 4), "loss": round(2.2 - 2 * score - noise, 4)},
                    trainable_params=params.get(name, 40_000),
                    head_params=150_920,
                    train_seconds=seconds.get(name, 60.0) + 2.0 * seed,
                    peak_memory_bytes=int((1.62 if name == "full" else 0.98) * 2**30),
                    seed=seed,
                    learning_rate=5e-5 if name == "full" else 1e-3,
                    steps=100,
                    loss_curve=points,
                )
            )
    return Evaluation(
        model="sentence-transformers/all-MiniLM-L6-v2",
        task="stdlib-docs",
        eval_samples=812,
        primary_metric="accuracy",
        arms=arms,
        command="layerlens demo",
        versions=VERSIONS,
        machine="Linux x86-64, 2 cores, 1 thread",
    )


def write_run(
    folder: Path,
    *,
    made: Plan | None = None,
    evaluated: Evaluation | None = None,
    checked: Validation | None = None,
    has_profile: bool = True,
    has_candidates: bool = True,
) -> Path:
    """Write any part of a run as the commands leave it."""
    if has_profile:
        save_profile(folder / "profile", profile(), curves(), timing())
    if made is not None:
        save_plan(folder / "plan.json", made)
    if has_candidates:
        for name, sizes in candidate_sizes().items():
            save_plan(candidates_folder(folder / "plan.json") / f"{name}.json", plan(name, sizes))
    if evaluated is not None:
        write_json(folder / "evaluation.json", evaluated)
    if checked is not None:
        write_json(folder / "validation.json", checked)
    return folder
