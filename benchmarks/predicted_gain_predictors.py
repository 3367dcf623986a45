"""Every predicted order of whole plans, as one list of scores each, and what it costs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from predicted_gain_agreement import leading
from predicted_gain_joint import (
    Part,
    additive,
    alignment,
    anchor_sets,
    anchored,
    discounted,
    fitted_total,
    grouped,
    of_mlp,
    place_similarity,
    powers,
    redundant,
    saturating,
    shared,
    sublayer,
)
from predicted_gain_scores import gain_at
from predicted_gain_signals import area, extrapolated, on_the_way, steps_to_equal_loss
from predicted_gain_starts import Starts, kernel_gain
from predicted_gain_subjects import Measured

from layerlens.adapting.arms.ranks import with_ranks
from layerlens.adapting.prior import prior_key, simplicity_key
from layerlens.artifacts.plan import Chosen
from layerlens.budget.values import ATTENTION_INPUT_SHARE
from layerlens.validation.association import spearman

#: Nats that can be had in all, as multiples of the largest gain of one layer alone.
TOTALS = (1.2, 1.5, 2.0, 3.0, 6.0)
SHARES = (0.0, 0.25)
POWERS = (0.25, 0.5, 1.5, 2.0)
DISCOUNTS = (0.95, 0.9, 0.8)
NUM_ANCHORS = (4, 6, 8)
NUM_ANCHOR_SETS = 200
#: The joint value that joins a signal, and its weight, both standardised.
JOINED = "power 1.5"
PRIOR_WEIGHT = 0.5


@dataclass(frozen=True)
class AnchoredResult:
    """Means over sets of anchors: Spearman over the plans that are no anchors, and the regret of the pick."""

    spearman: float | None
    regret: float

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "spearman": self.spearman,
            "interval": None,
            "upper": None,
            "crossed": None,
            "pick": "",
            "regret": self.regret,
            "scores": None,
        }


@dataclass(frozen=True)
class Predictor:
    """Scores of the plans, higher is better.

    `cost` is in training samples, as a share of training every plan to the end from one seed; 0 needs no training. `by_seed` are
    the scores that each seed alone gives, `[seeds, plans]`.
    """

    kind: str
    name: str
    scores: np.ndarray
    cost: float = 0.0
    anchored: AnchoredResult | None = None
    by_seed: np.ndarray | None = None

    def row(self, names: Sequence[str]) -> dict[str, Any]:
        """What it is, for JSON."""
        return {"kind": self.kind, "name": self.name, "cost": self.cost, "plans": len(names)}


def joint_predictors(
    measured: Measured,
    plans: Mapping[str, Mapping[str, int]],
    losses: np.ndarray,
    starts: Starts,
    measured_gains: Mapping[str, float],
    joint_shares: Mapping[str, float],
    *,
    rank: int,
) -> list[Predictor]:
    """Models of joint value, priors and controls, and anchored models; `losses` is read by the latter alone."""
    layers = {layer.layer: layer for layer in measured.profile.layers}

    def parts_with(gain: Callable[[str, int], float]) -> list[list[Part]]:
        return [
            [Part(name, layers[name].role.value, layers[name].block or 0, gain(name, own)) for name, own in ranks.items()]
            for ranks in plans.values()
        ]

    whitened = parts_with(lambda name, own: gain_at(measured.arrays, name, own))
    largest = max(gain_at(measured.arrays, name, None) for name in layers)
    found = [_of("joint, from the profile", name, model, whitened) for name, model in _models(largest).items()]
    kernels = {name: starts.kernel({name: 1 << 30}) for name in layers}
    aligned = alignment(kernels)
    found.append(
        _of(
            "joint, from the profile",
            "redundant, kernels over samples",
            partial(redundant, similarity=lambda one, other: aligned[one.layer, other.layer]),
            whitened,
        )
    )
    found += _start_predictors(plans, starts, whitened)
    anchored_gains = parts_with(partial(_anchored_gain, measured.arrays, joint_shares, rank))
    for label, share in (("", 1.0), (f", attention's inputs × {ATTENTION_INPUT_SHARE:g}", ATTENTION_INPUT_SHARE)):
        name, value = f"additive, anchored by a joint run{label}", partial(shared, share=share)
        found.append(_of("joint, from a joint run", name, value, anchored_gains))
    for model in ("utility", "proxy"):
        scored = parts_with(partial(_scored, layers, model))
        found.append(_of("joint, from the profile", f"additive, {model}", additive, scored))
    if measured_gains:
        singles = parts_with(lambda name, own: measured_gains[name] * float(np.log1p(own) / np.log1p(rank)))
        top = max(measured_gains.values())
        found += [_of("joint, from measured layers", name, model, singles) for name, model in _models(top).items()]
    found += _priors(measured, plans, [shared(parts, share=ATTENTION_INPUT_SHARE) for parts in whitened])
    found += _anchored(found, whitened, largest, losses)
    return found


def _models(largest: float) -> dict[str, Callable[[Sequence[Part]], float]]:
    """The models of `predicted_gain_joint.py` by name."""
    return {
        "additive": additive,
        f"additive, attention's inputs × {ATTENTION_INPUT_SHARE:g} (the default)": partial(shared, share=ATTENTION_INPUT_SHARE),
        **{f"additive, attention's inputs × {share:g}": partial(shared, share=share) for share in SHARES},
        "additive over MLP layers": of_mlp,
        **{f"power {power:g}": partial(powers, power=power) for power in POWERS},
        **{f"saturating at {total:g} × the best layer": partial(saturating, total=total * largest) for total in TOTALS},
        "√ by role": partial(grouped, group_of=lambda part: part.role, power=0.5),
        "√ by block": partial(grouped, group_of=lambda part: part.block, power=0.5),
        "√ by sublayer": partial(grouped, group_of=sublayer, power=0.5),
        "redundant by place": partial(redundant, similarity=place_similarity),
        **{f"discounted by {factor:g}": partial(discounted, factor=factor) for factor in DISCOUNTS},
    }


def _of(kind: str, name: str, model: Callable[[Sequence[Part]], float], plans: Sequence[Sequence[Part]]) -> Predictor:
    return Predictor(kind, name, np.array([model(parts) for parts in plans]))


def _anchored_gain(arrays: Mapping[str, Any], shares: Mapping[str, float], joint_rank: int, name: str, rank: int) -> float:
    """A layer's gain, moved half of the way (on a logarithmic scale) to what it did in the joint run at the rank of that."""
    alone, together = gain_at(arrays, name, joint_rank), max(0.0, shares[name])
    return gain_at(arrays, name, rank) * float(np.sqrt(together / alone)) if alone > 0 else 0.0


