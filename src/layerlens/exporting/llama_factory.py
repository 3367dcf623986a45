"""A YAML file for `llamafactory-cli train`. Read at LLaMA-Factory 0.9.5: `hparams/finetuning_args.py`, `model/adapter.py`.

Its own keys hold one rank and one alpha for all layers. But it goes on from an adapter that it is given, and trains that one with
the ranks that it has: so ranks that differ come from an untrained adapter beside the file.
"""

from __future__ import annotations

from typing import Any

from layerlens.exporting.exported import Exported, commented_yaml, shown_plan, training_options
from layerlens.exporting.lora_settings import LoraSettings, check_language_model
from layerlens.exporting.start_adapter import start_adapter

FILE, START_FOLDER = "llama-factory.yaml", "start"


def export_llama_factory(settings: LoraSettings) -> Exported:
    """The plan as LLaMA-Factory's config.

    Raises:
        ConfigError: the plan is of no language model, or an alpha is no whole number.
    """
    check_language_model(settings, "LLaMA-Factory")
    batch_size, length, learning_rate, epochs = training_options(settings)
    content: dict[str, Any] = {
        "model_name_or_path": settings.model,
        "stage": "pt",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "lora_target": ",".join(settings.ranks),
    }
    files: dict[str, bytes] = {}
    notes = []
    if not settings.has_one_rank:
        content["adapter_name_or_path"] = START_FOLDER
        files = {f"{START_FOLDER}/{name}": data for name, data in start_adapter(settings).items()}
        notes.append(
            f"LLaMA-Factory's keys hold one rank: the plan's ranks come from the untrained adapter in {START_FOLDER}/ "
            "(adapter_name_or_path), and lora_rank, lora_alpha and lora_target are not read beside it"
        )
        notes.append(
            f"without {START_FOLDER}/ the ranks are lost: rank {settings.rank} in every layer, {settings.params_of_one_rank:,} "
            f"parameters in place of {settings.plan.params:,}"
        )
    content |= {
        "dataset": "YOUR_DATASET",
        "dataset_dir": "data",
        "cutoff_len": length,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "output_dir": "llama-factory-out",
    }
    notes.append("stage pt is plain text, which the plan was measured on; write sft and a template for conversations")
    notes.append(f"name your data in `dataset` (from dataset_info.json), then run in this folder: llamafactory-cli train {FILE}")
    files[FILE] = commented_yaml([shown_plan(settings), *notes], content)
    return Exported(files, notes if files.keys() != {FILE} else ["nothing of the plan is lost", *notes])
