"""axolotl's file holds its own keys, and what axolotl makes of them is the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig, TaskType, get_peft_model

from layerlens.exporting.axolotl import FILE
from layerlens.exporting.exported import Tool
from layerlens.exporting.run import write_export
from tests.unit.exporting.plans import made, planned, realised, trained

#: PEFT reads a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Keys of axolotl 0.19.0's schema (`utils/schemas/`) that a file of ours may have, with their types.
SCHEMA: dict[str, type | tuple[type, ...]] = {
    "base_model": str,
    "datasets": list,
    "adapter": str,
    "lora_r": int,
    "lora_alpha": int,
    "lora_dropout": float,
    "lora_target_modules": list,
    "lora_rank_pattern": dict,
    "lora_alpha_pattern": dict,
    "lora_fan_in_fan_out": bool,
    "peft_use_rslora": bool,
    "sequence_len": int,
    "micro_batch_size": int,
    "gradient_accumulation_steps": int,
    "num_epochs": (int, float),
    "learning_rate": float,
    "lr_scheduler": str,
    "optimizer": str,
    "output_dir": str,
}


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    return content


def _as_axolotl_does(content: dict[str, Any]) -> LoraConfig:
    """`loaders/adapter.py`, `_build_peft_lora_config` and `_build_lora_config_kwargs`, at 0.19.0."""
    patterns = {name: content[f"lora_{name}"] for name in ("rank_pattern", "alpha_pattern") if f"lora_{name}" in content}
    return LoraConfig(
        r=content["lora_r"],
        lora_alpha=content["lora_alpha"],
        target_modules=content["lora_target_modules"],
        lora_dropout=content["lora_dropout"],
        fan_in_fan_out=content.get("lora_fan_in_fan_out"),
        modules_to_save=None,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
        **patterns,
    )


@pytest.mark.parametrize("ranks", [None, 2], ids=["ranks differ", "one rank"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_axolotl_makes_of_the_file_is_the_plan(family: str, ranks: int | None, tmp_path: Path) -> None:
    task_model, plan = made(family, tmp_path / "model", ranks)
    exported = write_export(plan, Tool.AXOLOTL, tmp_path / "out")
    content = _read(tmp_path / "out")
    model = get_peft_model(task_model.model, _as_axolotl_does(content))
    assert realised(model) == planned(plan)
    assert trained(model) == plan.params
    assert ("lora_rank_pattern" in content) == (ranks is None)
    assert exported.notes[0] == "nothing of the plan is lost"


def test_every_key_is_one_of_axolotls_and_of_its_type(tmp_path: Path) -> None:
    _, plan = made("gpt2", tmp_path / "model")
    write_export(plan, Tool.AXOLOTL, tmp_path / "out")
    content = _read(tmp_path / "out")
    assert {name for name, value in content.items() if not isinstance(value, SCHEMA.get(name, ()))} == set()
    alphas = content["lora_alpha_pattern"].values()
    assert all(isinstance(alpha, int) and alpha > 0 for alpha in alphas)
    first = (tmp_path / "out" / FILE).read_text().splitlines()[0]
    assert first == f"# Written by `layerlens export`: 6 layers, ranks 1 to 3, {plan.params:,} adapter parameters."


def test_axolotls_own_schema_takes_the_file(tmp_path: Path) -> None:
    schema = pytest.importorskip("axolotl.utils.schemas.config", reason="axolotl is not installed")
    _, plan = made("llama", tmp_path / "model")
    write_export(plan, Tool.AXOLOTL, tmp_path / "out")
    read = schema.AxolotlInputConfig(**_read(tmp_path / "out"))
    assert len(read.lora_rank_pattern) == len(plan.ranks)