def _scored(layers: Mapping[str, Any], model: str, name: str, rank: int) -> float:
    """What `budget/values.py` makes of a score, but for a constant."""
    layer = layers[name]
    score = layer.utility if model == "utility" else max(0.0, layer.metrics.get("proxy_eval", 0.0))
    return float(score * np.log1p(rank))


def _start_predictors(
    plans: Mapping[str, Mapping[str, int]], starts: Starts, whitened: Sequence[Sequence[Part]]
) -> list[Predictor]:
    """What gradients of every sample at the start of the plan's own LoRA say of it."""
    kind = "joint, from gradients at the start"
    own = list(plans.values())
    kernels = [starts.kernel(ranks) for ranks in own]
    found = [
        Predictor(kind, f"kernel over samples, damping {damping:g}", np.array([kernel_gain(k, damping=damping) for k in kernels]))
        for damping in (0.1, 1.0, 10.0)
    ]
    singles = np.array(
        [sum(kernel_gain(starts.kernel({name: rank}), damping=1.0) for name, rank in ranks.items()) for ranks in own]
    )
    sums = np.array([additive(parts) for parts in whitened])
    found.append(Predictor(kind, "additive × kernel's share", sums * found[1].scores / np.maximum(singles, 1e-30)))
    found.append(Predictor(kind, "Adam's first step", np.array([starts.first_step(ranks) for ranks in own])))
    found.append(Predictor(kind, "energy", np.array([starts.energy(ranks) for ranks in own])))
    found.append(Predictor(kind, "cosine of halves", np.array([starts.cosine(ranks) for ranks in own])))
    return found


