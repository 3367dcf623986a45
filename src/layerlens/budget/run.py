"""From a profile to a plan with its proof, its reasons and its candidates. No torch; milliseconds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from layerlens.artifacts.plan import OPTIMUM, Budget, Chosen, ParetoPoint, Plan, PlanLayer, PlanMetadata, Solver
from layerlens.artifacts.profile import Profile, Timing
from layerlens.artifacts.versions import installed_versions
from layerlens.budget.candidates import Candidate, distinct, structured, uniform_candidate
from layerlens.budget.costs import TIMED, CostModel, cost_model, from_units, limits_of
from layerlens.budget.explain import explain
from layerlens.budget.feasible import check_feasible
from layerlens.budget.mixed_candidates import mixed
from layerlens.budget.notes import assumptions_of, light_latency, notes_of
from layerlens.budget.optimum import optimise
from layerlens.budget.prices import PriceList
from layerlens.budget.shared_costs import SharedCosts
from layerlens.budget.sites import PlanSite, plan_sites, rank_range
from layerlens.budget.values import COST_OF_TERM, ValueModel, cost_rates, site_values, value_models
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError
from layerlens.words import BudgetName, Method

log = logging.getLogger(__name__)

#: Points of the trade-off between budget and predicted value, as multiples of the parameters in question.
PARETO_STEPS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)


@dataclass(frozen=True)
class Instance:
    """One planning problem: sites, their values under the default model, prices and limits (already scaled)."""

    profile: Profile
    config: OptimizationConfig
    prices: PriceList
    values: list[Float[np.ndarray, " _"]]
    costs: CostModel
    limits: dict[BudgetName, float]
    shared: SharedCosts

    def value_of(self, sizes: Int[np.ndarray, " sites"]) -> list[float]:
        """Value of each site's choice under the default value model."""
        return [float(entry[at]) for entry, at in zip(self.values, self.prices.choice(sizes).tolist(), strict=True)]

    def total_of(self, sizes: Int[np.ndarray, " sites"]) -> float:
        """Value of a whole plan, less what objective weights subtract for costs that its options share."""
        return math.fsum([*self.value_of(sizes), -self.shared.total(self.prices, sizes)])


def make_plan(
    profile: Profile,
    arrays: Mapping[str, np.ndarray],
    timing: Timing | None,
    config: OptimizationConfig,
    *,
    profile_path: str,
    command: str,
) -> tuple[Plan, dict[str, Plan]]:
    """Plan a model.

    Args:
        profile: What was measured.
        arrays: `gain/<layer>`: cumulative gain at rank 1 … R, nats.
        timing: Measured seconds; needed by latency and time budgets alone.
        config: Budgets and preferences.
        profile_path: The profile's folder as given, for the record.
        command: The invocation, for the record.

    Returns:
        The exact optimum under the default value model, and every candidate by name, `uniform` among them.

    Raises:
        ConfigError: a latency or time budget, or a weight of latency, without measured times, or no rank that is allowed.
        InfeasibleBudgetError: nothing fits; the smallest feasible budgets are named.
    """
    costs = cost_model(profile, timing, config)
    asked = limits_of(config)
    if timing is None:
        _refuse_timed(asked, config)
    limits = {name: limit * config.max_utilisation for name, limit in asked.items()}
    sites = plan_sites(profile, config)
    prices = PriceList.of(costs, sites)
    check_feasible(prices, asked, max_utilisation=config.max_utilisation)
    models = value_models(profile)
    values = {model: site_values(model, sites, profile, arrays, config, costs) for model in models}
    shared = SharedCosts.of(prices, cost_rates(config, costs))
    instance = Instance(profile, config, prices, values[ValueModel.WHITENED], costs, limits, shared)
    optima = {model: optimise(prices, values[model], limits, shared) for model in models}
    best = optima[ValueModel.WHITENED]
    ranks = rank_range(profile, config)
    uniform, reach = uniform_candidate(prices, ranks, limits) if _has_lora(config) else (None, 0)
    shapes = list(structured(prices, ranks, limits, reach=reach)) if _has_lora(config) else []
    uniform_value = None if uniform is None else instance.total_of(uniform.sizes)
    solver = Solver(status=best.status, value=best.value, bound=best.bound, gap=best.gap, uniform_value=uniform_value)
    front = [Candidate(f"optimum-{model.value}", optimum.sizes) for model, optimum in optima.items()]
    shapes += mixed(prices, config.candidate_methods, limits)
    # Plans as deep as budgets reach are never thinned out.
    shapes.sort(key=lambda shape: not shape.is_deepest)
    ordered = ([uniform] if uniform else []) + front + shapes
    deepest = len(ordered) - sum(not shape.is_deepest for shape in shapes)
    kept = distinct(ordered, sites, limit=config.max_candidates, kept_first=deepest, apart={OPTIMUM})
    pareto = _pareto(instance)
    longest = max(len(arrays[f"gain/{layer.layer}"]) for layer in profile.layers)
    record = _Record(
        instance,
        solver,
        pareto,
        asked,
        profile_path,
        profile.identity,
        command,
        installed_versions("numpy", "scipy"),
        longest,
        reach,
    )
    # Where no layer shows a gain beyond noise there is nothing to optimise, and adapting nothing would be no plan.
    plain = uniform or next(iter(shapes), None)
    first = record.plan(front[0] if front[0].sizes.any() or plain is None else plain)
    _log(profile, first.layers)
    return first, {candidate.name: record.plan(candidate) for candidate in kept}


