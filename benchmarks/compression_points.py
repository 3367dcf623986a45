"""One point of the compression benchmark: a size, every plan and baseline within it, raced and then tested.

Curves and race are those of `layerlens compress`, by the command's own code; what it would write is the race's winner. The test
is on samples that neither calibration nor race has seen, and decides nothing.

`Ratio` compares two plans on the test: mean divergence of the first over that of the second, with an interval from resampling
samples, the same for both. Under one the first is better; an interval that lies above one says that it is worse.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from compression_models import Opened, Subject, open_subject, sts_pairs
from scipy.stats import spearmanr

from layerlens.artifacts.compression import CURVES_FILE, CompressionPlan, Curves
from layerlens.budget.compression import CompressionPlans
from layerlens.compressing.held_out import HeldOut, held_out_samples, measured_of, option_of
from layerlens.compressing.variant_result import VariantResult
from layerlens.config import CompressConfig
from layerlens.data.tasks.embedding import unit_embedding
from layerlens.errors import InfeasibleBudgetError
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.workflow.compress import _Compression
from layerlens.workflow.compress_curves import probes_all
from layerlens.workflow.compress_rounds import settled_plans

FOLDER = Path("runs/benchmarks/compression")
COMMAND = "benchmarks/compression.py"
TOKENS_AT_ONCE = 2048
DRAWS = 4000
#: What decides the curves; the sizes come later.
SOME_BITS = 4.25


@dataclass(frozen=True)
class Ratio:
    """Mean divergence of one plan over that of another, with its 95 % interval; resampled over samples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Lab:
    """A model whose curves are measured."""

    subject: Subject
    opened: Opened
    config: CompressConfig
    curves: Curves
    race: HeldOut
    test: HeldOut

    def at(self, **target: Any) -> CompressConfig:
        """The config with another target or policy."""
        return CompressConfig.model_validate({**self.config.model_dump(exclude={"bits_per_weight"}), **target})

    def planned(self, config: CompressConfig) -> tuple[CompressionPlans, Lab]:
        """What the command would let race, and this lab with what was probed for it; every target starts from the same curves.

        Raises:
            InfeasibleBudgetError: nothing is so small.
        """
        with threads(self.config.threads):
            plans, curves = settled_plans(
                self.curves, config, self.race.probes, probes_all=probes_all(self.race, config), command=COMMAND
            )
        raced, tested = (replace(part, curves=curves) for part in (self.race, self.test))
        return plans, replace(self, curves=curves, race=raced, test=tested)


def open_lab(subject: Subject, folder: Path, options: Mapping[str, Any], progress: Progress = SILENT) -> Lab:
    """Open a model, and measure its curves or read them.

    Args:
        subject: Which.
        folder: Where its data and curves are kept.
        options: Fields of the config for every model.
        progress: Who watches.
    """
    given = {"bits_per_weight": SOME_BITS, "threads": 1, **subject.settings, **options}
    config = CompressConfig.model_validate(given)
    opened = open_subject(subject, folder / "data", config)
    command = _Compression(opened.checkpoint, opened.data.id, folder / "out", config, COMMAND, progress)
    with threads(config.threads):
        curves, race = command._curves(opened.model, opened.data, opened.part)
    samples = held_out_samples(
        opened.model, opened.test, opened.test_samples, batch_size=config.batch_size, tokens_at_once=TOKENS_AT_ONCE
    )
    race.work.mkdir(parents=True, exist_ok=True)
    return Lab(subject, opened, config, curves, race, replace(race, samples=samples))


def curves_hash(name: str) -> str | None:
    """What tells the curves of a model from others; none where there are none."""
    file = FOLDER / name / "out.curves" / CURVES_FILE
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def measure_point(lab: Lab, bits: float) -> dict[str, Any]:
    """Plan, race and test one size; what does not exist at it says why."""
    try:
        plans, lab = lab.planned(lab.at(bits_per_weight=bits))
    except InfeasibleBudgetError as error:
        return {"bits": bits, "infeasible": str(error)}
    everyone = {**plans.candidates, **plans.baselines}
    with threads(lab.config.threads):
        raced = lab.race.race(everyone)
        tested = lab.test.race(everyone)
        winner = measured_of(everyone, raced, list(plans.baselines))[0].name
        row = _row(lab, bits, plans, winner, raced, tested)
        if lab.subject.name == "minilm":
            row["spearman"] = _spearmans(lab, {name: everyone[name] for name in {winner, row["best_baseline"]} if name})
    return row


