"""LLaMA-Factory's file holds its own keys; ranks that differ come from the adapter beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from layerlens.exporting.exported import Tool
from layerlens.exporting.llama_factory import FILE
from layerlens.exporting.run import write_export
from tests.unit.exporting.plans import PREFIX, made, planned, realised, trained

#: PEFT reads a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Keys of LLaMA-Factory 0.9.5 (`hparams/`) and of the Trainer's arguments that a file of ours may have.
KEYS = {
    *("model_name_or_path", "adapter_name_or_path", "stage", "do_train", "finetuning_type"),
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora"),
    *("dataset", "dataset_dir", "cutoff_len"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type"),
    "output_dir",
}


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_adapter_beside_the_file_trains_exactly_the_plan_and_starts_at_the_base(family: str, tmp_path: Path) -> None:
    task_model, plan = made(family, tmp_path / "model")
    write_export(plan, Tool.LLAMA_FACTORY, tmp_path / "out")
    content = _read(tmp_path / "out")
    tokens = torch.arange(12).reshape(2, 6) + 5
    with torch.no_grad():
        base = task_model.model(input_ids=tokens).logits
        # As `model/adapter.py` does where it is given an adapter to train on.
        model = PeftModel.from_pretrained(
            task_model.model, str(tmp_path / "out" / content["adapter_name_or_path"]), is_trainable=True
        )
        assert torch.equal(model(input_ids=tokens).logits, base)
    assert realised(model) == planned(plan)
    assert trained(model) == plan.params


def test_the_start_is_pefts_own_and_the_same_each_time(tmp_path: Path) -> None:
    task_model, plan = made("llama", tmp_path / "model")
    for name in ("first", "second"):
        write_export(plan, Tool.LLAMA_FACTORY, tmp_path / name)
    weights = [tmp_path / name / "start" / "adapter_model.safetensors" for name in ("first", "second")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    tensors = load_file(weights[0])
    assert tensors.keys() == {f"{PREFIX}{layer}.lora_{side}.weight" for layer in plan.ranks for side in "AB"}
    torch.manual_seed(0)
    theirs = get_peft_model(task_model.model, LoraConfig(r=64, target_modules=sorted(plan.ranks)))
    for layer in plan.ranks:
        mine, bound = (
            tensors[f"{PREFIX}{layer}.lora_A.weight"],
            theirs.get_submodule(f"{PREFIX}{layer}").lora_A["default"].weight.detach(),
        )
        assert mine.abs().max() <= bound.abs().max() * 1.01
        assert float(mine.std()) == pytest.approx(float(bound.std()), rel=0.25)
        assert not tensors[f"{PREFIX}{layer}.lora_B.weight"].any()


def test_without_the_folder_the_file_says_what_is_lost(tmp_path: Path) -> None:
    task_model, plan = made("llama", tmp_path / "model")
    said = " ".join(write_export(plan, Tool.LLAMA_FACTORY, tmp_path / "out").notes)
    content = _read(tmp_path / "out")
    assert set(content) <= KEYS
    one_rank = LoraConfig(
        r=content["lora_rank"], lora_alpha=content["lora_alpha"], target_modules=content["lora_target"].split(",")
    )
    lost = trained(get_peft_model(task_model.model, one_rank))
    assert f"rank 3 in every layer, {lost:,} parameters in place of {plan.params:,}" in said
    assert said in " ".join(line.removeprefix("# ") for line in (tmp_path / "out" / FILE).read_text().splitlines())


def test_one_rank_needs_no_folder(tmp_path: Path) -> None:
    task_model, plan = made("llama", tmp_path / "model", 2)
    exported = write_export(plan, Tool.LLAMA_FACTORY, tmp_path / "out")
    content = _read(tmp_path / "out")
    assert exported.files.keys() == {FILE}
    assert "adapter_name_or_path" not in content
    config = LoraConfig(
        r=content["lora_rank"], lora_alpha=content["lora_alpha"], target_modules=content["lora_target"].split(",")
    )
    assert realised(get_peft_model(task_model.model, config)) == planned(plan)