def _refuse_timed(asked: Mapping[BudgetName, float], config: OptimizationConfig) -> None:
    """Refuse what only measured times could price."""
    weighted = (term for term, name in COST_OF_TERM.items() if name in TIMED and config.objective_weights.get(term))
    if timed := [*sorted(TIMED & set(asked)), *(f"objective_weights {term}" for term in weighted)]:
        raise ConfigError(f"{', '.join(timed)}: the profile has no timing.json, which this needs; profile again")


@dataclass(frozen=True)
class _Record:
    """What every plan of one run shares."""

    instance: Instance
    solver: Solver
    pareto: list[ParetoPoint]
    asked: dict[BudgetName, float]
    profile_path: str
    profile_identity: str
    command: str
    versions: dict[str, str]
    longest_curve: int
    reach: int

    def plan(self, candidate: Candidate) -> Plan:
        instance = self.instance
        prices, sizes, costs, profile = instance.prices, candidate.sizes, instance.costs, instance.profile
        values = instance.value_of(sizes)
        shared = instance.shared if instance.config.is_weighted else None
        explained = explain(prices, sizes, instance.values, instance.limits, shared=shared)
        spent = prices.price(sizes)
        budgets = {name: Budget(limit=self.asked.get(name), spent=from_units(name, spent[name])) for name in costs.names}
        layers = [
            _layer(site, int(size), value, reason, costs)
            for site, size, value, reason in zip(prices.sites, sizes, values, explained.reasons, strict=True)
        ]
        adapted = [layer.block or 0 for layer in layers if layer.size]
        return Plan(
            model=profile.model,
            task=profile.task,
            budgets=budgets,
            solver=self.solver,
            chosen=Chosen(name=candidate.name, value=instance.total_of(sizes)),
            alpha_over_rank=instance.config.alpha_over_rank,
            layers=layers,
            shared_cost=instance.shared.total(prices, sizes),
            head=profile.head,
            head_params=profile.model.head_parameters,
            depth_cut=min(adapted, default=0),
            reach=self.reach,
            pareto=self.pareto,
            metadata=PlanMetadata(
                gradient_norms={
                    layer.layer: math.sqrt(max(0.0, layer.metrics.get("gradient_energy", 0.0))) for layer in profile.layers
                },
                fisher_traces={layer.layer: layer.metrics.get("fisher", 0.0) for layer in profile.layers},
                command=self.command,
                versions=self.versions,
                seed=profile.seed,
                profile=self.profile_path,
                profile_identity=self.profile_identity,
                metric_weights=profile.metric_weights,
                optimization=instance.config.model_dump(mode="json"),
                assumptions=assumptions_of(profile, costs, instance.config),
                notes=[
                    *notes_of(
                        profile,
                        instance.config,
                        candidate.name,
                        layers,
                        budgets,
                        self.solver,
                        self.longest_curve,
                        explained.stopped_by,
                    ),
                    *light_latency(instance.config, costs, prices),
                ],
            ),
        )


def _layer(site: PlanSite, size: int, value: float, reason: str, costs: CostModel) -> PlanLayer:
    price = costs.option(site, size) if size else {}
    kept = costs.kept_input(site) if size else 0
    return PlanLayer(
        layer=site.layer,
        block=site.block,
        role=site.role,
        site=site.site,
        method=site.method if size else Method.NONE,
        size=size,
        utility=site.utility,
        value=value,
        params=site.params(size),
        flops=float(price.get(BudgetName.FLOPS, 0)),
        vram_bytes=float(price.get(BudgetName.VRAM_BYTES, 0) + kept),
        latency_ms=from_units(BudgetName.LATENCY_MS, price.get(BudgetName.LATENCY_MS, 0)),
        why=reason,
        in_features=site.in_features,
        out_features=site.out_features,
        kv_features=site.kv_features,
    )


def _pareto(instance: Instance) -> list[ParetoPoint]:
    """Best and uniform predicted value at other parameter budgets, everything else as it is."""
    limits, sites = instance.limits, instance.prices.sites
    largest = sum(site.params(site.sizes[-1]) for site in sites if site.sizes)
    reference = limits.get(BudgetName.TRAINABLE_PARAMS, float(largest))
    smallest = min(site.params(site.sizes[0]) for site in sites if site.sizes)
    points = []
    for step in PARETO_STEPS:
        limit = math.floor(reference * step)
        if limit < smallest or (step > 1 and reference * step > 4 * largest):
            continue
        here = {**limits, BudgetName.TRAINABLE_PARAMS: float(limit)}
        best = optimise(instance.prices, instance.values, here, instance.shared)
        uniform = _uniform(instance, here)
        points.append(
            ParetoPoint(
                limit=float(limit),
                value=best.value,
                uniform_value=None if uniform is None else instance.total_of(uniform),
            )
        )
    return points


def _uniform(instance: Instance, limits: dict[BudgetName, float]) -> Int[np.ndarray, " sites"] | None:
    if not _has_lora(instance.config):
        return None
    ranks = rank_range(instance.profile, instance.config)
    found, _ = uniform_candidate(instance.prices, ranks, limits)
    return None if found is None else found.sizes


def _has_lora(config: OptimizationConfig) -> bool:
    return Method.LORA in config.candidate_methods


def _log(profile: Profile, layers: Sequence[PlanLayer]) -> None:
    """Raw metric, normalised metric, utility and chosen option of each layer, for those who debug."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    chosen = {(layer.layer, layer.site): layer for layer in layers}
    for record in profile.layers:
        raw = " ".join(f"{name}={value:.4g}" for name, value in record.metrics.items())
        normalised = " ".join(f"{name}={value:.4f}" for name, value in record.normalised.items())
        options = [f"{entry.method} {entry.size}" for (layer, _), entry in chosen.items() if layer == record.layer]
        log.debug(
            "%s: raw %s; normalised %s; utility=%.4f; %s", record.layer, raw, normalised, record.utility, ", ".join(options)
        )
