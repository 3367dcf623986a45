"""`layerlens profile`: model and data in, profile folder out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from layerlens.artifacts.profile import PROFILE_FILE, Profile, load_profile, save_profile
from layerlens.artifacts.store import claim_folder, release_folder
from layerlens.config import ProfilingConfig, output_path
from layerlens.errors import LayerLensError
from layerlens.profiling.run import profile_model
from layerlens.progress import SILENT, Progress
from layerlens.workflow.open import Opened, open_model


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
    opened = open_model(model, data, config)
    if dry_run:
        return ProfileResult(folder, None, facts=_facts(opened, config))
    identity = {
        "command": "profile",
        "model": opened.checkpoint.id,
        "model_hash": opened.checkpoint.hash(),
        "data": data,
        "config": config.model_dump(mode="json"),
    }
    if claim_folder(folder, identity) and (folder / PROFILE_FILE).exists():
        found, _, timing = load_profile(folder)
        progress.note(f"{folder} already holds this profile")
        return ProfileResult(folder, found, seconds=timing.stages if timing else {})
    try:
        measured, arrays, timing = profile_model(
            opened.task_model, opened.layout, opened.data, opened.part, config, command=command, progress=progress
        )
        save_profile(folder, measured, arrays, timing)
    except LayerLensError:
        release_folder(folder)
        raise
    return ProfileResult(folder, measured, seconds=timing.stages)


def _facts(opened: Opened, config: ProfilingConfig) -> dict[str, str]:
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
