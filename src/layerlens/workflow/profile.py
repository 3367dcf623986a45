"""`layerlens profile`: model and data in, profile folder out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import OutOfMemoryError

from layerlens.artifacts.profile import PROFILE_FILE, Profile, load_profile, save_profile
from layerlens.artifacts.store import claim_folder, release_folder
from layerlens.config import ProfilingConfig, output_path
from layerlens.errors import ConfigError, LayerLensError
from layerlens.models.devices import choose_device, device_name, forget_peak, peak_device_bytes
from layerlens.models.streamed.load import StreamedModel
from layerlens.profiling.processes import Processes, leave_processes, started_processes
from layerlens.profiling.run import assist_profile, profile_model
from layerlens.profiling.streamed.calibrated import measure_demand
from layerlens.profiling.streamed.memory_plan import choose_settings
from layerlens.profiling.streamed.run import profile_streamed
from layerlens.progress import SILENT, Progress
from layerlens.streaming.device_placement import placement_on
from layerlens.workflow.open import Opened, open_profile_model

#: Where a streamed profile keeps its hidden states and its journal until it is done.
WORK_FOLDER = "work"


@dataclass(frozen=True)
class ProfileResult:
    """A profile as written, or what a dry run would measure."""

    folder: Path
    profile: Profile | None
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


def profile(
    model: str,
    data: str,
    out: str | Path,
    config: ProfilingConfig | None = None,
    *,
    dry_run: bool = False,
    command: str = "layerlens.profile",
    progress: Progress = SILENT,
) -> ProfileResult:
    """Measure every layer of a model on data, and write the profile folder.

    Args:
        model: A folder or a hub id.
        data: A built-in name, a file, a folder of images or a hub data set.
        out: Folder for the profile; a folder that holds the same finished profile is read, not made again.
        config: What to measure.
        dry_run: Load and count, but measure and write nothing.
        command: The invocation, kept in the profile.
        progress: Who watches.

    Returns:
        The profile, the seconds of each stage, and in a dry run the facts alone.

    Raises:
        LayerLensError: model, data or folder are not what they should be; nothing half-written is left.
    """
    config = config or ProfilingConfig()
    folder = output_path(out)
    processes = started_processes()
    device = _device(config, processes)
    config = config.model_copy(update={"device": device.type})
    opened = open_profile_model(model, data, config)
    if dry_run:
        return ProfileResult(folder, None, facts=_facts(opened, config))
    identity = {
        "command": "profile",
        "model": opened.checkpoint.id,
        "model_hash": opened.checkpoint.hash(),
        "data": data,
        "config": config.record(),
    }
    if not processes.is_first:
        return _assist(opened, config, folder, processes)
    if claim_folder(folder, identity) and (folder / PROFILE_FILE).exists():
        found, _, timing = load_profile(folder)
        progress.note(f"{folder} already holds this profile")
        return ProfileResult(folder, found, seconds=timing.stages if timing else {})
    work = folder / WORK_FOLDER
    forget_peak(device)
    try:
        if isinstance(opened.task_model, StreamedModel):
            _refuse_several(processes)
            with placement_on(device) as placement:
                measured, arrays, timing = profile_streamed(
                    opened.task_model,
                    opened.data,
                    opened.part,
                    config,
                    work=work,
                    settings_for=partial(choose_settings, max_memory=config.max_memory, max_store=config.max_store),
                    command=command,
                    progress=progress,
                    placement=placement,
                )
        else:
            opened.task_model.model.to(device)
            measured, arrays, timing = profile_model(
                opened.task_model,
                opened.layout,
                opened.data,
                opened.part,
                config,
                command=command,
                processes=processes,
                progress=progress,
            )
        if (peak := peak_device_bytes(device)) is not None:
            timing = timing.model_copy(update={"peak_device_bytes": peak})
            progress.note(f"computed on {timing.device}, with at most {peak / 2**30:.2f} GiB of its memory")
        save_profile(folder, measured, arrays, timing)
        shutil.rmtree(work, ignore_errors=True)
        leave_processes()
    except (LayerLensError, OutOfMemoryError) as error:
        shutil.rmtree(work, ignore_errors=True)
        release_folder(folder)
        if isinstance(error, LayerLensError):
            raise
        raise ConfigError(
            f"the memory of {device_name(device)} is too small for this profile; give --execution stream, a smaller --batch-size "
            "or --max-length, or --device cpu"
        ) from error
    return ProfileResult(folder, measured, seconds=timing.stages)


def _device(config: ProfilingConfig, processes: Processes) -> torch.device:
    """Where the profile computes."""
    if processes.count == 1:
        return choose_device(config.device)
    if config.device == "cuda":
        raise ConfigError("several processes share a profile on processors; start one, or leave --device out")
    return choose_device("cpu")


def _assist(opened: Opened, config: ProfilingConfig, folder: Path, processes: Processes) -> ProfileResult:
    """Measure this process's share of the samples for the first one, and write nothing."""
    if isinstance(opened.task_model, StreamedModel):
        _refuse_several(processes)
    assist_profile(opened.task_model, opened.layout, opened.data, opened.part, config, processes=processes)
    leave_processes()
    return ProfileResult(folder, None)


