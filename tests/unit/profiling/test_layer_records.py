"""Raw metrics become records: normalised once, weighed, logged."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from layerlens.artifacts.layers import LayerSpec
from layerlens.artifacts.profile import ProxySettings
from layerlens.config import ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.profiling.layer_records import idle_warnings, layer_records, proxy_warnings, weights_of
from layerlens.profiling.proxies import Proxies
from layerlens.words import Role

SPECS = [LayerSpec(layer=name, block=0, role=Role.OTHER, in_features=2, out_features=3, input_group=name) for name in ("a", "b")]
RAW = {
    "a": {"gradient_energy": 4.0, "fisher": 9.0, "gradient_norm_squared": 5.0},
    "b": {"gradient_energy": -1.0, "fisher": 36.0, "gradient_norm_squared": 1.0},
}
PROXIES = Proxies(
    values={"a": 0.5, "b": 1.0},
    measured=frozenset({"b"}),
    settings=ProxySettings(
        rank=1, steps=1, learning_rate=1.0, train_samples=1, held_out_samples=1, is_complete=False, num_measured=1
    ),
)
WEIGHTS = {"gradient_energy": 0.4, "fisher": 0.4, "proxy_eval": 0.2}


def test_records_hold_raw_and_normalised_metrics_and_their_weighted_mean() -> None:
    first, second = layer_records(SPECS, RAW, PROXIES, {"a": "a", "b": "a"}, WEIGHTS, {"a": {"fisher": (1.0, 2.0)}})
    assert first.intervals == {"fisher": (1.0, 2.0)}
    assert second.intervals == {}
    assert first.metrics == RAW["a"] | {"proxy_eval": 0.5}
    assert first.normalised == {"gradient_energy": 1.0, "fisher": 0.5, "proxy_eval": 0.5}
    assert first.utility == pytest.approx(0.4 + 0.2 + 0.1)
    assert second.metrics["gradient_energy"] == -1.0
    assert second.normalised == {"gradient_energy": 0.0, "fisher": 1.0, "proxy_eval": 1.0}
    assert second.utility == pytest.approx(0.6)
    assert (first.proxy_source, second.proxy_source) == ("interpolated", "measured")
    assert second.input_group == "a"


def test_without_proxies_the_other_metrics_carry_the_weight() -> None:
    weights = weights_of(ProfilingConfig(), None)
    assert weights == {"gradient_energy": 0.4, "fisher": 0.4}
    first, _ = layer_records(SPECS, RAW, None, {}, weights, {})
    assert first.utility == pytest.approx(0.75)
    assert first.proxy_source == "none"
    assert "proxy_eval" not in first.normalised


def test_layers_that_no_gradient_came_to_are_named_once() -> None:
    idle = dict.fromkeys(RAW["a"], 0.0)
    live, dead = layer_records(SPECS, {"a": RAW["a"], "b": idle}, None, {}, {"fisher": 1.0}, {})
    assert (live.is_idle, dead.is_idle) == (False, True)
    assert idle_warnings([live]) == []
    (warning,) = idle_warnings([dead, live, dead])
    assert warning.startswith("no gradient came to b and 1 more on any sample")
    # A model of which nothing learns has another trouble, and a warning of its own.
    assert idle_warnings([dead, dead]) == []


def test_blind_proxies_have_no_say_unless_nothing_else_has_and_a_warning_says_so() -> None:
    blind = replace(PROXIES, settings=PROXIES.settings.model_copy(update={"is_blind": True}))
    assert weights_of(ProfilingConfig(), PROXIES) == WEIGHTS
    assert weights_of(ProfilingConfig(), blind) == {"gradient_energy": 0.4, "fisher": 0.4}
    assert weights_of(ProfilingConfig(metrics=["proxy_eval"]), blind) == {"proxy_eval": 0.2}
    assert proxy_warnings(ProfilingConfig(), PROXIES) == []
    (warning,) = proxy_warnings(ProfilingConfig(), blind)
    assert "a mean drop of 1 nats after 1 steps on 1 samples is within noise" in warning
    assert proxy_warnings(ProfilingConfig(metrics=["fisher"]), blind) == []


def test_nothing_left_to_weigh_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no metric with a weight is left of proxy_eval"):
        weights_of(ProfilingConfig(metrics=["proxy_eval"]), None)
    weightless = ProfilingConfig(metric_weights={"gradient_energy": 0.0, "fisher": 0.0, "proxy_eval": 1.0})
    with pytest.raises(ConfigError, match="add gradient_energy or fisher"):
        weights_of(weightless, None)


def test_debug_logging_shows_every_layer(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="layerlens"):
        layer_records(SPECS, RAW, PROXIES, {}, WEIGHTS, {})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert all(word in lines[0] for word in ("a: raw", "gradient_energy", "normalised", "utility 0.7"))
