"""A YAML file for `trl sft --config`, and a small program where ranks differ. Read at TRL 1.16.0: `trainer/model_config.py`.

TRL's keys hold one rank and one alpha. Its Python interface takes any PEFT config, so the program is `trl sft` with the plan's.
"""

from __future__ import annotations

from typing import Any

from layerlens.exporting.exported import Exported, commented_yaml, shown_plan, training_options
from layerlens.exporting.lora_settings import LoraSettings, check_language_model
from layerlens.exporting.peft import CONFIG_FILE, export_peft

FILE, PROGRAM = "trl.yaml", "trl_sft.py"

_PROGRAM = '''"""`trl sft` with the ranks of a LayerLens plan, which lie beside this file in adapter_config.json.

    python trl_sft.py --config trl.yaml
"""

from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser


def main() -> None:
    data, training, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
    options = {"revision": model.model_revision, "attn_implementation": model.attn_implementation, "dtype": model.dtype}
    training.model_init_kwargs = {**options, **(training.model_init_kwargs or {})}
    dataset = load_dataset(data.dataset_name, name=data.dataset_config)
    trainer = SFTTrainer(
        model=model.model_name_or_path,
        args=training,
        train_dataset=dataset[data.dataset_train_split],
        eval_dataset=dataset[data.dataset_test_split] if training.eval_strategy != "no" else None,
        # In place of the lora_ keys of the YAML file, which hold one rank.
        peft_config=LoraConfig.from_pretrained(str(Path(__file__).resolve().parent)),
    )
    trainer.train()
    trainer.save_model(training.output_dir)


if __name__ == "__main__":
    main()
'''


def export_trl(settings: LoraSettings) -> Exported:
    """The plan as TRL's config.

    Raises:
        ConfigError: the plan is of no language model, or an alpha is no whole number.
    """
    check_language_model(settings, "TRL")
    batch_size, length, learning_rate, epochs = training_options(settings)
    content: dict[str, Any] = {
        "model_name_or_path": settings.model,
        "dataset_name": "YOUR/DATASET",
        "use_peft": True,
        "lora_r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "lora_target_modules": list(settings.ranks),
        "lora_task_type": "CAUSAL_LM",
        "max_length": length,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "output_dir": "trl-out",
    }
    name_data = "name your data in `dataset_name`, then run"
    if settings.has_one_rank:
        notes = [f"{name_data}: trl sft --config {FILE}"]
        return Exported({FILE: commented_yaml([shown_plan(settings), *notes], content)}, ["nothing of the plan is lost", *notes])
    notes = [
        f"`trl sft --config {FILE}` loses the ranks: TRL's keys hold one, so it trains rank {settings.rank} in every layer, "
        f"{settings.params_of_one_rank:,} parameters in place of {settings.plan.params:,}",
        f"{PROGRAM} is the same with the plan's ranks, from {CONFIG_FILE}",
        f"{name_data} in this folder: python {PROGRAM} --config {FILE}",
    ]
    files = {
        FILE: commented_yaml([shown_plan(settings), *notes], content),
        PROGRAM: _PROGRAM.encode(),
        **export_peft(settings).files,
    }
    return Exported(files, notes)
