"""The profile of a model in memory: head fit, the pass, spectra, gain curves, proxies, timing, in this order."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from layerlens.artifacts.layers import BlockSpec, ModelLayout
from layerlens.artifacts.profile import BlockProfile, DataInfo, HeadFit, LayerProfile, Profile, Timing
from layerlens.artifacts.versions import installed_versions
from layerlens.config import ProfilingConfig, default_max_rank
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Batch
from layerlens.data.partition import Partition
from layerlens.data.task import Task
from layerlens.errors import DataError
from layerlens.linalg.singular_values import singular_values
from layerlens.models.head import describe_model, fit_head
from layerlens.models.load import TaskModel
from layerlens.models.weights import weight_matrix
from layerlens.profiling.activation_memory import activation_bytes
from layerlens.profiling.batch_device import to_device_of
from layerlens.profiling.block_timing import time_model
from layerlens.profiling.calibration import calibration_batches, choose_samples
from layerlens.profiling.gains import gain_curves
from layerlens.profiling.head_samples import choose_head_samples
from layerlens.profiling.latency import latency_models
from layerlens.profiling.layer_records import layer_records, proxy_warnings, weights_of
from layerlens.profiling.metrics import raw_metrics
from layerlens.profiling.normalisation import spread_warnings
from layerlens.profiling.proxies import measure_proxies
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.statistics_pass import collect_statistics
from layerlens.profiling.typical_batch import typical_samples
from layerlens.progress import SILENT, Progress

_PACKAGES = ("torch", "transformers", "numpy")


def profile_model(
    task_model: TaskModel,
    layout: ModelLayout,
    data: LoadedData,
    part: Partition,
    config: ProfilingConfig,
    *,
    command: str,
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
        progress: Who watches.

    Returns:
        The profile (the same bytes for the same input), its arrays `spectrum/<layer>` and `gain/<layer>`, and seconds.

    Raises:
        ConfigError: No metric with a weight can be measured.
        DataError: Fewer than two samples.
        NotFiniteError: A loss or gradient is NaN or infinite.
        UnsupportedModelError: A layer's statistics cannot be told apart by sample.
    """
    watcher = progress or SILENT
    stages = _Stages()
    model, task, layers = task_model.model, data.task, layout.layers
    chosen = choose_samples(part.train, config.num_samples, config.seed)
    if len(chosen) < 2:
        raise DataError(f"{data.id} leaves {len(chosen)} training samples to profile on, 2 or more are needed; use more data")
    warnings: list[str] = []
    with _threads(config.threads):
        with stages.timed("head_fit"):
            head_fit = _fit_head(task_model, layout, data, part, chosen, config, warnings)
        with stages.timed("statistics"):
            examples = data.take(chosen)
            lengths = sample_lengths(model, layers, task, examples)
            batches = calibration_batches(lengths, batch_size=config.batch_size, gram_tokens=config.gram_tokens, seed=config.seed)
            statistics = collect_statistics(
                model,
                layers,
                task,
                examples,
                batches,
                fisher_labels=config.fisher_labels,
                seed=config.seed,
                sample_names=chosen,
                progress=watcher,
            )
            raw = raw_metrics(statistics)
        arrays: dict[str, np.ndarray] = {}
        with stages.timed("spectra"):
            for spec in watcher.track(layers, "spectra", total=len(layers)):
                values = singular_values(weight_matrix(model.get_submodule(spec.layer)))
                arrays[f"spectrum/{spec.layer}"] = values.cpu().numpy()
        info = describe_model(task_model, layout)
        with stages.timed("curves"):
            max_rank = config.max_rank or default_max_rank(info.hidden_size)
            curves = gain_curves(statistics, layers, damping=config.damping, max_rank=max_rank, progress=watcher)
            arrays |= {f"gain/{layer}": curve for layer, curve in curves.items()}
        gram_tokens = max((sums.shared.num_rows for sums in statistics.layers.values()), default=0)
        input_groups, losses = statistics.input_groups, statistics.losses
        # The Grams are the largest thing in memory; nothing below needs them.
        del statistics
        with stages.timed("proxies"):
            proxies = measure_proxies(model, layers, layout.blocks, task, examples, lengths, config, watcher)
        warnings += proxy_warnings(config, proxies)
        with stages.timed("timing"):
            typical = typical_samples(lengths, config.batch_size)
            batch = to_device_of(model, task.collate([examples[sample] for sample in typical]))
            num_padded = len(typical) * max(lengths[sample] for sample in typical)
            timing = _time(model, layout, task, batch, len(typical), num_padded)
            blocks = _blocks(model, layout.blocks, task, batch, num_padded)
    weights = weights_of(config, proxies)
    records: list[LayerProfile] = layer_records(layers, raw, proxies, input_groups, weights)
    warnings += spread_warnings([record.utility for record in records], [record.metrics for record in records], len(chosen))
    profile = Profile(
        model=info,
        task=task.info,
        data=DataInfo(
            id=data.id,
            hash=data.hash(chosen),
            num_samples=len(chosen),
            num_tokens=sum(lengths),
            gram_tokens=gram_tokens,
            columns=data.columns,
        ),
        layers=records,
        blocks=blocks,
        head=layout.head,
        is_roles_guessed=layout.is_guessed,
        fisher_labels=config.fisher_labels.value,
        metric_weights=weights,
        head_fit=head_fit,
        proxy=proxies.settings if proxies else None,
        mean_length=sum(lengths) / len(lengths),
        base_loss=float(losses.mean()),
        seed=config.seed,
        config=config.model_dump(mode="json"),
        command=command,
        versions=installed_versions(*_PACKAGES),
        warnings=warnings,
    )
    for warning in warnings:
        watcher.note(warning)
    return profile, arrays, timing.model_copy(update={"stages": stages.seconds})


def _fit_head(
    task_model: TaskModel,
    layout: ModelLayout,
    data: LoadedData,
    part: Partition,
    chosen: list[int],
    config: ProfilingConfig,
    warnings: list[str],
) -> HeadFit | None:
    """Fit what is random in the head; None where nothing is."""
    if not task_model.new_parameters:
        return None
    samples = choose_head_samples(part.train, chosen, config.head_samples, config.seed)
    if samples.has_overlap:
        warnings.append("the head was fitted on samples that are measured as well: the data is too small for both")
    train, held_out = data.take(samples.train), data.take(samples.held_out)
    return fit_head(task_model, layout, train, held_out, data.task, seed=config.seed)


def _time(model: nn.Module, layout: ModelLayout, task: Task, batch: Batch, batch_size: int, num_tokens: int) -> Timing:
    device = next(model.parameters()).device
    timed = time_model(model, layout.blocks, task, batch)
    return Timing(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        tokens_per_batch=num_tokens,
        outside_forward_seconds=timed.outside_forward_seconds,
        outside_backward_seconds=timed.outside_backward_seconds,
        blocks=timed.blocks,
        latency=latency_models(layout.layers, device),
    )


def _blocks(model: nn.Module, blocks: list[BlockSpec], task: Task, batch: Batch, num_tokens: int) -> list[BlockProfile]:
    counted = activation_bytes(model, blocks, task, batch)
    return [
        BlockProfile(**block.model_dump(), activation_bytes_per_token=saved / num_tokens)
        for block, saved in zip(blocks, counted, strict=True)
    ]


class _Stages:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use that many processor threads until the block ends; torch's own choice if none."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
