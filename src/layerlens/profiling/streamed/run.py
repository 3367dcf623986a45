"""The profile of a model that stays on disk: the same measurements as in memory, block by block, a step at a time.

    head      features of the new head's samples, fit                     once, where a head is new
    forward   blocks 0 … L−1                                              hidden states to disk
    loss      final norm, head, loss, first gradient
    backward  blocks L−1 … 0: recompute, statistics, curves, spectra      what a block left goes to the journal

Each finished step is noted in the journal, so a run that was stopped goes on where it was, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from layerlens.artifacts.profile import HeadFit, Profile, Timing
from layerlens.artifacts.store import sha256_of_json
from layerlens.config import ProfilingConfig, default_max_rank
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.linalg.singular_values import singular_values
from layerlens.models.block_autocast import blocks_in_bf16
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.threads import threads
from layerlens.profiling.assembly import Measured, assemble_profile
from layerlens.profiling.head_samples import fit_new_head
from layerlens.profiling.intervals import resampled_counts
from layerlens.profiling.measures import Measures, measure_layers
from layerlens.profiling.stages import Stages
from layerlens.profiling.step_memory import block_profiles, step_memory
from layerlens.profiling.streamed.block_result import BlockResult, load_block, save_block
from layerlens.profiling.streamed.calibrated import StreamedCalibration
from layerlens.profiling.streamed.features import StreamedFeatures
from layerlens.profiling.streamed.memory_plan import Demand, StreamSettings
from layerlens.profiling.streamed.passes import Losses, StreamedPass
from layerlens.profiling.streamed.timing import shared_inputs, time_blocks
from layerlens.progress import SILENT, Progress
from layerlens.streaming.activation_store import STATES_FILE, ActivationStore, is_store_whole
from layerlens.streaming.journal import Journal
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.streaming.placement import HostPlacement, Placement
from layerlens.streaming.slots import Slots


def profile_streamed(
    model: StreamedModel,
    data: LoadedData,
    part: Partition,
    config: ProfilingConfig,
    *,
    work: Path,
    settings_for: Callable[[Demand], StreamSettings],
    command: str,
    progress: Progress | None = None,
    placement: Placement | None = None,
) -> tuple[Profile, dict[str, np.ndarray], Timing]:
    """Measure every planned layer of a streamed model; arguments and results are those of `profile_model`.

    Args:
        model: Opened by `load_streamed_model`; a new head is fitted in place.
        data: Encoded samples and their task.
        part: Which samples may be used.
        config: What to measure.
        work: Folder for hidden states and the journal; removed when the profile is done.
        settings_for: Chooses how the model is streamed, given what it asks of memory.
        command: The invocation, for the record.
        progress: Who watches.
        placement: Where blocks are computed; None for the processor. Its owner closes it.

    Raises:
        ConfigError: The disk is full, the memory cap was passed, or no metric with a weight can be measured.
        DataError: Fewer than two samples.
        NotFiniteError: A loss, an output or a gradient is NaN or infinite.
        UnsupportedModelError: The model cannot be streamed.
    """
    # What importing and opening took for a moment would count in the peak of all that follows.
    MemoryGuard.trim()
    placement = placement or HostPlacement()
    model.place(placement.device)
    run = _Run(model, data, part, config, work, settings_for, progress or SILENT, placement)
    try:
        with threads(config.threads):
            return run.profile(command)
    finally:
        model.state.reader.close()


class _Run(StreamedCalibration):
    def __init__(
        self,
        model: StreamedModel,
        data: LoadedData,
        part: Partition,
        config: ProfilingConfig,
        work: Path,
        settings_for: Callable[[Demand], StreamSettings],
        progress: Progress,
        placement: Placement,
    ) -> None:
        super().__init__(model, data, part, config)
        self.placement = placement
        self.settings = settings_for(self.demand())
        self.samples = self.in_batches(self.settings.tokens_at_once)
        self.slots = Slots(len(model.layout.blocks), self.settings.num_slots, self.labels)
        self.guard = MemoryGuard(self.settings.max_memory)
        self.work, self.progress = work, progress
        self.counts = resampled_counts(len(self.examples), seed=config.seed)
        self.stages = Stages()
        self.warnings: list[str] = []

    def profile(self, command: str) -> tuple[Profile, dict[str, np.ndarray], Timing]:
        journal = Journal(self.work, self._identity())
        is_half_done = 1 < journal.num_done < self._num_steps()
        if is_half_done and not is_store_whole(self.work / STATES_FILE, self.samples.shapes, self.slots.num_slots):
            # Somebody made room: the steps after the head's have nothing to start from.
            journal.go_back(1)
        # In float32 always: a head fitted on rounded features may stop at another step, and be quite another head.
        with self.stages.timed("head_fit"):
            head_fit = self._fit_head(journal, 0)
        modules = [self.model.model.get_submodule(block.path) for block in self.model.layout.blocks]
        with blocks_in_bf16(modules if self.config.precision == "bf16" else (), self.placement.device):
            losses, blocks = self._pass(journal, 1)
        measures = Measures()
        for result in blocks:
            measures.update(result.measures)
        arrays = {name: values for result in blocks for name, values in result.spectra.items()}
        arrays |= {f"gain/{layer}": curve for layer, curve in measures.curves.items()}
        with self.stages.timed("timing"):
            typical = self.typical(self.settings.tokens_at_once)
            timing = time_blocks(
                self.model,
                self.data.task,
                typical,
                batch_size=min(self.config.batch_size, len(self.part.train)),
                holds_weights=self.settings.holds_weights,
                loss_tokens=self.settings.loss_tokens,
            )
        self.guard.check()
        counts = self.step_counts(min(self.settings.tokens_at_once, self.settings.loss_tokens))
        self.guard.check()
        input_groups = {layer: group for block in blocks for layer, group in block.input_groups.items()}
        if self.settings.num_sweeps > 1:
            # Where roles are guessed, readers of one input may be in several sweeps, each blind to the others.
            input_groups |= shared_inputs(self.model, typical)
        measured = Measured(
            measures=measures,
            input_groups=input_groups,
            losses=losses.values,
            gram_tokens=max((block.gram_tokens for block in blocks), default=0),
            lengths=self.lengths,
            head_fit=head_fit,
            proxies=None,
            blocks=block_profiles(self.model.layout.blocks, counts),
            step_memory=step_memory(counts),
            warnings=self.warnings,
        )
        profile = assemble_profile(measured, self.model.info, self.model.layout, self.data, self.chosen, self.config, command)
        for warning in profile.warnings:
            self.progress.note(warning)
        return profile, arrays, timing.model_copy(update={"stages": self.stages.seconds})

    def _pass(self, journal: Journal, step: int) -> tuple[Losses, list[BlockResult]]:
        """Forward and backward, step by step."""
        num_blocks = len(self.model.layout.blocks)
        turns = [*range(num_blocks), None, *(block for _, block, _ in self._downward())]
        self.placement.follow(turn for position, turn in enumerate(turns) if not journal.is_done(step + position))
        with ActivationStore(self.work / STATES_FILE, self.samples.shapes, self.slots.num_slots) as store:
            steps = StreamedPass(
                self.model,
                self.samples,
                store,
                holds_weights=self.settings.holds_weights,
                loss_tokens=self.settings.loss_tokens,
                after_part=self.guard.check,
                sample_names=self.chosen,
                placement=self.placement,
            )
            with self.stages.timed("forward"):
                for block in self.progress.track(range(num_blocks), "forward, block by block", total=num_blocks):
                    if not journal.is_done(step + block):
                        steps.forward(block, *self._upward(block))
                        journal.finish(step + block)
                step += num_blocks
            losses = self._losses(journal, step, steps)
            step += 1
            with self.stages.timed("backward"):
                blocks = self._backward(journal, step, steps, losses)
        return losses, blocks

    def _identity(self) -> dict[str, Any]:
        """What the numbers depend on, to their last bit: on an accelerator other ones than on a processor."""
        kind = self.placement.device.type
        precision = self.config.precision
        return {
            **self.settings.identity(),
            "data": self.data_hash(),
            "shapes": sha256_of_json({"shapes": self.samples.shapes}),
            **self.data.task.loss_identity,
            **({} if kind == "cpu" else {"device": kind}),
            **({} if precision == "fp32" else {"precision": precision}),
        }

    def _num_steps(self) -> int:
        """Head, forward, loss and backward."""
        return 1 + len(self.model.layout.blocks) + 1 + len(self._downward())

    def _upward(self, block: int) -> tuple[int | None, int]:
        target = self.slots.upward(block + 1)
        if target is None:
            raise AssertionError("only the first boundary has no slot")
        return self.slots.upward(block), target

    def _fit_head(self, journal: Journal, step: int) -> HeadFit | None:
        names = self.model.new_parameters
        parameters: dict[str, nn.Parameter] = dict(self.model.model.named_parameters())
        if journal.is_done(step):
            kept, arrays = journal.load("head")
            with torch.no_grad():
                for name in names:
                    parameters[name].copy_(torch.from_numpy(arrays[name]))
            self.warnings += kept["warnings"]
            return None if kept["fit"] is None else HeadFit.model_validate(kept["fit"])
        features = StreamedFeatures(
            self.model,
            self.data.task,
            self.work,
            tokens_at_once=self.settings.tokens_at_once,
            holds_weights=self.settings.holds_weights,
            after_part=self.guard.check,
            progress=self.progress,
            placement=self.placement,
        )
        try:
            fit = fit_new_head(
                self.model, self.model.layout, self.data, self.part, self.chosen, self.config, self.warnings, features
            )
        finally:
            features.close()
        journal.save(
            "head",
            {"fit": None if fit is None else fit.model_dump(mode="json"), "warnings": self.warnings},
            {name: parameters[name].detach().cpu().numpy() for name in names},
        )
        journal.finish(step)
        return fit

    def _losses(self, journal: Journal, step: int, steps: StreamedPass) -> Losses:
        if not journal.is_done(step):
            last = len(self.model.layout.blocks)
            source = self.slots.upward(last)
            if source is None:
                raise AssertionError("a model has blocks")
            with self.stages.timed("loss"):
                found = steps.loss(
                    source,
                    {labels: self.slots.gradient(last, labels) for labels in self.labels},
                    len(self.examples),
                    self.batches,
                    self.config.seed,
                )
            journal.save("losses", {"num_terms": found.num_terms}, {"losses": found.values})
            journal.finish(step)
        values, arrays = journal.load("losses")
        return Losses(arrays["losses"], float(values["num_terms"]))

    def _downward(self) -> list[tuple[int, int, bool]]:
        """Steps of the backward pass: group, block, and whether it runs backward or only gives its output again."""
        plan: list[tuple[int, int, bool]] = []
        for group in reversed(range(len(self.slots.groups))):
            members = self.slots.groups[group]
            plan += [(group, block, False) for block in members[:-1]]
            plan += [(group, block, True) for block in reversed(members)]
        return plan

    def _backward(self, journal: Journal, step: int, steps: StreamedPass, losses: Losses) -> list[BlockResult]:
        """Every block's results, from the lowest block up."""
        plan = self._downward()
        for position, (group, block, is_backward) in enumerate(
            self.progress.track(plan, "backward, block by block", total=len(plan))
        ):
            if journal.is_done(step + position):
                continue
            if is_backward:
                save_block(journal, block, self._block(steps, group, block, losses))
            else:
                target = self.slots.inside(group, block + 1)
                if target is None:
                    raise AssertionError("a boundary inside a group has a slot")
                steps.forward(block, self.slots.inside(group, block), target)
            journal.finish(step + position)
        return [load_block(journal, block) for block in range(len(self.model.layout.blocks))]

    def _block(self, steps: StreamedPass, group: int, block: int, losses: Losses) -> BlockResult:
        """Statistics, curves and spectra of one block's layers; its input's gradient goes to the store."""
        result = BlockResult(Measures(), {}, 0, {})
        sweeps = self.settings.sweeps(self.layers_of(block))
        for sweep, layers in enumerate(sweeps):
            is_last = sweep == len(sweeps) - 1
            statistics = steps.backward(
                block,
                self.slots.inside(group, block),
                {labels: self.slots.gradient(block + 1, labels) for labels in self.labels},
                {labels: self.slots.gradient(block, labels) for labels in self.labels} if is_last and block else {},
                layers,
                self.batches,
                losses,
            )
            rows = max(sums.shared.num_rows for sums in statistics.layers.values())
            result = replace(result, gram_tokens=max(result.gram_tokens, rows))
            result.input_groups.update(statistics.input_groups)
            result.measures.update(
                measure_layers(
                    statistics,
                    layers,
                    self.counts,
                    damping=self.config.damping if self.config.whiten else None,
                    max_rank=self.config.max_rank or default_max_rank(self.model.info.hidden_size),
                    is_cross_fitted=self.config.cross_fit,
                )
            )
            del statistics
            self.guard.check()
            self.guard.trim()
        modules = self.model.layers_of(block)
        for spec in self.layers_of(block):
            weight = modules[spec.layer].weight_matrix().to(self.placement.device)
            result.spectra[f"spectrum/{spec.layer}"] = singular_values(weight).cpu().numpy()
            del weight
            self.guard.trim()
        return result