def _priors(measured: Measured, plans: Mapping[str, Mapping[str, int]], values: Sequence[float]) -> list[Predictor]:
    """Orders that need no training; `values` are what the default value model foretells of each plan."""
    layers = {layer.layer: layer for layer in measured.profile.layers}
    realised = {
        name: (measured.candidates.get(name) or with_ranks(measured.plan, dict(ranks))).model_copy(
            update={"chosen": Chosen(name=name, value=value)}
        )
        for (name, ranks), value in zip(plans.items(), values, strict=True)
    }
    found = []
    keys: dict[str, dict[str, tuple[Any, ...]]] = {
        "broad and low rank, else value (adapting/prior.py)": {name: prior_key(name, plan) for name, plan in realised.items()},
        "simplest first": {name: simplicity_key(name, plan) for name, plan in realised.items()},
    }
    for label, key in keys.items():
        order = [name for _, name in sorted((own, name) for name, own in key.items())]
        found.append(Predictor("prior", label, -np.array([float(order.index(name)) for name in plans])))
    own = list(plans.values())
    found += [
        Predictor("control", "number of adapted layers", np.array([float(len(ranks)) for ranks in own])),
        Predictor(
            "control", "weights of adapted layers", np.array([float(sum(layers[name].weight_params for name in r)) for r in own])
        ),
        Predictor(
            "control",
            "MLP weights of adapted layers",
            np.array([float(sum(layers[n].weight_params for n in r if layers[n].role.is_mlp)) for r in own]),
        ),
        Predictor("control", "parameters spent", np.array([float(plan.params) for plan in realised.values()])),
        Predictor("control", "random", np.random.default_rng(0).random(len(plans))),
    ]
    return found


def _anchored(
    found: Sequence[Predictor], whitened: Sequence[Sequence[Part]], largest: float, losses: np.ndarray
) -> list[Predictor]:
    """Models with a few trained plans, scored on the others, over random sets of anchors."""
    scores = {predictor.name: predictor.scores for predictor in found if "measured" not in predictor.kind}
    features = {
        "additive + number of layers": ("additive", "number of adapted layers"),
        "√ of gains + weights of layers": ("power 0.5", "weights of adapted layers"),
        "additive + MLP weights": ("additive", "MLP weights of adapted layers"),
        "additive + weights + kernel": ("additive", "weights of adapted layers", "kernel over samples, damping 1"),
    }
    models: dict[str, Callable[[Sequence[int]], np.ndarray]] = {
        name: partial(_minus_anchored, np.stack([scores[own] for own in names], axis=1), losses)
        for name, names in features.items()
    }
    totals = [total * largest for total in TOTALS]
    models["saturating at a fitted total"] = lambda anchors: fitted_total(whitened, losses, anchors, totals)
    models["best of the trained alone"] = lambda anchors: np.zeros(len(losses))
    result = []
    for size in NUM_ANCHORS:
        if size > len(losses) // 2:
            continue
        sets = anchor_sets(len(losses), size, num_draws=NUM_ANCHOR_SETS)
        for name, model in models.items():
            outcome = score_anchored(model, sets, losses)
            result.append(Predictor(f"{size} plans trained", name, np.zeros(0), size / len(losses), outcome))
    return result


def _minus_anchored(features: np.ndarray, losses: np.ndarray, anchors: Sequence[int]) -> np.ndarray:
    return -anchored(features, losses, anchors)


