"""`layerlens profile`: model and data in, profile folder out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import OutOfMemoryError

from layerlens.artifacts.profile import ARRAYS_FILE, PROFILE_FILE, TIMING_FILE, Profile, load_profile, save_profile
from layerlens.artifacts.store import claim_folder, release_folder, working_alone
from layerlens.config import ProfilingConfig, output_path
from layerlens.errors import ConfigError, LayerLensError
from layerlens.models.devices import choose_device, device_name, forget_peak, peak_device_bytes
from layerlens.models.foreign import model_fault
from layerlens.models.streamed.load import StreamedModel
from layerlens.profiling.calibration import samples_to_profile
from layerlens.profiling.processes import Processes, started_processes
from layerlens.profiling.run import assist_profile, profile_model
from layerlens.profiling.streamed.calibrated import measure_demand
from layerlens.profiling.streamed.memory_plan import choose_settings
from layerlens.profiling.streamed.run import profile_streamed
from layerlens.progress import SILENT, Progress
from layerlens.streaming.device_placement import placement_on
from layerlens.workflow.given import given_config
from layerlens.workflow.open import Opened, open_profile_model, tell_notes

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
    model: str | Path,
    data: str | Path,
    out: str | Path,
    config: ProfilingConfig | Mapping[str, Any] | None = None,
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
        SystemExit: in all but the first of several processes that share the profile, where that one says what is wrong.
    """
    processes = started_processes()
    with processes.joined(), ExitStack() as held:
        return _profile(
            str(model),
            str(data),
            output_path(out),
            given_config(ProfilingConfig, config or {}),
            dry_run=dry_run,
            command=command,
            processes=processes,
            held=held,
            progress=progress,
        )


def _profile(
    model: str,
    data: str,
    folder: Path,
    config: ProfilingConfig,
    *,
    dry_run: bool,
    command: str,
    processes: Processes,
    held: ExitStack,
    progress: Progress,
) -> ProfileResult:
    device = processes.together(partial(_device, config, processes))
    config = config.model_copy(update={"device": device.type})
    opened = open_profile_model(model, data, config, processes)
    if processes.is_first:
        tell_notes(progress, opened.data)
    if dry_run:
        return ProfileResult(folder, None, facts=_facts(opened, config))
    identity = {
        "command": "profile",
        "model": opened.checkpoint.id,
        "model_hash": opened.checkpoint.hash(),
        "data": data,
        "config": config.record(),
    }
    processes.together(partial(_refuse_several, opened, processes))
    is_done = processes.of_first(partial(_claimed, folder, identity, held))
    if not processes.is_first:
        if not is_done:
            assist_profile(opened.task_model, opened.layout, opened.data, opened.part, config, processes=processes)
        return ProfileResult(folder, None)
    if is_done:
        found, _, timing = load_profile(folder)
        _check_data(found, opened, config, folder)
        # Whoever was killed right after writing the profile has left its hidden states.
        shutil.rmtree(folder / WORK_FOLDER, ignore_errors=True)
        progress.note(f"{folder} already holds this profile")
        return ProfileResult(folder, found, seconds=timing.stages if timing else {})
    work = folder / WORK_FOLDER
    forget_peak(device)
    try:
        if isinstance(opened.task_model, StreamedModel):
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
    except Exception as error:
        if not isinstance(error, LayerLensError | OutOfMemoryError) and model_fault(error) is None:
            raise
        shutil.rmtree(work, ignore_errors=True)
        release_folder(folder)
        if not isinstance(error, OutOfMemoryError):
            raise
        raise ConfigError(
            f"the memory of {device_name(device)} is too small for this profile; give --execution stream, a smaller --batch-size "
            "or --max-length, or --device cpu"
        ) from error
    return ProfileResult(folder, measured, seconds=timing.stages)


def _claimed(folder: Path, identity: dict[str, Any], held: ExitStack) -> bool:
    """Make the folder this run's own, and hold it unless the profile is there already, which is returned."""
    is_mine = claim_folder(folder, identity, (PROFILE_FILE, ARRAYS_FILE, TIMING_FILE))
    if is_mine and (folder / PROFILE_FILE).exists():
        return True
    held.enter_context(working_alone(folder))
    return False


def _check_data(found: Profile, opened: Opened, config: ProfilingConfig, folder: Path) -> None:
    """See that the data still hold the samples that a finished profile was measured on."""
    chosen = samples_to_profile(opened.data.id, opened.part.train, config.num_samples, config.seed)
    if found.data.hash != opened.data.hash(chosen):
        raise ConfigError(f"{opened.data.id} has changed since {folder} was written; choose another output folder or remove it")


def _device(config: ProfilingConfig, processes: Processes) -> torch.device:
    """Where the profile computes."""
    if processes.count == 1:
        return choose_device(config.device)
    if config.device == "cuda":
        raise ConfigError("several processes share a profile on processors; start one, or leave --device out")
    return choose_device("cpu")


def _refuse_several(opened: Opened, processes: Processes) -> None:
    if processes.count > 1 and isinstance(opened.task_model, StreamedModel):
        raise ConfigError("a model that is streamed is profiled by one process; start one, or hold it with --execution memory")


def _facts(opened: Opened, config: ProfilingConfig) -> dict[str, str]:
    if isinstance(opened.task_model, StreamedModel):
        return _streamed_facts(opened.task_model, opened, config)
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
        "samples": _sample_facts(opened, config),
        "memory": f"{4 * (parameters + gradients + grams) / 2**20:,.0f} MiB of weights and statistics, beside activations",
    }


def _streamed_facts(model: StreamedModel, opened: Opened, config: ProfilingConfig) -> dict[str, str]:
    demand = measure_demand(model, opened.data, opened.part, config)
    settings = choose_settings(demand, max_memory=config.max_memory, max_store=config.max_store)
    return {
        "model": f"{opened.checkpoint.id} ({model.info.architecture}, {model.info.num_parameters:,} parameters), block by block",
        "task": f"{opened.data.task.info.kind} on {opened.data.id}, columns {opened.data.columns or 'none'}",
        "layers": f"{len(opened.layout.layers)} in {len(opened.layout.blocks)} blocks"
        + (" (roles guessed from the tree)" if opened.layout.is_guessed else ""),
        "samples": _sample_facts(opened, config),
        "memory": f"{demand.peak(settings) / 2**20:,.0f} MiB at the peak, {settings.tokens_at_once:,} tokens at once, "
        f"{settings.num_sweeps} sweep(s) a block, weights {'held' if settings.holds_weights else 'read in slices'}",
        "disk": f"{settings.num_slots * demand.slot_bytes / 2**20:,.0f} MiB of hidden states"
        + (f", and before them {demand.head_bytes / 2**20:,.0f} MiB to fit the new head" if demand.head_bytes else ""),
    }


def _sample_facts(opened: Opened, config: ProfilingConfig) -> str:
    length, num = opened.data.task.info.max_length, len(opened.part.train)
    tokens = "" if length is None else f", at most {length} tokens each"
    return f"{min(config.num_samples, num)} of {num} training samples{tokens}"
