"""PEFT takes the config as it is, and makes exactly the plan of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from layerlens.adapting.lora import lora_config
from layerlens.exporting.exported import Tool
from layerlens.exporting.run import write_export
from tests.unit.exporting.plans import made, planned, realised, trained

#: PEFT reads a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "vit"])
def test_the_config_loads_and_trains_exactly_the_plan(family: str, tmp_path: Path) -> None:
    task_model, plan = made(family, tmp_path / "model", alpha_over_rank=1.5)
    write_export(plan, Tool.PEFT, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["adapter_config.json"]
    config = LoraConfig.from_pretrained(str(tmp_path / "out"))
    model = get_peft_model(task_model.model, config)
    assert realised(model) == planned(plan)
    assert trained(model) == plan.params + plan.head_params
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "model"
    )


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_config_is_the_one_that_tuning_uses(family: str, tmp_path: Path) -> None:
    _, plan = made(family, tmp_path / "model")
    write_export(plan, Tool.PEFT, tmp_path / "out")
    mine, theirs = LoraConfig.from_pretrained(str(tmp_path / "out")), lora_config(plan, is_transposed=family == "gpt2")
    mine.base_model_name_or_path = None
    for config in (mine, theirs):
        config.target_modules = sorted(config.target_modules)
    assert mine.to_dict() == theirs.to_dict()


def test_what_a_server_needs_is_said(tmp_path: Path) -> None:
    _, plan = made("bert", tmp_path / "model")
    said = " ".join(write_export(plan, Tool.PEFT, tmp_path / "out").notes)
    assert "alpha / rank is 2 in every layer and rsLoRA is off" in said
    assert "rank 3" in said
    assert "vLLM takes no adapter with trained modules (bert.pooler, classifier)" in said
