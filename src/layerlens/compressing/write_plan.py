"""Writing the folder that a plan describes: its matrices from the cache of factors, the rest from the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from layerlens.artifacts.compression import PLAN_FILE, CompressionPlan, Curves
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.held_out import option_of
from layerlens.compressing.matrices import matrices_of, unused_tensors
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.models.streamed.load import StreamedModel


def write_plan(
    folder: Path,
    model: StreamedModel,
    plan: CompressionPlan,
    curves: Curves,
    cache: FactorCache,
    may_replace: Callable[[], None] | None = None,
) -> None:
    """Write a compressed folder with its `plan.json`.

    Args:
        folder: Must not exist, or be empty, or hold what `may_replace` lets go.
        model: The original.
        plan: What every matrix is stored as.
        curves: The options that the plan chose from.
        cache: What they hold.
        may_replace: As `new_folder` has it.

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
    source = model.checkpoint
    if model.is_untied:
        # With only one of the two in another form nobody can tell any more that they differ.
        source = replace(source, config={**source.config, "tie_word_embeddings": False})
    write_folder(
        folder,
        source,
        chosen,
        stored,
        unused=unused_tensors(model),
        files=files,
        size_bytes=plan.size_bytes,
        may_replace=may_replace,
    )
