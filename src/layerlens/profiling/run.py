"""The profile of a model in memory: head fit, the pass, spectra, gain curves, proxies, timing, in this order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from layerlens.artifacts.layers import ModelLayout
from layerlens.artifacts.profile import HeadFit, Profile, Timing
from layerlens.config import ProfilingConfig, default_max_rank
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Batch, Example
from layerlens.data.partition import Partition
from layerlens.data.task import Task
from layerlens.linalg.singular_values import singular_values
from layerlens.models.devices import device_name
from layerlens.models.head import describe_model
from layerlens.models.load import TaskModel
from layerlens.models.threads import threads
from layerlens.models.weights import weight_matrix
from layerlens.profiling.activation_memory import count_step
from layerlens.profiling.assembly import Measured, assemble_profile
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.block_timing import time_model
from layerlens.profiling.calibration import calibration_batches, samples_to_profile
from layerlens.profiling.counted_samples import counted_samples
from layerlens.profiling.head_samples import fit_new_head
from layerlens.profiling.intervals import resampled_counts
from layerlens.profiling.latency import latency_models
from layerlens.profiling.measures import measure_layers
from layerlens.profiling.processes import ALONE, Processes
from layerlens.profiling.proxies import measure_proxies
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.stages import Stages
from layerlens.profiling.statistics import Statistics
from layerlens.profiling.statistics_pass import collect_statistics
from layerlens.profiling.step_memory import block_profiles, step_memory
from layerlens.profiling.typical_batch import typical_batch
from layerlens.profiling.update_timing import update_seconds_per_parameter
from layerlens.progress import SILENT, Progress
from layerlens.streaming.memory_guard import MemoryGuard


def profile_model(
    task_model: TaskModel,
    layout: ModelLayout,
    data: LoadedData,
    part: Partition,
    config: ProfilingConfig,
    *,
    command: str,
    processes: Processes = ALONE,
    progress: Progress | None = None,
) -> tuple[Profile, dict[str, np.ndarray], Timing]:
    """Measure every planned layer of a model on samples of `part.train`.

    Args:
        task_model: Model with the task's head; new head parameters are fitted in place, nothing else changes.
        layout: Its layers and blocks.
        data: Encoded samples and their task.
        part: Which samples may be used; the others are never read.
        config: What to measure, on how much.
        command: The invocation, for the record.
        processes: Processes that share the samples; the others call `assist_profile`.
        progress: Who watches.

    Returns:
        The profile (the same bytes for the same input), its arrays `spectrum/<layer>` and `gain/<layer>`, and seconds.

    Raises:
        ConfigError: No metric with a weight can be measured, or the memory cap was passed.
        DataError: Fewer than two samples.
        NotFiniteError: A loss or gradient is NaN or infinite.
        UnsupportedModelError: A layer's statistics cannot be told apart by sample.
    """
    watcher = progress or SILENT
    stages, guard = Stages(), MemoryGuard(config.max_memory)
    model, task, layers = task_model.model, data.task, layout.layers
    warnings: list[str] = []
    with threads(config.threads):
        found = _Pass.run(task_model, layout, data, part, config, processes, guard, stages, warnings, watcher)
        statistics, chosen, examples, lengths = found.statistics, found.chosen, found.examples, found.lengths
        guard.check()
        info = describe_model(task_model, layout)
        arrays: dict[str, np.ndarray] = {}
        with stages.timed("spectra"):
            for spec in watcher.track(layers, "spectra", total=len(layers)):
                values = singular_values(weight_matrix(model.get_submodule(spec.layer)))
                arrays[f"spectrum/{spec.layer}"] = values.cpu().numpy()
        guard.check()
        with stages.timed("curves"):
            gram_tokens = max((sums.shared.num_rows for sums in statistics.layers.values()), default=0)
            measures = measure_layers(
                statistics,
                layers,
                resampled_counts(len(chosen), seed=config.seed),
                damping=config.damping if config.whiten else None,
                max_rank=config.max_rank or default_max_rank(info.hidden_size),
                is_cross_fitted=config.cross_fit,
                progress=watcher,
            )
            arrays |= {f"gain/{layer}": curve for layer, curve in measures.curves.items()}
        guard.check()
        input_groups, losses = statistics.input_groups, statistics.losses
        head_fit = found.head_fit
        # The Grams are the largest thing in memory; nothing below needs them.
        del statistics, found
        with stages.timed("proxies"):
            proxies = measure_proxies(model, layers, layout.blocks, task, examples, lengths, config, watcher)
        guard.check()
        with stages.timed("timing"):
            typical = typical_batch(task, examples, lengths, num_samples=len(part.train), batch_size=config.batch_size)
            timing = _time(model, layout, task, to_device_of(model, typical), tokens_of_image=max(lengths))
            counts = [count_step(model, layout, task, samples) for samples in counted_samples(task, examples, lengths)]
        guard.check()
    measured = Measured(
        measures=measures,
        input_groups=input_groups,
        losses=losses,
        gram_tokens=gram_tokens,
        lengths=lengths,
        head_fit=head_fit,
        proxies=proxies,
        blocks=block_profiles(layout.blocks, counts),
        step_memory=step_memory(counts),
        warnings=warnings,
    )
    profile = assemble_profile(measured, info, layout, data, chosen, config, command)
    for warning in profile.warnings:
        watcher.note(warning)
    return profile, arrays, timing.model_copy(update={"stages": stages.seconds})


def assist_profile(
    task_model: TaskModel,
    layout: ModelLayout,
    data: LoadedData,
    part: Partition,
    config: ProfilingConfig,
    *,
    processes: Processes,
) -> None:
    """Measure this process's share of the samples for the first process, which runs `profile_model` with the same arguments."""
    with threads(config.threads):
        _Pass.run(task_model, layout, data, part, config, processes, MemoryGuard(config.max_memory), Stages(), [], SILENT)


