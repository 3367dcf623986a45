"""Raw metrics of all layers to the records of the profile: normalised, weighed into the utility, logged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from layerlens.artifacts.layers import LayerSpec
from layerlens.artifacts.profile import LayerProfile
from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.profiling.normalisation import normalise, utility
from layerlens.profiling.proxies import Proxies

logger = logging.getLogger(__name__)


def weights_of(config: ProfilingConfig, proxies: Proxies | None) -> dict[str, float]:
    """Weight of each metric that enters the utility.

    `proxy_eval` enters only where it was measured, and where it was blind only if nothing else has a weight.

    Raises:
        ConfigError: No metric with a weight is left.
    """
    weights = {name: config.metric_weights[name] for name in config.metrics if proxies or name != "proxy_eval"}
    others = {name: weight for name, weight in weights.items() if name != "proxy_eval"}
    if proxies and proxies.settings.is_blind and sum(others.values()) > 0.0:
        return others
    if sum(weights.values()) <= 0.0:
        raise ConfigError(
            f"no metric with a weight is left of {', '.join(config.metrics)}: proxies are off, as in every streamed profile, "
            "or the samples too few for them; add gradient_energy or fisher to metrics"
        )
    return weights


def proxy_warnings(config: ProfilingConfig, proxies: Proxies | None) -> list[str]:
    """What a person should know about the proxies' part in the utility."""
    if "proxy_eval" not in config.metrics:
        return []
    if proxies is None:
        return ["proxy_eval was not measured; the utility is the weighted mean of the other metrics"]
    if not proxies.settings.is_blind:
        return []
    measured = [proxies.values[layer] for layer in sorted(proxies.measured)]
    return [
        f"the proxies are blind: a mean drop of {sum(measured) / len(measured):.2g} nats after {proxies.settings.steps} steps on "
        f"{proxies.settings.train_samples} samples is within noise, so proxy_eval has no say in the utility; raise proxy_steps, "
        "proxy_batch_size and proxy_held_out, or leave it to the race"
    ]


def idle_warnings(records: Sequence[LayerProfile]) -> list[str]:
    """Name the layers that plans will leave out because no gradient came to them."""
    idle = [record.layer for record in records if record.is_idle]
    if not idle or len(idle) == len(records):
        return []
    others = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
    return [f"no gradient came to {idle[0]}{others} on any sample; plans leave out what is never used"]


def layer_records(
    layers: Sequence[LayerSpec],
    raw: Mapping[str, Mapping[str, float]],
    proxies: Proxies | None,
    input_groups: Mapping[str, str],
    weights: Mapping[str, float],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]],
) -> list[LayerProfile]:
    """Build each layer's record.

    Args:
        layers: Planned layers.
        raw: Metrics of the pass, by layer.
        proxies: `proxy_eval` of every layer, or None.
        input_groups: By layer, the first layer seen to read the same input.
        weights: Of each metric in the utility.
        intervals: By layer, 95 % intervals of metrics and utility.
    """
    complete = {
        spec.layer: dict(raw[spec.layer]) | ({"proxy_eval": proxies.values[spec.layer]} if proxies else {}) for spec in layers
    }
    by_metric = {
        metric: normalise({layer: values[metric] for layer, values in complete.items()}, metric)
        for metric in ("gradient_energy", "fisher", *(["proxy_eval"] if proxies else []))
    }
    records = []
    for spec in layers:
        normalised = {metric: values[spec.layer] for metric, values in by_metric.items()}
        source = "none" if proxies is None else "measured" if spec.layer in proxies.measured else "interpolated"
        record = LayerProfile(
            **spec.model_dump(exclude={"input_group"}),
            input_group=input_groups.get(spec.layer, spec.input_group),
            metrics=complete[spec.layer],
            normalised=normalised,
            utility=utility(normalised, weights),
            proxy_source=source,
            intervals=dict(intervals.get(spec.layer, {})),
        )
        logger.debug("%s: raw %s, normalised %s, utility %.4f", spec.layer, record.metrics, normalised, record.utility)
        records.append(record)
    return records
