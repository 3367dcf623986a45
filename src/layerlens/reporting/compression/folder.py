"""What compression left in its folder and beside it, read once; what is missing is named with the command that would make it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from layerlens.artifacts.compression import (
    CURVES_FILE,
    PLAN_FILE,
    CompressionPlan,
    Curves,
    MatrixCurve,
    Measured,
    PlanMatrix,
    curves_beside,
    load_curves,
)
from layerlens.artifacts.compression_checks import load_checked_plan
from layerlens.artifacts.compression_evaluation import CompressionEvaluation, LeaveOneOut, leave_one_out_of
from layerlens.artifacts.evaluation import EVALUATION_FILE
from layerlens.artifacts.store import read_json
from layerlens.reporting.quantities import nats
from layerlens.words import TaskKind


@dataclass(frozen=True)
class CompressedFolder:
    """Every artifact that is there."""

    name: str
    plan: CompressionPlan
    curves: Curves | None
    evaluation: CompressionEvaluation | None
    missing: tuple[str, ...]
    """One line for each part that is left out, and why."""

    @property
    def is_embedding(self) -> bool:
        """Whether a loss is how far embeddings are apart, for want of a head, and no divergence of predictions."""
        told = self.plan.metadata.get("held_out", {}).get("compared")
        return self.plan.task.kind is TaskKind.EMBEDDING if told is None else told == "embedding"

    @property
    def unit(self) -> str:
        """What losses are counted in, as an axis or a column's head has it."""
        return "1 − cosine" if self.is_embedding else "nats"

    @property
    def whole_unit(self) -> str:
        """The unit with what it is counted over."""
        if self.is_embedding:
            return f"{self.unit} of a sample's embedding"
        return f"{self.unit} per token" if self.plan.task.kind is TaskKind.CAUSAL_LM else f"{self.unit} per sample"

    @property
    def measure(self) -> str:
        """What is measured on held-out samples."""
        return "distance" if self.is_embedding else "KL"

    def loss(self, value: float) -> str:
        """A loss as a sentence has it."""
        return f"{nats(value)} ({self.unit})" if self.is_embedding else f"{nats(value)} {self.whole_unit}"

    @cached_property
    def curve_of(self) -> dict[str, MatrixCurve]:
        """Curves by matrix."""
        return {curve.layer: curve for curve in self.curves.matrices} if self.curves else {}

    @cached_property
    def leave_one_out(self) -> LeaveOneOut | None:
        """The trial of leaving one out, which the plan tells of before any evaluation does."""
        evaluated = self.evaluation.leave_one_out if self.evaluation else None
        return evaluated or leave_one_out_of(self.plan)

    @property
    def has_exact_sizes(self) -> bool:
        """Whether the bytes before are known of each matrix, or only their mean."""
        return all(entry.layer in self.curve_of for entry in self.plan.layers)

    @cached_property
    def bytes_before(self) -> dict[str, int]:
        """Bytes in the checkpoint, by matrix."""
        model, layers = self.plan.model, self.plan.layers
        weights = {entry.layer: entry.out_features * entry.in_features for entry in layers}
        mean = (model.size_bytes - model.other_bytes) / max(1, sum(weights.values()))
        found = {entry.layer: self.curve_of.get(entry.layer) for entry in layers}
        return {name: round(weights[name] * (curve.kept_element_bytes if curve else mean)) for name, curve in found.items()}

    @property
    def winner(self) -> Measured | None:
        """The measurement of what the folder holds; None where it was not measured."""
        return next((entry for entry in self.plan.measured if entry.name == self.plan.chosen.name), None)

    @property
    def best_baseline(self) -> Measured | None:
        return min((entry for entry in self.plan.measured if entry.is_baseline), key=lambda entry: entry.kl_nats, default=None)

    @property
    def best_candidate(self) -> Measured | None:
        """The best of LayerLens's own plans."""
        own = (entry for entry in self.plan.measured if not entry.is_baseline)
        return min(own, key=lambda entry: entry.kl_nats, default=None)

    @property
    def left_out(self) -> dict[str, str]:
        """Candidates and baselines that did not race, and why."""
        return self._told("left_out")

    @property
    def only_measured(self) -> dict[str, str]:
        """Baselines that raced but may not be written, and why."""
        return self._told("only_measured")

    def _told(self, name: str) -> dict[str, str]:
        told = self.plan.metadata.get(name)
        return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}

    @property
    def predicted_loss(self) -> float:
        """Sum over the matrices."""
        return sum(entry.predicted_loss for entry in self.plan.layers)


def bits_per_weight(entries: Sequence[PlanMatrix]) -> float:
    """Bits that some matrices take, over their weights."""
    return 8 * sum(entry.size_bytes for entry in entries) / sum(entry.out_features * entry.in_features for entry in entries)


def is_compressed(folder: Path) -> bool:
    """Whether the plan in a folder is one of compression; a damaged plan is for its reader to name."""
    try:
        content = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "bits_per_weight" in content


def read_compressed(folder: Path) -> CompressedFolder:
    """Read what compression left.

    Args:
        folder: Holds `plan.json`, and perhaps `evaluation.json`; its curves lie beside it in `<folder>.curves/`.

    Returns:
        The artifacts. Curves of another checkpoint are left out, since they would mislead.

    Raises:
        ManifestError: a file is damaged, of another schema, or does not add up.
    """
    plan = load_checked_plan(folder)
    missing: list[str] = []
    whole, beside = folder.resolve(), curves_beside(folder)
    curves = load_curves(beside) if (beside / CURVES_FILE).exists() else None
    if curves is None:
        missing.append(f"Curves and probes: no `{beside.name}/{CURVES_FILE}` beside this folder. `layerlens compress` leaves it.")
    elif curves.model.hash != plan.model.hash:
        missing.append(f"The curves in `{beside.name}/` are of another checkpoint, so nothing of them is shown. Compress again.")
        curves = None
    path = folder / EVALUATION_FILE
    evaluation = read_json(path, CompressionEvaluation) if path.exists() else None
    if evaluation is None:
        command = f"layerlens evaluate {whole.name} --against MODEL --data DATA --out {whole.name}/{EVALUATION_FILE}"
        missing.append(f"Texts and quality of each layer: no {EVALUATION_FILE} here. Run `{command}`.")
    if not plan.measured:
        missing.append("Candidates against baselines: none was measured when this was compressed.")
    return CompressedFolder(whole.name, plan, curves, evaluation, tuple(missing))