@dataclass(frozen=True)
class _Pass:
    """The statistics of the samples, and which these are."""

    statistics: Statistics
    chosen: list[int]
    examples: list[Example]
    lengths: list[int]
    head_fit: HeadFit | None

    @classmethod
    def run(
        cls,
        task_model: TaskModel,
        layout: ModelLayout,
        data: LoadedData,
        part: Partition,
        config: ProfilingConfig,
        processes: Processes,
        guard: MemoryGuard,
        stages: Stages,
        warnings: list[str],
        watcher: Progress,
    ) -> _Pass:
        """Fit a new head, then run the pass; where processes share it they part here."""
        model, task = task_model.model, data.task

        def fit() -> tuple[list[int], HeadFit | None]:
            chosen = samples_to_profile(data.id, part.train, config.num_samples, config.seed)
            return chosen, fit_new_head(task_model, layout, data, part, chosen, config, warnings)

        def measure() -> _Pass:
            examples = data.take(chosen)
            lengths = sample_lengths(model, layout.layers, task, examples)
            blocks = [model.get_submodule(block.path) for block in layout.blocks]
            statistics = collect_statistics(
                model,
                layout.layers,
                task,
                examples,
                calibration_batches(lengths, batch_size=config.batch_size, gram_tokens=config.gram_tokens, seed=config.seed),
                fisher_labels=config.fisher_labels,
                seed=config.seed,
                sample_names=chosen,
                bf16_blocks=blocks if config.precision == "bf16" else (),
                processes=processes,
                after_batch=guard.check,
                progress=watcher,
            )
            return cls(statistics, chosen, examples, lengths, head_fit)

        with stages.timed("head_fit"):
            chosen, head_fit = processes.together(fit)
            processes.share_parameters(model, task_model.new_parameters)
        with stages.timed("statistics"):
            found = processes.together(measure)
            processes.merge(found.statistics)
            # The first process goes on alone: what befalls it from here on is nothing that others wait for.
            processes.leave()
        return found


def _time(model: nn.Module, layout: ModelLayout, task: Task, batch: Batch, *, tokens_of_image: int) -> Timing:
    device, batch_size, tokens = next(model.parameters()).device, len(next(iter(batch.values()))), batch.get("input_ids")
    timed = time_model(model, layout.blocks, task, batch)
    return Timing(
        device=device_name(device),
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        tokens_per_batch=batch_size * tokens_of_image if tokens is None else tokens.numel(),
        outside_forward_seconds=timed.outside_forward_seconds,
        outside_backward_seconds=timed.outside_backward_seconds,
        outside_backward_frozen_seconds=timed.outside_backward_frozen_seconds,
        update_seconds_per_parameter=update_seconds_per_parameter(device),
        arithmetic=timed.arithmetic,
        blocks=timed.blocks,
        latency=latency_models(layout.layers, device),
    )
