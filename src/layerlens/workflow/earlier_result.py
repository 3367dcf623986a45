"""What the output folder of `layerlens compress` holds before a run: nothing, a result, or what must not be lost.

A result for another target makes way for the new one. With it may go weights, config and plan as this command wrote them, files
that the model's own folder holds too, byte for byte, and the evaluation and the page that were made of this very result: beside
other weights they would be wrong.
"""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import PLAN_FILE, CompressionPlan
from layerlens.artifacts.compression_checks import load_checked_plan
from layerlens.artifacts.compression_evaluation import CompressionEvaluation
from layerlens.artifacts.evaluation import EVALUATION_FILE
from layerlens.compressing.folder_config import OLD_TYPE_KEY, QUANTIZATION_KEY, TYPE_KEY, WEIGHTS_KEY
from layerlens.compressing.open_folder import open_compressed
from layerlens.data.source_name import is_same_source
from layerlens.errors import ConfigError, LayerLensError, few
from layerlens.evaluation.folder_size import folder_bytes
from layerlens.models.checkpoint import CONFIG_FILE, INDEX_FILE, Checkpoint, is_compressed
from layerlens.reporting.page import PAGE_FILE
from layerlens.workflow.curves_folder import MEASURING
from layerlens.workflow.own_output import holds, is_page

#: Keys of a config that writing sets; it unties a table and a head that differ.
_SET = {QUANTIZATION_KEY, WEIGHTS_KEY, TYPE_KEY, OLD_TYPE_KEY, "tie_word_embeddings"}


def earlier_plan(folder: Path, source: Checkpoint, run: Mapping[str, Any]) -> CompressionPlan | None:
    """The plan of a result for this model and data, whatever its target was; None where the folder holds nothing.

    Args:
        folder: The output folder.
        source: The model.
        run: What tells this run from another one of the model; `metadata.run` of its plan.

    Raises:
        ConfigError: it holds no such result; or the result is another run's, and the folder holds more than that.
        ManifestError: its `plan.json` is damaged.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    plan = load_checked_plan(folder) if (folder / PLAN_FILE).exists() else None
    if plan is None or plan.model.hash != source.hash() or not _is_measured_alike(plan, run):
        raise ConfigError(
            f"{folder} is not empty and holds no result for this model and data, measured in this way; choose another output "
            "folder"
        )
    if not is_run(plan, run):
        check_replaceable(folder, plan, source)
    return plan


def is_run(plan: CompressionPlan, run: Mapping[str, Any]) -> bool:
    """Whether a plan is this very run's; earlier releases named the data as they were typed."""
    told = plan.metadata.get("run", {})
    return {**told, "data": None} == {**run, "data": None} and is_same_source(told["data"], run["data"])


def _is_measured_alike(plan: CompressionPlan, run: Mapping[str, Any]) -> bool:
    """Whether a plan is of the same data, measured in the same way, to whatever target."""
    told = plan.metadata.get("run", {})
    if "data" not in told or not is_same_source(told["data"], run["data"]):
        return False
    return all(told.get("config", {}).get(name) == run["config"][name] for name in MEASURING)


def check_replaceable(folder: Path, plan: CompressionPlan, source: Checkpoint) -> None:
    """See that all of a compressed folder may go.

    Args:
        folder: The compressed folder.
        plan: Its plan.
        source: The model that it was made from.

    Raises:
        ConfigError: it holds something else, which is named.
    """
    ours = {PLAN_FILE} | _weights(folder, plan)
    paths = sorted(folder.rglob("*"))
    if foreign := [str(path.relative_to(folder)) for path in paths if not _may_go(path, folder, source, ours)]:
        raise ConfigError(
            f"{folder} would be replaced, but holds what `layerlens compress` has not written, or not so: {few(foreign)}; move "
            "that away, or choose another output folder"
        )


def made_of(folder: Path) -> list[str]:
    """Names of what other commands made of a compressed folder and left in it, as a rule."""
    return [name for name in (EVALUATION_FILE, PAGE_FILE) if (folder / name).exists()]


def _may_go(path: Path, folder: Path, source: Checkpoint, ours: set[str]) -> bool:
    name = str(path.relative_to(folder))
    original = source.folder / name
    if path.is_symlink():
        return False
    if path.is_dir():
        return original.is_dir()
    if name == CONFIG_FILE:
        return _is_config(path, source)
    if name == EVALUATION_FILE:
        return holds(path, CompressionEvaluation)
    if name == PAGE_FILE:
        return is_page(path)
    return name in ours or (original.is_file() and filecmp.cmp(path, original, shallow=False))


def _weights(folder: Path, plan: CompressionPlan) -> set[str]:
    """Names of the weight files, where they hold the plan's bytes."""
    try:
        tensors = open_compressed(folder).tensors
        if folder_bytes(folder, tensors) != plan.size_bytes:
            return set()
    except LayerLensError:
        return set()
    return {header.file.name for header in tensors.values()} | {INDEX_FILE}


def _is_config(path: Path, source: Checkpoint) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or not is_compressed(found):
        return False
    mine, theirs = ({key: value for key, value in each.items() if key not in _SET} for each in (found, source.config))
    return mine == theirs
