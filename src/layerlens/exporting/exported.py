"""What an export is before it is written: files by name, and what a person should know of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import yaml

from layerlens.config import TuneConfig
from layerlens.exporting.lora_settings import LoraSettings


class Tool(StrEnum):
    """Whose files an export writes."""

    PEFT = "peft"
    AXOLOTL = "axolotl"
    LLAMA_FACTORY = "llama-factory"
    TRL = "trl"


@dataclass(frozen=True)
class Exported:
    """Files by their path in the folder, and notes: what is lost, and how to start the tool."""

    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)


def commented_yaml(notes: list[str], content: dict[str, Any]) -> bytes:
    """A YAML file with the notes as comments at its top."""
    head = "".join(f"# {note}\n" for note in notes)
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return f"{head}\n{body}".encode()


def shown_plan(settings: LoraSettings) -> str:
    """`written by LayerLens: …`, the first line of every file with comments."""
    plan = settings.plan
    low, high = min(settings.ranks.values()), settings.rank
    ranks = f"rank {high}" if low == high else f"ranks {low} to {high}"
    return f"Written by `layerlens export`: {len(settings.ranks)} layers, {ranks}, {plan.params:,} adapter parameters."


def training_options(settings: LoraSettings) -> tuple[int, int, float, float]:
    """Batch size and tokens that the plan was priced for, and LayerLens's own learning rate and epochs."""
    priced = settings.plan.metadata.optimization
    length = priced.get("length") or settings.plan.task.max_length or 128
    defaults = TuneConfig()
    return int(priced.get("batch_size") or defaults.batch_size), int(length), defaults.learning_rate, defaults.epochs
