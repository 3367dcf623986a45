"""What the package loads by name takes a path as a person types it, as the commands' twins do."""

from __future__ import annotations

from pathlib import Path

import layerlens
from layerlens.artifacts.compression import save_compression_plan
from layerlens.artifacts.plan import save_plan
from layerlens.artifacts.profile import save_profile
from layerlens.budget.compression import plan_compression
from layerlens.config import CompressConfig
from tests.unit.budget import small_curves, small_models
from tests.unit.reporting import artifacts


def test_loaders_take_strings(tmp_path: Path) -> None:
    plan, made = artifacts.plan(), small_models.small()
    compressed = plan_compression(small_curves.small(), CompressConfig(bits_per_weight=5)).plan
    save_plan(tmp_path / "plan.json", plan)
    save_profile(tmp_path / "profile", made.profile, made.arrays, made.timing)
    save_compression_plan(tmp_path / "small", compressed)
    assert layerlens.load_plan(f"{tmp_path}/plan.json") == plan
    assert layerlens.load_profile(f"{tmp_path}/profile")[0] == made.profile
    assert layerlens.load_compression_plan(f"{tmp_path}/small") == compressed
