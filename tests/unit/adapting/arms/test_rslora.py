"""Rank-stabilised scaling, and nothing else, sets this arm apart from uniform."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft.tuners.lora import LoraLayer
from torch import nn

from layerlens.adapting.arms.ranks import uniform_plan, with_ranks
from tests.unit.adapting.arms.settings import after_training, made


def test_the_update_is_scaled_by_the_root_of_the_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = made(tmp_path)
    layers = [entry.layer for entry in setting.plan.layers]
    # Rank 4 everywhere and 5 on some: alpha is what LoRA has at rank 4.
    plan = with_ranks(setting.plan, dict.fromkeys(layers, 4) | {layers[0]: 5, layers[7]: 6})
    ranks = uniform_plan(plan, {}).ranks
    assert set(ranks.values()) == {4, 5}
    found: dict[str, tuple[int, float]] = {}

    def look(model: nn.Module) -> None:
        for path, module in model.named_modules():
            if isinstance(module, LoraLayer):
                found[path.removeprefix("base_model.model.")] = (module.r["default"], module.scaling["default"])

    after_training(monkeypatch, look)
    setting.run("uniform-rslora", "out", plan=plan)
    alpha = 4 * plan.alpha_over_rank
    assert found == {layer: (rank, pytest.approx(alpha / rank**0.5)) for layer, rank in ranks.items()}