def _refuse_several(processes: Processes) -> None:
    if processes.count > 1:
        raise ConfigError("a model that is streamed is profiled by one process; start one, or hold it with --execution memory")


def _facts(opened: Opened, config: ProfilingConfig) -> dict[str, str]:
    if isinstance(opened.task_model, StreamedModel):
        return _streamed_facts(opened.task_model, opened, config)
    samples = min(config.num_samples, len(opened.part.train))
    parameters = sum(parameter.numel() for parameter in opened.task_model.model.parameters())
    # Two halves of the mean gradient, and one Gram on each side of each layer.
    gradients = sum(2 * layer.weight_params for layer in opened.layout.layers)
    grams = sum(layer.out_features**2 for layer in opened.layout.layers)
    grams += sum(layer.in_features**2 for layer in opened.layout.layers if layer.input_group == layer.layer)
    return {
        "model": f"{opened.checkpoint.id} ({type(opened.task_model.model).__name__}, {parameters:,} parameters)",
        "task": f"{opened.data.task.info.kind} on {opened.data.id}, columns {opened.data.columns or 'none'}",
        "layers": f"{len(opened.layout.layers)} in {len(opened.layout.blocks)} blocks"
        + (" (roles guessed from the tree)" if opened.layout.is_guessed else ""),
        "samples": f"{samples} of {len(opened.part.train)} training samples, at most {config.max_length} tokens each",
        "memory": f"{4 * (parameters + gradients + grams) / 2**20:,.0f} MiB of weights and statistics, beside activations",
    }


def _streamed_facts(model: StreamedModel, opened: Opened, config: ProfilingConfig) -> dict[str, str]:
    demand = measure_demand(model, opened.data, opened.part, config)
    settings = choose_settings(demand, max_memory=config.max_memory, max_store=config.max_store)
    samples = min(config.num_samples, len(opened.part.train))
    return {
        "model": f"{opened.checkpoint.id} ({model.info.architecture}, {model.info.num_parameters:,} parameters), block by block",
        "task": f"{opened.data.task.info.kind} on {opened.data.id}, columns {opened.data.columns or 'none'}",
        "layers": f"{len(opened.layout.layers)} in {len(opened.layout.blocks)} blocks"
        + (" (roles guessed from the tree)" if opened.layout.is_guessed else ""),
        "samples": f"{samples} of {len(opened.part.train)} training samples, at most {config.max_length} tokens each",
        "memory": f"{demand.peak(settings) / 2**20:,.0f} MiB at the peak, {settings.tokens_at_once:,} tokens at once, "
        f"{settings.num_sweeps} sweep(s) a block, weights {'held' if settings.holds_weights else 'read in slices'}",
        "disk": f"{settings.num_slots * demand.slot_bytes / 2**20:,.0f} MiB of hidden states",
    }
