"""`adapter_config.json`: PEFT's LoraConfig, loaded with `LoraConfig.from_pretrained(folder)`. Read at PEFT 0.21.2.

Keys that keep PEFT's defaults are left out, so that older and newer versions read it without a word.
"""

from __future__ import annotations

import json
from typing import Any

from layerlens.artifacts.peft_lora import TASK_TYPES
from layerlens.exporting.exported import Exported
from layerlens.exporting.lora_settings import LoraSettings

CONFIG_FILE = "adapter_config.json"


def export_peft(settings: LoraSettings) -> Exported:
    """The plan as PEFT's config: nothing is lost."""
    text = json.dumps(peft_config(settings), indent=2, sort_keys=True) + "\n"
    return Exported(
        {CONFIG_FILE: text.encode()},
        ["load it with LoraConfig.from_pretrained(FOLDER); nothing is lost", *serving_notes(settings)],
    )


def peft_config(settings: LoraSettings) -> dict[str, Any]:
    """The content of `adapter_config.json`."""
    plan = settings.plan
    return {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[plan.task.kind],
        "base_model_name_or_path": settings.model,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": list(settings.ranks),
        "rank_pattern": settings.rank_pattern,
        "alpha_pattern": settings.alpha_pattern,
        "modules_to_save": list(plan.head) or None,
        "fan_in_fan_out": settings.is_transposed,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
    }


def serving_notes(settings: LoraSettings) -> list[str]:
    """What servers that apply one alpha / r to a whole adapter need (read in vLLM's `peft_helper.py`)."""
    notes = [
        f"alpha / rank is {settings.plan.alpha_over_rank:g} in every layer and rsLoRA is off, so a server that applies one scale "
        f"(vLLM) is right; let it take rank {settings.rank} (vLLM: --max-lora-rank)"
    ]
    if settings.plan.head:
        notes.append(f"vLLM takes no adapter with trained modules ({', '.join(settings.plan.head)}): merge before serving there")
    return notes
