"""Writing a plan as the files of another tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from layerlens.artifacts.plan import Plan
from layerlens.artifacts.store import write_bytes
from layerlens.errors import ConfigError
from layerlens.exporting.axolotl import export_axolotl
from layerlens.exporting.exported import Exported, Tool
from layerlens.exporting.llama_factory import export_llama_factory
from layerlens.exporting.lora_settings import LoraSettings, lora_settings
from layerlens.exporting.peft import export_peft
from layerlens.exporting.trl import export_trl

_WRITERS: dict[Tool, Callable[[LoraSettings], Exported]] = {
    Tool.PEFT: export_peft,
    Tool.AXOLOTL: export_axolotl,
    Tool.LLAMA_FACTORY: export_llama_factory,
    Tool.TRL: export_trl,
}


def write_export(plan: Plan, tool: Tool, out: Path, *, dry_run: bool = False) -> Exported:
    """Write a plan as the files that a tool takes.

    Args:
        plan: A plan of LoRA and none.
        tool: Whose files.
        out: Folder; files of another content are never overwritten.
        dry_run: Check everything, but write nothing.

    Returns:
        What was written, and what a person should know of it.

    Raises:
        ConfigError: the plan holds what the tool cannot say at all, its model is neither a folder nor a hub id, or `out` holds
            other files of these names.
    """
    settings = lora_settings(plan)
    exported = _WRITERS[tool](settings)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, not a folder; choose another --out")
    if taken := [name for name, content in exported.files.items() if _differs(out / name, content)]:
        raise ConfigError(f"{out} holds another {taken[0]} already; choose another --out, or remove it")
    if not dry_run:
        for name, content in exported.files.items():
            write_bytes(out / name, content)
    if Path(settings.model).is_absolute():
        return exported
    note = f"the model {settings.model} is taken for a hub id: no such folder is here"
    return Exported(exported.files, [*exported.notes, note])


def _differs(path: Path, content: bytes) -> bool:
    return path.exists() and (not path.is_file() or path.read_bytes() != content)
