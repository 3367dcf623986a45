"""`layerlens compress`: curves once, then for any size a plan, a race on held-out samples, and a folder that transformers loads.

OUT.curves/    curves.json, factors/        measured once for a model and its data; another size uses them again
OUT/           weights, config, plan.json   what measured best among our plans and the baselines
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import (
    CURVES_FILE,
    FACTORS_FOLDER,
    PLAN_FILE,
    CompressionPlan,
    Curves,
    Measured,
    load_curves,
    save_curves,
)
from layerlens.artifacts.compression_checks import load_checked_plan
from layerlens.artifacts.plan import Chosen
from layerlens.artifacts.store import claim_folder, release_folder
from layerlens.artifacts.versions import installed_versions
from layerlens.budget.compression import CompressionPlans, plan_compression
from layerlens.budget.format_menu import menu_of
from layerlens.compressing.anchors import anchored, few_per_role
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.held_out import HeldOut, held_out_samples, measured_of
from layerlens.compressing.matrices import matrices_of
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.run import MeasureOptions, measure_curves
from layerlens.compressing.unmeasured_curves import unmeasured_curves
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.write_plan import write_plan
from layerlens.config import CompressConfig, output_path, path_beside
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.errors import ConfigError, LayerLensError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.workflow.open import open_streamed

#: Hidden states and journals of a run that is not done.
WORK_FOLDER = "work"
#: What fixes the curves; the target and the policies do not.
_OF_CURVES = {
    *("task", "text_columns", "label_column", "split", "max_length", "seed"),
    *("group_size", "num_samples", "held_out_samples", "batch_size", "probes", "effort"),
}
#: Multiply-accumulates up to which every matrix gets a probe of its own when that is left to us: minutes on two cores.
_CHEAP_PROBES = 2e13
#: Weights up to which all effort is spent when that is left to us: an hour or so on two cores.
_FULL_EFFORT = 300_000_000
#: Tokens that run through a block together.
_TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class CompressResult:
    """What was written, or what a dry run would write.

    Attributes:
        folder: The compressed folder.
        plan: The plan that it holds, measured; None after a dry run without curves.
        left_out: Candidates and baselines that do not exist at this size, and why.
        facts: What a dry run tells.
    """

    folder: Path
    plan: CompressionPlan | None
    left_out: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def compress(
    model: str,
    data: str = "stdlib-docs",
    out: str | Path = "compressed",
    config: CompressConfig | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.compress",
    progress: Progress = SILENT,
) -> CompressResult:
    """Compress a checkpoint to a target, and write what measures best.

    Args:
        model: A folder or a hub id; it is only read.
        data: What to calibrate and measure on.
        out: The folder to write; `OUT.curves` beside it keeps the curves for another size.
        config: The target and the policies.
        dry_run: Print what the plan would be where curves are there, and else what would be measured; write nothing.
        command: The invocation, kept in the plan.
        progress: Who watches.

    Returns:
        The plan that was written, with every candidate's measured divergence.

    Raises:
        LayerLensError: model, data, target or folder are not what they should be; nothing half-written is left.
    """
    config = config or CompressConfig(bits_per_weight=4.25)
    folder = output_path(out)
    checkpoint = open_checkpoint(model)
    if folder.resolve() == checkpoint.folder.resolve():
        raise ConfigError(f"{folder} is the model's own folder; choose another output folder")
    if checkpoint.config.get("quantization_config"):
        raise ConfigError(f"{model} is quantised already; give the original checkpoint")
    run = _Compression(checkpoint, data, folder, config, command, progress)
    if dry_run:
        return run.foretold()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; choose another output folder")
    if folder.exists() and any(folder.iterdir()):
        return run.found()
    with threads(config.threads):
        return run.compress()


class _Compression:
    """One run of the command."""

    def __init__(
        self, checkpoint: Checkpoint, data: str, folder: Path, config: CompressConfig, command: str, progress: Progress
    ) -> None:
        self.checkpoint, self.data_name, self.folder = checkpoint, data, folder
        self.config, self.command, self.progress = config, command, progress
        self.curves_folder = path_beside(folder, ".curves")
        self.work = self.curves_folder / WORK_FOLDER
        self.guard = MemoryGuard(config.max_memory)
        self.has_claim = False

    def compress(self) -> CompressResult:
        data, model = open_streamed(self.checkpoint, self.data_name, self.config, self.progress)
        try:
            part = partition(len(data.examples), data.splits, seed=self.config.seed, has_eval_data=False)
            return self._written(model, data, part)
        except LayerLensError:
            self._clear()
            raise
        finally:
            model.state.reader.close()

    def foretold(self) -> CompressResult:
        """The plan where curves are there, else what would be measured."""
        curves = self._kept_curves()
        if curves is not None:
            plans = plan_compression(curves, self.config, command=self.command)
            return CompressResult(self.folder, plans.plan, plans.left_out, {"nothing was written": "a dry run"})
        data, model = open_streamed(self.checkpoint, self.data_name, self.config, self.progress)
        try:
            matrices = matrices_of(model)
            unmeasured = unmeasured_curves(model, data.task.info, self._grid())
        finally:
            model.state.reader.close()
        plan_compression(unmeasured, self.config)
        smallest = menu_of(unmeasured, self.config).smallest_bytes
        numbers = sum(matrix.out_features * matrix.in_features for matrix in matrices)
        stored = sum(matrix.num_bytes for matrix in matrices)
        widths = sum(self.config.widths)
        return CompressResult(
            self.folder,
            None,
            facts={
                "model": f"{self.checkpoint.id} ({model.info.architecture}, {model.info.num_parameters:,} parameters)",
                "task": f"{data.task.info.kind} on {data.id}",
                "matrices": f"{len(matrices)} with {numbers:,} numbers, {stored / 2**20:,.1f} MiB as stored",
                "smallest": f"{smallest:,} bytes, {8 * smallest / unmeasured.model.num_parameters:.3f} bits per weight",
                "disk": f"about {numbers * (widths / 8 + 3) / 2**20:,.0f} MiB of factors in {self.curves_folder}",
            },
        )

    def found(self) -> CompressResult:
        """The folder that this very command has written already."""
        if (self.folder / PLAN_FILE).exists():
            plan = load_checked_plan(self.folder)
            if plan.model.hash == self.checkpoint.hash() and plan.metadata.get("run") == self._run_identity():
                self.progress.note(f"{self.folder} already holds this model")
                return CompressResult(self.folder, plan)
        raise ConfigError(f"{self.folder} is not empty and holds no result of this very command; choose another output folder")

    def _written(self, model: StreamedModel, data: LoadedData, part: Partition) -> CompressResult:
        if self._kept_curves() is None:
            # Faults of sizes and policies show from shapes alone; they shall not wait for hours of measuring.
            plan_compression(unmeasured_curves(model, data.task.info, self._grid()), self.config)
        curves, held_out = self._curves(model, data, part)
        plans = plan_compression(curves, self.config, command=self.command)
        self._tell(plans)
        everyone = {**plans.candidates, **plans.baselines}
        found = held_out.race(everyone)
        measured = measured_of(everyone, found, list(plans.baselines))
        best = everyone[measured[0].name]
        plan = best.model_copy(
            update={
                "measured": measured,
                "chosen": Chosen(name=measured[0].name, value=best.chosen.value),
                "metadata": {**best.metadata, **self._evidence(found, measured, held_out), "run": self._run_identity()},
            }
        )
        if self.config.leave_one_out:
            trials = held_out.leave_one_out(plan, seed=self.config.seed)
            plan = plan.model_copy(update={"metadata": {**plan.metadata, "leave_one_out": trials.model_dump(mode="json")}})
        write_plan(self.folder, model, plan, curves, held_out.cache)
        shutil.rmtree(self.work, ignore_errors=True)
        return CompressResult(self.folder, plan, plans.left_out)

    def _curves(self, model: StreamedModel, data: LoadedData, part: Partition) -> tuple[Curves, HeldOut]:
        """The curves, measured now or before, and what measures on held-out samples."""
        config = self.config
        samples = part.train[: config.num_samples]
        curves = self._kept_curves()
        is_new = curves is None
        if curves is not None and curves.data.get("hash") != data.hash(samples):
            raise ConfigError(
                f"{self.data_name} has changed since {self.curves_folder} was measured; remove that folder or choose another one"
            )
        if curves is None:
            self._claim()
            curves = measure_curves(
                model,
                data,
                samples,
                MeasureOptions(
                    self._grid(),
                    batch_size=config.batch_size,
                    seed=config.seed,
                    max_memory=config.max_memory,
                    max_store=config.max_store,
                    processes=config.processes,
                    engine=config.engine,
                    threads=config.threads,
                ),
                folder=self.curves_folder,
                work=self.work,
                progress=self.progress,
            )
        chosen = part.race[: config.held_out_samples]
        held_out = HeldOut(
            model,
            held_out_samples(model, data, chosen, batch_size=config.batch_size, tokens_at_once=_TOKENS_AT_ONCE),
            curves,
            FactorCache(self.curves_folder, model),
            self.work,
            max_store=config.max_store,
            after_part=self.guard.check,
            progress=self.progress,
        )
        if not is_new:
            return curves, held_out
        self.work.mkdir(parents=True, exist_ok=True)
        curves = anchored(curves, held_out.probes(self._probed(model, curves, held_out)))
        curves = curves.model_copy(update={"data": {**curves.data, "held_out_samples": len(chosen)}})
        save_curves(self.curves_folder, curves)
        for unfinished in (self.curves_folder / FACTORS_FOLDER).glob(".*"):
            unfinished.unlink()
        shutil.rmtree(self.work, ignore_errors=True)
        return curves, replace(held_out, curves=curves)

    def _probed(self, model: StreamedModel, curves: Curves, held_out: HeldOut) -> list[Any]:
        matrices = curves.matrices
        if self.config.probes == "off":
            return []
        tokens = sum(samples * length for samples, length, _ in held_out.samples.shapes)
        # A probe of block b runs through the blocks from b on: half of the model on average.
        cost = len(matrices) * tokens * model.info.num_parameters / 2
        if self.config.probes == "all" or (self.config.probes == "auto" and cost <= _CHEAP_PROBES):
            return list(matrices)
        return few_per_role(matrices)

    def _tell(self, plans: CompressionPlans) -> None:
        plan = plans.plan
        predicted = sum(layer.predicted_loss for layer in plan.layers)
        self.progress.note(
            f"predicted before anything is written: {plan.size_bytes:,} bytes, {plan.bits_per_weight:.3f} bits per weight, "
            f"loss {predicted:.4g}"
        )

    def _evidence(self, found: Mapping[str, VariantResult], measured: list[Measured], held_out: HeldOut) -> dict[str, Any]:
        best = found[measured[0].name]
        return {
            "held_out": {
                "samples": best.num_samples,
                "positions": len(best.distances),
                "compared": str(best.kind),
                "median": best.median,
                "p99": best.p99,
                "max": best.max,
                "same_top": best.same_top_rate,
            },
            "error_after_blocks": best.error_after_blocks,
            "versions": installed_versions("torch", "transformers"),
            "curves": self.curves_folder.name,
            "data": held_out.curves.data,
        }

    def _kept_curves(self) -> Curves | None:
        """Curves of an earlier run with the same model, data and measuring; None where there are none."""
        if not (self.curves_folder / CURVES_FILE).exists():
            return None
        self._claim()
        return load_curves(self.curves_folder)

    def _claim(self) -> None:
        claim_folder(self.curves_folder, self._curves_identity())
        self.has_claim = True

    def _clear(self) -> None:
        """After a failure: leave no work behind, and no factors without their curves."""
        if not self.has_claim:
            return
        shutil.rmtree(self.work, ignore_errors=True)
        if not (self.curves_folder / CURVES_FILE).exists():
            shutil.rmtree(self.curves_folder / FACTORS_FOLDER, ignore_errors=True)
            release_folder(self.curves_folder)

    def _grid(self) -> OptionGrid:
        config = self.config
        grid = OptionGrid(group_size=config.group_size, widths=tuple(config.widths), extra_ranks=tuple(config.ranks_asked))
        numbers = sum(prod(header.shape) for header in self.checkpoint.tensors.values())
        if config.effort == "full" or (config.effort == "auto" and numbers <= _FULL_EFFORT):
            return grid
        return replace(grid, two_sided_widths=(), corrected_widths=(), sweeps=0)

    def _curves_identity(self) -> dict[str, Any]:
        return {
            "command": "compress",
            "model_hash": self.checkpoint.hash(),
            "data": self.data_name,
            "config": self.config.model_dump(mode="json", include=_OF_CURVES),
            "widths": self.config.widths,
        }

    def _run_identity(self) -> dict[str, Any]:
        aside = {"max_memory", "max_store", "processes", "engine", "threads"}
        return {"data": self.data_name, "config": self.config.model_dump(mode="json", exclude=aside)}
