"""What the Python twins take as a config."""

from pathlib import Path

import pytest

import layerlens
from layerlens.config import OptimizationConfig, ProfilingConfig
from layerlens.errors import ConfigError
from layerlens.workflow.given import given_config


def test_a_config_is_taken_as_it_is_and_a_mapping_is_checked() -> None:
    config = ProfilingConfig(num_samples=8)
    assert given_config(ProfilingConfig, config) is config
    assert given_config(ProfilingConfig, {"num_samples": 8}) == config
    assert given_config(ProfilingConfig, {}) == ProfilingConfig()


def test_every_fault_of_a_mapping_is_named_in_one_line() -> None:
    with pytest.raises(ConfigError) as raised:
        given_config(ProfilingConfig, {"num_samples": 1, "sampels": 3}, name="config")
    assert "config: num_samples" in str(raised.value)
    assert "config: sampels" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [OptimizationConfig(max_trainable_params=5), "num_samples=8", 8])
def test_what_is_no_config_is_refused_by_its_type(given: object) -> None:
    with pytest.raises(ConfigError, match=f"not a {type(given).__name__}"):
        given_config(ProfilingConfig, given)


@pytest.mark.parametrize("name", ["profile", "plan", "race", "tune", "compress", "evaluate", "bench"])
def test_every_twin_refuses_a_wrong_mapping_before_it_looks_at_anything(name: str, tmp_path: Path) -> None:
    places = {"profile": 3, "plan": 2, "race": 2, "tune": 3, "compress": 3, "evaluate": 3, "bench": 1}[name]
    with pytest.raises(ConfigError, match="config: no_such_option"):
        getattr(layerlens, name)(*[tmp_path / "nothing"] * places, config={"no_such_option": 1})
