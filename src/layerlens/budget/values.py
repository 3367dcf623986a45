"""What an option is believed to be worth, under each value model.

whitened   the cross-fitted gain of the layer's best rank-r update, nats (`curves/cross_fitted_gain.py`), times its share in a
           joint plan: half for the layers that read attention's input, 1 for all others (the default)
utility    utility · log(1 + r) / log(1 + R): a score in [0, 1] with diminishing returns, R the largest rank
proxy      measured gain of a small adapter after a few steps, clipped at zero, with the same diminishing returns

Adapters and prefixes have no theory of their own yet. They take a share of what a LoRA of as many parameters
is worth on the same layer (adapter) or on the layers of the same attention, on average (prefix): the share that the profile's
proxies measured at a few sites, or a cautious one where it has none.

A method's penalty divides its values. With objective weights other than utility's, values are divided by their largest
possible sum and multiplied by utility's weight, and each cost is subtracted as weight × share of its budget (of full
fine-tuning where no budget is set): here what an option adds of its own, in `shared_costs` what options share. With utility
alone nothing is rescaled: values stay in the unit above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from layerlens.artifacts.profile import LayerProfile, Profile
from layerlens.budget.costs import CostModel, in_units, limits_of
from layerlens.budget.sites import PlanSite
from layerlens.config import OptimizationConfig
from layerlens.words import BudgetName, Method, Role

#: What the gain of a layer that makes queries, keys or values counts for beside other layers' gains. Gains do not add: what these
#: layers can repair, attention's output and the MLP can repair too. On two models, 29 plans each, half of it takes the rank
#: correlation of summed gains with final losses from .54 to .84 and from .61 to .82 (benchmarks/predicted_gain.py).
ATTENTION_INPUT_SHARE = 0.5
_ATTENTION_INPUTS = frozenset({Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE, Role.ATTENTION_QKV})
#: What an adapter or prefix is believed to be worth beside a LoRA of as many parameters, where that was not measured.
STAND_IN_SHARE = 0.5
COST_OF_TERM = {
    "cost": BudgetName.TRAINABLE_PARAMS,
    "flops": BudgetName.FLOPS,
    "vram": BudgetName.VRAM_BYTES,
    "latency": BudgetName.LATENCY_MS,
}


class ValueModel(StrEnum):
    """How an option is valued."""

    WHITENED = "whitened"
    UTILITY = "utility"
    PROXY = "proxy"


def value_models(profile: Profile) -> list[ValueModel]:
    """The models that this profile can feed, the default first."""
    has_proxy = profile.proxy is not None
    return [ValueModel.WHITENED, ValueModel.UTILITY, *([ValueModel.PROXY] if has_proxy else [])]


def site_values(
    model: ValueModel,
    sites: Sequence[PlanSite],
    profile: Profile,
    arrays: Mapping[str, np.ndarray],
    config: OptimizationConfig,
    costs: CostModel,
) -> list[Float[np.ndarray, " _"]]:
    """Value of every option of every site, none (0) first, in the order of the site's sizes."""
    curves = {layer.layer: _lora_curve(model, layer, arrays) for layer in profile.layers}
    layers = {layer.layer: layer.in_features + layer.out_features for layer in profile.layers}
    values = []
    for site in sites:
        if site.method is Method.LORA:
            found = [_at(curves[site.layer], size) for size in site.sizes]
        else:
            found = [
                share_of_lora(profile, site.method)
                * sum(_at(curves[member], site.params(size) / layers[member]) for member in site.members)
                / max(1, len(site.members))
                for size in site.sizes
            ]
        penalty = config.method_penalties.get(site.method, 1.0)
        values.append(np.array([0.0, *(value / penalty for value in found)]))
    return _weighed(values, sites, config, costs)


def measured_shares(profile: Profile) -> dict[Method, float]:
    """What the profile's proxies found a method worth, as a share of a LoRA of as many parameters; empty without proxies."""
    return profile.proxy.method_shares if profile.proxy is not None else {}


def share_of_lora(profile: Profile, method: Method) -> float:
    """The share of a LoRA's value that a bottleneck or prefix of as many parameters is believed to have."""
    return measured_shares(profile).get(method, STAND_IN_SHARE)


def joint_share(role: Role) -> float:
    """What the gain of a layer alone counts for in a plan of many layers."""
    return ATTENTION_INPUT_SHARE if role in _ATTENTION_INPUTS else 1.0


def _lora_curve(model: ValueModel, layer: LayerProfile, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cumulative value at rank 1 … R of one layer."""
    gains = np.asarray(arrays[f"gain/{layer.layer}"], dtype=np.float64)
    if model is ValueModel.WHITENED:
        return joint_share(layer.role) * gains
    score = layer.utility if model is ValueModel.UTILITY else max(0.0, layer.metrics.get("proxy_eval", 0.0))
    ranks = np.arange(1, len(gains) + 1)
    return score * np.log1p(ranks) / math.log1p(len(gains))


def _at(curve: np.ndarray, rank: float) -> float:
    """Value at a rank that need not be whole: linear between ranks and from 0, constant beyond the curve's end."""
    return float(np.interp(rank, np.arange(len(curve) + 1), np.concatenate([[0.0], curve])))


def cost_rates(config: OptimizationConfig, costs: CostModel) -> dict[BudgetName, float]:
    """The value that one integer unit of a weighted cost takes away: its weight over its budget, or over full fine-tuning."""
    if not config.is_weighted:
        return {}
    limits, full = limits_of(config), costs.full()
    wholes = {name: in_units(name, limits[name]) if name in limits else full[name] for name in costs.names}
    named = {COST_OF_TERM[term]: weight for term, weight in config.objective_weights.items() if term in COST_OF_TERM}
    return {name: weight / max(wholes[name], 1) for name, weight in named.items() if weight > 0 and name in wholes}


def _weighed(
    values: list[np.ndarray], sites: Sequence[PlanSite], config: OptimizationConfig, costs: CostModel
) -> list[np.ndarray]:
    if not config.is_weighted:
        return values
    total = sum(float(entry.max()) for entry in values) or 1.0
    rates = cost_rates(config, costs)
    weighed = []
    for site, entry in zip(sites, values, strict=True):
        result = config.objective_weights["utility"] * entry / total
        priced = costs.options(site, site.sizes)
        for name, rate in rates.items():
            result[1:] -= rate * priced[name]
        weighed.append(result)
    return weighed
