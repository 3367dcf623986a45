"""TRL's file holds its own keys; where ranks differ a program beside it takes the plan's."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from peft import LoraConfig, get_peft_model

from layerlens.exporting.exported import Tool
from layerlens.exporting.run import write_export
from layerlens.exporting.trl import FILE, PROGRAM
from tests.unit.exporting.plans import made, planned, realised, trained

#: PEFT reads a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

#: Fields of TRL 1.16.0's `ModelConfig`, `ScriptArguments` and `SFTConfig` that a file of ours may have.
KEYS = {
    *("model_name_or_path", "dataset_name", "use_peft", "lora_r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("lora_target_modules", "lora_task_type", "max_length", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_train_epochs", "learning_rate", "lr_scheduler_type", "output_dir"),
}


def _read(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    return content


def _as_trl_does(content: dict[str, Any]) -> LoraConfig:
    """`trainer/utils.py`, `get_peft_config`, at 1.16.0; a list of one target becomes that target."""
    targets = content["lora_target_modules"]
    return LoraConfig(
        task_type=content["lora_task_type"],
        r=content["lora_r"],
        lora_alpha=content["lora_alpha"],
        lora_dropout=content["lora_dropout"],
        target_modules=targets[0] if len(targets) == 1 else targets,
        use_rslora=content["use_rslora"],
        bias="none",
    )


@pytest.mark.parametrize("ranks", [2, {"model.layers.1.mlp.down_proj": 3}], ids=["everywhere", "one layer"])
def test_one_rank_is_said_by_the_file_alone(ranks: Any, tmp_path: Path) -> None:
    task_model, plan = made("llama", tmp_path / "model", ranks)
    exported = write_export(plan, Tool.TRL, tmp_path / "out")
    assert exported.files.keys() == {FILE}
    assert exported.notes[0] == "nothing of the plan is lost"
    content = _read(tmp_path / "out")
    assert set(content) <= KEYS
    model = get_peft_model(task_model.model, _as_trl_does(content))
    assert realised(model) == planned(plan)
    assert trained(model) == plan.params


def test_ranks_that_differ_are_said_to_be_lost_by_the_file(tmp_path: Path) -> None:
    task_model, plan = made("llama", tmp_path / "model")
    said = " ".join(write_export(plan, Tool.TRL, tmp_path / "out").notes)
    lost = trained(get_peft_model(task_model.model, _as_trl_does(_read(tmp_path / "out"))))
    assert f"rank 3 in every layer, {lost:,} parameters in place of {plan.params:,}" in said
    assert said in " ".join(line.removeprefix("# ") for line in (tmp_path / "out" / FILE).read_text().splitlines())


def test_the_program_gives_the_trainer_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with stand-ins for what TRL and datasets export: the arguments it passes are read at TRL 1.16.0."""
    task_model, plan = made("llama", tmp_path / "model")
    write_export(plan, Tool.TRL, tmp_path / "out")
    seen: dict[str, Any] = {}

    class Arguments:
        dataset_name, dataset_config, dataset_train_split, dataset_test_split = "data", None, "train", "test"
        eval_strategy, model_init_kwargs, output_dir = "no", None, str(tmp_path / "trained")
        model_name_or_path, model_revision, attn_implementation, dtype = str(tmp_path / "model"), "main", None, "float32"

    class Parser:
        def __init__(self, kinds: Any) -> None:
            seen["kinds"] = kinds

        def parse_args_and_config(self) -> tuple[Arguments, Arguments, Arguments]:
            return Arguments(), Arguments(), Arguments()

    class Trainer:
        def __init__(self, **options: Any) -> None:
            seen.update(options)

        def train(self) -> None:
            seen["model"] = get_peft_model(task_model.model, seen["peft_config"])

        def save_model(self, folder: str) -> None:
            seen["saved"] = folder

    trl, datasets = ModuleType("trl"), ModuleType("datasets")
    trl.__dict__.update(
        dict.fromkeys(("ModelConfig", "ScriptArguments", "SFTConfig"), object), SFTTrainer=Trainer, TrlParser=Parser
    )
    datasets.__dict__["load_dataset"] = lambda path, name: {"train": [path, name]}
    monkeypatch.setitem(sys.modules, "trl", trl)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    runpy.run_path(str(tmp_path / "out" / PROGRAM), run_name="__main__")
    assert seen["train_dataset"] == ["data", None]
    assert seen["saved"] == str(tmp_path / "trained")
    assert realised(seen["model"]) == planned(plan)
    assert trained(seen["model"]) == plan.params


def test_trls_own_parser_takes_the_file(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed")
    task_model, plan = made("llama", tmp_path / "model", 2)
    write_export(plan, Tool.TRL, tmp_path / "out")
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig))
    typed = ["--config", str(tmp_path / "out" / FILE), "--bf16", "false"]
    _, _, model = parser.parse_args_and_config(typed, fail_with_unknown_args=True)
    assert realised(get_peft_model(task_model.model, trl.get_peft_config(model))) == planned(plan)