def _row(
    lab: Lab,
    bits: float,
    plans: CompressionPlans,
    winner: str,
    raced: Mapping[str, VariantResult],
    tested: Mapping[str, VariantResult],
) -> dict[str, Any]:
    everyone = {**plans.candidates, **plans.baselines}
    best = min(plans.baselines, key=lambda name: tested[name].mean, default=None)
    ours = min(plans.candidates, key=lambda name: raced[name].mean)
    chosen = everyone[winner]
    return {
        "bits": bits,
        "compared": str(tested[winner].kind),
        "positions": len(tested[winner].distances),
        "choice": winner,
        "best_candidate": ours,
        "best_baseline": best,
        "ratio": None if best is None else asdict(ratio_of(tested[winner], tested[best])),
        "candidate_ratio": None if best is None else asdict(ratio_of(tested[ours], tested[best])),
        "predicted_loss": sum(layer.predicted_loss for layer in chosen.layers),
        "plans": {
            name: {
                "is_baseline": name in plans.baselines,
                "bits_used": plan.bits_per_weight,
                "size_bytes": plan.size_bytes,
                "predicted_loss": sum(layer.predicted_loss for layer in plan.layers),
                "race": raced[name].mean,
                "test": tested[name].mean,
                "test_median": tested[name].median,
                "test_p99": tested[name].p99,
                "same_top": tested[name].same_top_rate,
            }
            for name, plan in everyone.items()
        },
        "formats": {layer.layer: f"{layer.format} {layer.rounding}" for layer in chosen.layers},
        "left_out": plans.left_out,
    }


def ratio_of(first: VariantResult, second: VariantResult, seed: int = 0) -> Ratio:
    """How the first one's mean divergence compares with the second one's, paired by sample."""
    counts = first.sample_counts.astype(np.float64)
    shares = np.full(len(counts), 1 / len(counts))
    drawn = np.random.default_rng(seed).multinomial(len(counts), shares, size=DRAWS)
    above, below = drawn @ first.sample_sums, drawn @ second.sample_sums
    ratios = np.divide(above, below, out=np.ones(DRAWS), where=below > 0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return Ratio(first.mean / second.mean if second.mean > 0 else 1.0, float(low), float(high))


def dense_model(lab: Lab, plan: CompressionPlan | None) -> Any:
    """The encoder in memory with a plan's matrices in place; without a plan, as it is."""
    model = transformers.AutoModel.from_pretrained(lab.opened.checkpoint.folder, dtype=torch.float32, local_files_only=True)
    curves = {matrix.layer: matrix for matrix in lab.curves.matrices}
    for entry in plan.layers if plan is not None else []:
        option = option_of(curves[entry.layer], entry)
        weight = lab.race.cache.weight_of(entry.layer, option, entry.out_features, entry.in_features)
        model.get_submodule(entry.layer).weight.data.copy_(weight)
    return model.eval()


def _spearmans(lab: Lab, plans: Mapping[str, CompressionPlan]) -> dict[str, float]:
    """Spearman correlation of the embeddings' cosine with what people say, over all labelled test pairs."""
    models = {"original": dense_model(lab, None)} | {name: dense_model(lab, plan) for name, plan in plans.items()}
    return {name: _spearman(lab, model) for name, model in models.items()}


def _spearman(lab: Lab, model: Any) -> float:
    test, pairs = lab.opened.test, sts_pairs()
    examples = copy.copy(test.take(range(len(test.examples))))
    order = sorted(range(len(examples)), key=lambda place: len(examples[place]["input_ids"]))
    rows: list[torch.Tensor] = [torch.empty(0)] * len(examples)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            members = order[start : start + 64]
            batch = test.task.collate([examples[place] for place in members])
            found = unit_embedding(model(**test.task.model_inputs(batch)), batch)
            for place, row in zip(members, found, strict=True):
                rows[place] = row
    cosines = [float(rows[2 * pair] @ rows[2 * pair + 1]) for pair in range(len(pairs))]
    return float(spearmanr(cosines, [score for *_, score in pairs]).statistic)


def worse(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Points where what LayerLens writes measures worse than the best baseline, beyond the interval."""
    return [point for point in points if point.get("ratio") and point["ratio"]["low"] > 1]
