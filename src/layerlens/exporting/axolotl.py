"""A YAML file for `axolotl train`. Read at axolotl 0.19.0: `utils/schemas/peft.py`, `loaders/adapter.py`."""

from __future__ import annotations

from typing import Any

from layerlens.exporting.exported import Exported, commented_yaml, shown_plan, training_options
from layerlens.exporting.lora_settings import LoraSettings, check_language_model

FILE = "axolotl.yaml"


def export_axolotl(settings: LoraSettings) -> Exported:
    """The plan as axolotl's config: its rank and alpha patterns go to PEFT as they are, so nothing is lost.

    Raises:
        ConfigError: the plan is of no language model, or an alpha is no whole number.
    """
    check_language_model(settings, "axolotl")
    batch_size, length, learning_rate, epochs = training_options(settings)
    content: dict[str, Any] = {
        "base_model": settings.model,
        "datasets": [{"path": "YOUR_DATA.jsonl", "ds_type": "json", "type": "completion", "field": "text"}],
        "adapter": "lora",
        "lora_r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "lora_target_modules": list(settings.ranks),
    }
    if not settings.has_one_rank:
        content |= {"lora_rank_pattern": settings.rank_pattern, "lora_alpha_pattern": settings.alpha_pattern}
    if settings.is_transposed:
        content["lora_fan_in_fan_out"] = True
    content |= {
        "peft_use_rslora": False,
        "sequence_len": length,
        "micro_batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "num_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler": "linear",
        "optimizer": "adamw_torch",
        "output_dir": "./axolotl-out",
    }
    notes = []
    if not settings.has_one_rank:
        notes.append(
            "an axolotl that does not know lora_rank_pattern and lora_alpha_pattern (0.19.0 does) passes them over in silence "
            "and trains the largest rank everywhere"
        )
    notes.append(f"put your data's path into `datasets`, then run: axolotl train {FILE}")
    return Exported({FILE: commented_yaml([shown_plan(settings), *notes], content)}, ["nothing of the plan is lost", *notes])
