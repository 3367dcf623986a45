"""`layerlens compress`: curves once, then for any size a plan, a race on held-out samples, and a folder that transformers loads.

OUT.curves/    curves.json, factors/        measured once for a model and its data; another size uses them again
OUT/           weights, config, plan.json   what measured best among our plans and the baselines
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from layerlens.artifacts.compression import CompressionPlan, Curves
from layerlens.artifacts.plan import Chosen
from layerlens.artifacts.versions import installed_versions
from layerlens.budget.compression import CompressionPlans, plan_compression, smallest_told
from layerlens.budget.format_menu import menu_of
from layerlens.compressing.held_out import HeldOut, measured_of
from layerlens.compressing.matrices import matrices_of, unused_told
from layerlens.compressing.option_grid import kept_bytes
from layerlens.compressing.tensor_files import check_new_folder, restore_folder
from layerlens.compressing.unmeasured_curves import unmeasured_curves
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.write_plan import write_plan
from layerlens.config import CompressConfig, output_path
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.data.source_name import whole_name
from layerlens.errors import ConfigError, LayerLensError
from layerlens.models.checkpoint import Checkpoint, open_checkpoint
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.threads import threads
from layerlens.progress import SILENT, Progress
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.workflow.compress_curves import curves_and_samples, has_changed, measured_elsewhere, option_grid, probes_all
from layerlens.workflow.compress_rounds import probed_choices, settled_plans
from layerlens.workflow.curves_folder import CurvesFolder
from layerlens.workflow.earlier_result import check_replaceable, earlier_plan, is_run, made_of
from layerlens.workflow.given import given_config
from layerlens.workflow.open import open_streamed


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
    model: str | Path,
    data: str | Path = "stdlib-docs",
    out: str | Path = "compressed",
    config: CompressConfig | Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.compress",
    progress: Progress = SILENT,
) -> CompressResult:
    """Compress a checkpoint to a target, and write what measures best.

    Args:
        model: A folder or a hub id; it is only read.
        data: What to calibrate and measure on.
        out: The folder to write; `OUT.curves` beside it keeps the curves for another size. An earlier result for this model and
            data makes way for the new one when that is whole; anything else in it is refused.
        config: The target and the policies.
        dry_run: Print what the plan would be where curves are there, and else what would be measured; write nothing.
        command: The invocation, kept in the plan.
        progress: Who watches.

    Returns:
        The plan that was written, with every candidate's measured divergence.

    Raises:
        LayerLensError: model, data, target or folder are not what they should be, or memory or disk ran out. Nothing half-written
            is left; what was measured before a failure stays in `OUT.curves`, and the same command goes on from there.
    """
    config = given_config(CompressConfig, config or {"bits_per_weight": 4.25})
    folder = output_path(out)
    checkpoint = open_checkpoint(str(model))
    source = checkpoint.folder.resolve()
    if folder.resolve() == source:
        raise ConfigError(f"{folder} is the model's own folder; choose another output folder")
    if source in folder.resolve().parents:
        raise ConfigError(f"{folder} lies in the model's own folder, which is only read; choose another output folder")
    check_new_folder(folder)
    if checkpoint.config.get("quantization_config"):
        raise ConfigError(f"{model} is quantised already; give the original checkpoint")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder; choose another output folder")
    run = _Compression(checkpoint, str(data), folder, config, command, progress)
    if not dry_run:
        restore_folder(folder)
    earlier = earlier_plan(folder, checkpoint, run.identity())
    if dry_run:
        return run.foretold()
    if earlier is not None and is_run(earlier, run.identity()):
        return run.found(earlier)
    with threads(config.threads):
        return run.compress(earlier)


class _Compression:
    """One run of the command."""

    def __init__(
        self, checkpoint: Checkpoint, data: str, folder: Path, config: CompressConfig, command: str, progress: Progress
    ) -> None:
        self.checkpoint, self.data_name, self.folder = checkpoint, data, folder
        self.config, self.command, self.progress = config, command, progress
        self.grid = option_grid(checkpoint, config)
        self.curves = CurvesFolder(folder, checkpoint, data, config, self.grid)
        self.guard = MemoryGuard(config.max_memory)

    def compress(self, earlier: CompressionPlan | None) -> CompressResult:
        """Measure what is not known, and write what is best in the place of an earlier result."""
        data, model = open_streamed(self.checkpoint, self.data_name, self.config, self.progress)
        try:
            part = partition(len(data.examples), data.splits, seed=self.config.seed, has_eval_data=False)
            if earlier is not None:
                self._check_samples(earlier, data, part)
            return self._written(model, data, part, earlier)
        except LayerLensError as error:
            told = self.curves.after_failure(error)
            if told is error:
                raise
            raise told from error
        finally:
            self.curves.let_go()
            model.state.reader.close()

    def foretold(self) -> CompressResult:
        """The plan where curves are there, else what would be measured."""
        curves = self.curves.kept()
        if curves is not None:
            plans = plan_compression(curves, self.config, command=self.command)
            return CompressResult(self.folder, plans.plan, plans.left_out, {"nothing was written": "a dry run"})
        data, model = open_streamed(self.checkpoint, self.data_name, self.config, self.progress)
        try:
            matrices = matrices_of(model)
            unmeasured = self._unmeasured(model, data)
        finally:
            model.state.reader.close()
        plan = plan_compression(unmeasured, self.config).plan
        numbers = sum(matrix.out_features * matrix.in_features for matrix in matrices)
        kept = sum(kept_bytes(self.grid, matrix.out_features, matrix.in_features) for matrix in matrices)
        stored = sum(matrix.num_bytes for matrix in matrices)
        return CompressResult(
            self.folder,
            None,
            facts={
                "model": f"{self.checkpoint.id} ({model.info.architecture}, {model.info.num_parameters:,} parameters)",
                "task": f"{data.task.info.kind} on {data.id}",
                "matrices": f"{len(matrices)} with {numbers:,} numbers, {stored / 2**20:,.1f} MiB as stored",
                **self._size_told(unmeasured, plan),
                "disk": f"about {kept / 2**20:,.0f} MiB of codes and factors in {self.curves.path}",
            },
        )

    def _size_told(self, unmeasured: Curves, plan: CompressionPlan) -> dict[str, str]:
        """What the fixed-rank form takes, which shapes alone decide; of another target the smallest size that there is."""
        if self.config.rank is None:
            return {"smallest": smallest_told(menu_of(unmeasured, self.config))}
        factored = sum(layer.scheme.format.has_factors for layer in plan.layers)
        return {
            "size": f"{plan.size_bytes:,} bytes ({plan.bits_per_weight:.4f} bits per weight): factors for {factored} of "
            f"{len(plan.layers)} matrices, the rest kept"
        }

    def found(self, plan: CompressionPlan) -> CompressResult:
        """The folder that this very command has written already."""
        data, model = open_streamed(self.checkpoint, self.data_name, self.config)
        model.state.reader.close()
        part = partition(len(data.examples), data.splits, seed=self.config.seed, has_eval_data=False)
        self._check_samples(plan, data, part)
        self.progress.note(f"{self.folder} already holds this model")
        return CompressResult(self.folder, plan, plan.metadata.get("left_out", {}))

    def _check_samples(self, plan: CompressionPlan, data: LoadedData, part: Partition) -> None:
        """See that the data still hold the samples that the folder's curves were measured on."""
        if has_changed(plan.metadata.get("data", {}), data, part, self.config):
            raise ConfigError(f"{data.id} has changed since {self.folder} was written; choose another output folder")

    def _written(
        self, model: StreamedModel, data: LoadedData, part: Partition, earlier: CompressionPlan | None
    ) -> CompressResult:
        if self.curves.kept() is None:
            # Faults of sizes and policies show from shapes alone; they shall not wait for hours of measuring.
            plan_compression(self._unmeasured(model, data), self.config)
        curves, held_out = self._curves(model, data, part)
        plans, curves = settled_plans(
            curves,
            self.config,
            held_out.probes,
            probes_all=probes_all(held_out, self.config),
            command=self.command,
            save=self.curves.save,
            progress=self.progress,
        )
        held_out = replace(held_out, curves=curves)
        self._tell(plans)
        everyone = {**plans.candidates, **plans.baselines}
        found = held_out.race(everyone)
        measured = measured_of(everyone, found, list(plans.baselines))
        first = plans.first_to_write(measured)
        best = everyone[first.name]
        evidence = {**best.metadata, **self._evidence(found[first.name], held_out), "run": self.identity()}
        evidence["notes"] = [*evidence["notes"], *measured_elsewhere(curves), *probed_choices(curves), *unused_told(model)]
        plan = best.model_copy(
            update={
                "measured": measured,
                "chosen": Chosen(name=first.name, value=best.chosen.value),
                "metadata": evidence,
            }
        )
        if self.config.leave_one_out:
            trials = held_out.leave_one_out(plan, seed=self.config.seed)
            plan = plan.model_copy(update={"metadata": {**plan.metadata, "leave_one_out": trials.model_dump(mode="json")}})
        may_replace = None
        if earlier is not None:
            may_replace = partial(check_replaceable, self.folder, earlier, self.checkpoint)
            gone = " and ".join(["the result for another target", *made_of(self.folder)])
            self.progress.note(f"replacing {gone} in {self.folder}")
        write_plan(self.folder, model, plan, curves, held_out.cache, may_replace)
        self.curves.finish()
        return CompressResult(self.folder, plan, plans.left_out)

    def _curves(self, model: StreamedModel, data: LoadedData, part: Partition) -> tuple[Curves, HeldOut]:
        """The curves, measured now or before, and what measures on held-out samples."""
        held_out = curves_and_samples(self.curves, model, data, part, self.config, guard=self.guard, progress=self.progress)
        return held_out.curves, held_out

    def _unmeasured(self, model: StreamedModel, data: LoadedData) -> Curves:
        return unmeasured_curves(model, data.task.info, self.grid)

    def _tell(self, plans: CompressionPlans) -> None:
        plan = plans.plan
        predicted = sum(layer.predicted_loss for layer in plan.layers)
        self.progress.note(
            f"predicted before anything is written: {plan.size_bytes:,} bytes, {plan.bits_per_weight:.3f} bits per weight, "
            f"loss {predicted:.4g}"
        )

    def _evidence(self, best: VariantResult, held_out: HeldOut) -> dict[str, Any]:
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
            "curves": self.curves.path.name,
            "data": held_out.curves.data,
        }

    def identity(self) -> dict[str, Any]:
        """What tells this run from another one of the same model."""
        aside = {"max_memory", "max_store", "processes", "engine", "threads"}
        return {"data": whole_name(self.data_name), "config": self.config.model_dump(mode="json", exclude=aside)}