def score_anchored(
    model: Callable[[Sequence[int]], np.ndarray], sets: Sequence[Sequence[int]], losses: np.ndarray
) -> AnchoredResult:
    """The pick is the better of the best anchor and the plan that the model puts first among the others, as trained once more."""
    correlations, regrets = [], []
    for anchors in sets:
        scores = model(anchors)
        others = [number for number in range(len(losses)) if number not in set(anchors)]
        rho = spearman(scores[others].tolist(), (-losses[others]).tolist())
        correlations.append(0.0 if rho is None else rho)
        best = float(losses[list(anchors)].min())
        if rho is not None:
            best = min(best, float(losses[others[leading(scores[others].tolist(), 1)[0]]]))
        regrets.append(best - float(losses.min()))
    return AnchoredResult(float(np.mean(correlations)) if any(correlations) else None, float(np.mean(regrets)))


def signal_predictors(
    *,
    training: Mapping[str, np.ndarray],
    short: Mapping[tuple[int, int], np.ndarray],
    probes: Mapping[int, np.ndarray],
    start_loss: float,
    final_steps: int,
    batch_size: int,
    joint: Sequence[Predictor],
) -> list[Predictor]:
    """Early signals, from all seeds and, for held-out loss, from the first alone.

    Args:
        training: Training losses of the final runs, `[seeds, steps]`, by plan.
        short: Mean held-out losses `[plans, seeds]` by (steps, samples per step).
        probes: `[plans, 3]` by steps: see `predicted_gain_runs.halves_agreement`.
        start_loss: Held-out loss before training, nats.
        final_steps: Of the final runs.
        batch_size: Of the final runs.
        joint: Predictors of which one joins a signal.
    """
    whole = final_steps * batch_size
    found = []
    prior = next(predictor.scores for predictor in joint if predictor.name == JOINED)
    for (steps, size), losses in short.items():
        label = f"loss after {steps} steps of {size}"
        cost = steps * size / whole
        found.append(Predictor("race", f"{label}, one seed", -losses[:, 0], cost, by_seed=-losses.T))
        if losses.shape[1] > 1:
            found.append(Predictor("race", f"{label}, {losses.shape[1]} seeds", -losses.mean(axis=1), cost * losses.shape[1]))
        mixed = np.array([_standard(-own) + PRIOR_WEIGHT * _standard(prior) for own in losses.T])
        found.append(Predictor("race", f"{label}, one seed, + {JOINED}", mixed[0], cost, by_seed=mixed))
    rows = list(training.values())
    for steps in sorted({steps for steps, size in short if size == batch_size}):
        cost = steps / final_steps
        for name, measure in (("loss", on_the_way), ("area", area)):
            own = -_each(rows, measure, steps)
            found.append(Predictor("on the way", f"{name} to step {steps}, one seed", own[0], cost, by_seed=own))
            if len(own) > 1:
                found.append(
                    Predictor("on the way", f"{name} to step {steps}, {len(own)} seeds", own.mean(axis=0), cost * len(own))
                )
    curves = {0: np.full(len(rows), start_loss)} | {
        steps: losses.mean(axis=1) for (steps, size), losses in short.items() if size == batch_size
    }
    if len(curves) > 2:
        num_seeds = next(iter(short.values())).shape[1]
        cost = sum(curves) / final_steps * num_seeds
        found.append(Predictor("equal progress", "steps to equal loss", -steps_to_equal_loss(curves), cost))
        found.append(Predictor("equal progress", "extrapolated loss", -extrapolated(curves, final_steps), cost))
    for steps, values in probes.items():
        cost = steps / final_steps
        for place, name in enumerate(("cosine of halves", "energy", "Adam's further step")):
            found.append(Predictor("gradients", f"{name} after {steps} steps", values[:, place], cost))
    return found


def _each(rows: Sequence[np.ndarray], measure: Callable[[np.ndarray, int], float], steps: int) -> np.ndarray:
    """Of every seed and plan, `[seeds, plans]`."""
    return np.array([[measure(seed, steps) for seed in own] for own in rows]).T


def _standard(values: np.ndarray) -> np.ndarray:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
