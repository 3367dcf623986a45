from __future__ import annotations

import re

import pytest

from examples.synthetic_profile import SyntheticProfile
from layerlens.budget.costs import limits_of
from layerlens.budget.feasible import check_feasible
from layerlens.config import OptimizationConfig
from layerlens.errors import ConfigError, InfeasibleBudgetError
from layerlens.words import Method
from tests.unit.budget.small_models import priced, small

FIELDS = {
    "--max-trainable-params": "max_trainable_params",
    "--max-flops": "max_flops",
    "--max-vram-gb": "max_vram_gb",
    "--latency-target-ms": "latency_target_ms",
    "--max-time-ratio": "max_time_ratio",
}


def message_of(options: dict[str, float], made: SyntheticProfile | None = None) -> str | None:
    config = OptimizationConfig.model_validate(options)
    _, prices = priced(made or small(), config)
    try:
        check_feasible(prices, limits_of(config), max_utilisation=config.max_utilisation)
    except InfeasibleBudgetError as error:
        return str(error)
    return None


TOO_SMALL = [
    {"max_trainable_params": 20},
    {"max_flops": 1000.0},
    {"max_vram_gb": 0.0001},
    {"latency_target_ms": 0.001},
    {"max_time_ratio": 0.1},
    {"max_trainable_params": 20, "max_vram_gb": 0.0001},
    {"max_trainable_params": 20, "max_utilisation": 0.9},
    {"max_time_ratio": 0.3, "max_utilisation": 0.7, "latency_target_ms": 0.001},
]


@pytest.mark.parametrize("options", TOO_SMALL)
def test_the_budget_that_the_message_names_is_enough_when_typed(options: dict[str, float]) -> None:
    message = message_of(options)
    assert message is not None
    assert "\n" not in message
    named = re.findall(r"(--[a-z-]+):? (?:[\d.e+-]+ is too small; the smallest feasible is )?([\d.]+)(?=$|[;,])", message)
    assert named
    typed = {FIELDS[flag]: float(value) for flag, value in named}
    assert set(typed) <= set(options)
    assert message_of({**options, **typed}) is None


def test_the_smallest_feasible_number_of_parameters_is_smallest() -> None:
    message = message_of({"max_trainable_params": 20})
    assert message == "--max-trainable-params: 20 is too small; the smallest feasible is 60"


def test_what_was_asked_and_what_would_do_are_in_the_unit_of_the_flag() -> None:
    message = message_of({"max_vram_gb": 0.00003})
    assert message is not None
    assert message.startswith("--max-vram-gb: 3e-05 is too small; the smallest feasible is 0.0")
    assert message_of({"max_trainable_params": 60}) is None
    assert message_of({"max_trainable_params": 59}) is not None


def test_budgets_that_exclude_each_other_name_what_one_option_needs() -> None:
    made = small()
    # One layer is cheap in latency, and it lies in the first block, which the time budget rules out.
    first = made.profile.layers[0].layer
    latency = {
        layer: line.model_copy(update={"intercept_ms": 0.0}) if layer == first else line
        for layer, line in made.timing.latency.items()
    }
    made = SyntheticProfile(made.profile, made.arrays, made.timing.model_copy(update={"latency": latency}))
    options = {"latency_target_ms": 0.001, "max_time_ratio": 0.5}
    for alone in options:
        assert message_of({alone: options[alone]}, made) is None
    message = message_of(options, made)
    assert message is not None
    assert message.startswith("no option fits all budgets at once; the nearest one needs ")
    named = re.findall(r"(--[a-z-]+) ([\d.]+)", message)
    assert message_of({FIELDS[flag]: float(value) for flag, value in named}, made) is None


def test_a_batch_whose_costs_cannot_be_added_up_exactly_is_refused() -> None:
    for batch, length in ((10**12, None), (16, 10**30)):
        with pytest.raises(ConfigError, match=r"^--batch-size .* cannot be added up exactly"):
            message_of({"max_vram_gb": 1, "batch_size": batch, "length": length})
    assert message_of({"max_vram_gb": 1, "batch_size": 10**7}) is not None


def test_no_option_anywhere_is_a_fault_of_the_options() -> None:
    made = small()
    config = OptimizationConfig(
        max_trainable_params=1000, min_rank=30, max_rank=30, candidate_methods=[Method.PREFIX, Method.NONE]
    )
    _, prices = priced(made, config)
    check_feasible(prices, limits_of(config))
    no_prefix = made.profile.model_copy(
        update={"blocks": [block.model_copy(update={"attention": None}) for block in made.profile.blocks]}
    )
    with pytest.raises(ConfigError, match="leave prefix out of --methods"):
        priced(SyntheticProfile(no_prefix, made.arrays, made.timing), config)
    mixed = config.model_copy(update={"candidate_methods": [Method.LORA, Method.NONE], "min_rank": 60, "max_rank": 60})
    _, prices = priced(made, mixed)
    with pytest.raises(ConfigError, match="no layer can take any of the methods"):
        check_feasible(prices, limits_of(mixed))
