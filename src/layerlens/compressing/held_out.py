"""Measuring on held-out samples: each matrix alone at one option, and whole plans.

probe      one matrix at one option           anchors the predicted losses of that matrix
race       every plan and every baseline      decides which one is written
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerlens.artifacts.compression import CompressionPlan, Curves, MatrixCurve, Measured, Option, PlanMatrix, Probe
from layerlens.artifacts.compression_evaluation import LeaveOneOut
from layerlens.artifacts.formats import Format
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.family_anchors import unanchored
from layerlens.compressing.leave_one_out import leave_one_out
from layerlens.compressing.outside_blocks import starting_block
from layerlens.compressing.variant_pass import measure_variants
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.variants import Replacement, Variant
from layerlens.data.dataset import LoadedData
from layerlens.errors import DataError, ManifestError
from layerlens.models.streamed.load import StreamedModel
from layerlens.progress import SILENT, Progress
from layerlens.streaming.samples import Samples
from layerlens.streaming.settings import LOSS_TOKENS


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples of a streamed model, and the options that its matrices may be given.

    Attributes:
        model: The original model, streamed.
        samples: What to measure on; calibration has not seen them.
        curves: The options of every matrix.
        cache: What the options hold.
        work: Folder for hidden states.
        max_store: Bytes that they may take there.
        holds_weights: Keep the original's weights of the block at hand, and those of its head, beside a variant's; otherwise they
            are read in slices for every part of the samples.
        after_part: Called between steps; may raise to stop.
        progress: Who watches.
    """

    model: StreamedModel
    samples: Samples
    curves: Curves
    cache: FactorCache
    work: Path
    max_store: int | None = None
    holds_weights: bool = True
    after_part: Callable[[], None] = lambda: None
    progress: Progress = SILENT

    def probes(self, wanted: Sequence[tuple[MatrixCurve, Option]]) -> dict[str, Probe]:
        """Measure each of these matrices alone, at the option beside it; no matrix twice.

        Raises:
            ConfigError: as `measure_variants`.
            NotFiniteError: as `measure_variants`.
        """
        variants = [self._variant(matrix.layer, [(matrix, option)]) for matrix, option in wanted]
        found = self._measured(variants) if variants else {}
        return {
            matrix.layer: Probe(
                scheme=option.scheme,
                rounding=option.rounding,
                predicted=unanchored(matrix, option),
                measured=found[matrix.layer].mean,
                error_after_blocks=found[matrix.layer].error_after_blocks,
            )
            for matrix, option in wanted
        }

    def race(self, plans: Mapping[str, CompressionPlan]) -> dict[str, VariantResult]:
        """Measure whole plans; plans that choose the same are measured once."""
        by_choice: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for name, plan in plans.items():
            by_choice.setdefault(choice_of(plan), []).append(name)
        variants = [self._variant(names[0], chosen_options(self.curves, plans[names[0]])) for names in by_choice.values()]
        found = self._measured(variants)
        first = {name: names[0] for names in by_choice.values() for name in names}
        return {name: found[first[name]] for name in plans}

    def leave_one_out(self, plan: CompressionPlan, *, seed: int) -> LeaveOneOut:
        """Revert each compressed matrix of a plan in turn."""
        chosen = chosen_options(self.curves, plan)
        whole = self._variant("all", chosen)
        layers = [[matrix.layer, *matrix.tied] for matrix, option in chosen if option.scheme.format is not Format.KEEP]
        return leave_one_out(
            self.model,
            self.samples,
            whole.weights,
            layers,
            work=self.work,
            holds_weights=self.holds_weights,
            head_tokens=LOSS_TOKENS,
            max_store=self.max_store,
            after_part=self.after_part,
            progress=self.progress,
            seed=seed,
        )

    def _measured(self, variants: Sequence[Variant]) -> dict[str, VariantResult]:
        return measure_variants(
            self.model,
            self.samples,
            variants,
            work=self.work,
            holds_weights=self.holds_weights,
            head_tokens=LOSS_TOKENS,
            max_store=self.max_store,
            after_part=self.after_part,
            progress=self.progress,
        )

    def _variant(self, name: str, chosen: Sequence[tuple[MatrixCurve, Option]]) -> Variant:
        by_path = {
            path: (matrix, option)
            for matrix, option in chosen
            if option.scheme.format is not Format.KEEP
            for path in (matrix.layer, *matrix.tied)
        }

        def weight(path: str) -> Replacement:
            if path not in by_path:
                return None
            matrix, option = by_path[path]
            return self.cache.weight_of(matrix.layer, option, matrix.out_features, matrix.in_features)

        return Variant(name, weight, starting_block(self.model, by_path))


def chosen_options(curves: Curves, plan: CompressionPlan) -> list[tuple[MatrixCurve, Option]]:
    """Every matrix with the option that a plan gives it.

    Raises:
        ManifestError: the curves do not have it.
    """
    matrices = {matrix.layer: matrix for matrix in curves.matrices}
    return [(matrices[entry.layer], option_of(matrices[entry.layer], entry)) for entry in plan.layers]


def option_of(matrix: MatrixCurve, entry: PlanMatrix) -> Option:
    """The option that a plan chose.

    Raises:
        ManifestError: the curves do not have it.
    """
    for option in matrix.options:
        if option.scheme == entry.scheme and option.rounding is entry.rounding:
            return option
    raise ManifestError(f"{entry.layer}: the curves do not offer {entry.format} by {entry.rounding}; compress again")


def choice_of(plan: CompressionPlan) -> tuple[tuple[str, str], ...]:
    """What a plan chose, matrix by matrix: two plans with the same choice are the same model."""
    return tuple((entry.scheme.model_dump_json(), str(entry.rounding)) for entry in plan.layers)


def measured_of(
    plans: Mapping[str, CompressionPlan], found: Mapping[str, VariantResult], baselines: Sequence[str]
) -> list[Measured]:
    """What the race found, best first; of two that measure the same the smaller one, then ours, then by name."""
    entries = [
        Measured(
            name=name,
            size_bytes=plan.size_bytes,
            bits_per_weight=plan.bits_per_weight,
            predicted_loss=sum(layer.predicted_loss for layer in plan.layers),
            kl_nats=found[name].mean,
            is_baseline=name in baselines,
        )
        for name, plan in plans.items()
    ]
    return sorted(entries, key=lambda one: (one.kl_nats, one.size_bytes, one.is_baseline, one.name))


def held_out_samples(
    model: StreamedModel, data: LoadedData, chosen: Sequence[int], *, batch_size: int, tokens_at_once: int
) -> Samples:
    """Batches of samples in their own order.

    Raises:
        DataError: there are none.
    """
    if not chosen:
        raise DataError(f"{data.id} leaves no samples to measure on; use more data")
    groups = [list(range(start, min(start + batch_size, len(chosen)))) for start in range(0, len(chosen), batch_size)]
    return Samples.of_examples(model.skeleton, data.task, data.take(list(chosen)), groups, tokens_at_once)
