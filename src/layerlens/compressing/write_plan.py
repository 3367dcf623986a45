"""Writing the folder that a plan describes: its matrices from the cache of factors, the rest from the checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from layerlens.artifacts.compression import PLAN_FILE, CompressionPlan, Curves
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.held_out import option_of
from layerlens.compressing.matrices import matrices_of, unused_tensors
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.models.streamed.load import StreamedModel


def write_plan(folder: Path, model: StreamedModel, plan: CompressionPlan, curves: Curves, cache: FactorCache) -> None:
    """Write a compressed folder with its `plan.json`.

    Args:
        folder: Must not exist, or be empty.
        model: The original.
        plan: What every matrix is stored as.
        curves: The options that the plan chose from.
        cache: What they hold.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is not finite.
        ConfigError: the folder cannot be written, as when the disk is full.
        ManifestError: the cache or the curves lack what the plan chose.
    """
    matrices = {matrix.layer: matrix for matrix in matrices_of(model)}
    by_layer = {matrix.layer: matrix for matrix in curves.matrices}
    chosen = [
        ChosenMatrix(
            layer=entry.layer,
            tensor=matrices[entry.layer].tensor,
            scheme=entry.scheme,
            out_features=entry.out_features,
            in_features=entry.in_features,
            is_transposed=matrices[entry.layer].is_transposed,
            copies=matrices[entry.layer].copies,
        )
        for entry in plan.layers
    ]
    stored = (
        (entry.layer, cache.tensors_of(entry.layer, option_of(by_layer[entry.layer], entry)))
        for entry in plan.layers
        if entry.scheme.format.has_codes or entry.scheme.format.has_factors
    )
    text = json.dumps(plan.model_dump(mode="json"), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    files = {PLAN_FILE: text.encode()}
    written = write_folder(folder, model.checkpoint, chosen, stored, unused=unused_tensors(model), files=files)
    if written != plan.size_bytes:
        shutil.rmtree(folder)
        raise AssertionError(f"wrote {written} bytes of tensors where the plan says {plan.size_bytes}")
