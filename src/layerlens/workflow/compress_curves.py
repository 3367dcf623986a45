"""The curves that a compression starts from: kept from an earlier run, or measured and anchored by probes now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from layerlens.artifacts.compression import Curves, MatrixCurve, Option
from layerlens.compressing.anchors import anchored, few_per_role, probed_option
from layerlens.compressing.factor_cache import FactorCache
from layerlens.compressing.held_out import HeldOut, held_out_samples
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.run import MeasureOptions, measure_curves, versions_of_figures
from layerlens.config import CompressConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import Checkpoint
from layerlens.models.streamed.load import StreamedModel
from layerlens.progress import SILENT, Progress
from layerlens.streaming.memory_guard import MemoryGuard
from layerlens.workflow.curves_folder import CurvesFolder

#: Multiply-accumulates up to which every matrix gets a probe of its own when that is left to us: minutes on two cores.
_CHEAP_PROBES = 2e13
#: Weights up to which all effort is spent when that is left to us: an hour or so on two cores.
_FULL_EFFORT = 300_000_000
#: Tokens that run through a block together.
_TOKENS_AT_ONCE = 2048


def option_grid(checkpoint: Checkpoint, config: CompressConfig) -> OptionGrid:
    """The options that every matrix is given."""
    grid = OptionGrid(group_size=config.group_size, widths=tuple(config.widths), extra_ranks=tuple(config.ranks_asked))
    numbers = sum(prod(header.shape) for header in checkpoint.tensors.values())
    if config.effort == "full" or (config.effort == "auto" and numbers <= _FULL_EFFORT):
        return grid
    return replace(grid, two_sided_widths=(), corrected_widths=(), sweeps=0, is_iterated=True)


def curves_and_samples(
    folder: CurvesFolder,
    model: StreamedModel,
    data: LoadedData,
    part: Partition,
    config: CompressConfig,
    *,
    guard: MemoryGuard,
    progress: Progress = SILENT,
) -> HeldOut:
    """Anchored curves, with the held-out samples on which everything else is measured.

    Args:
        folder: Where curves are kept.
        model: The original, streamed.
        data: Encoded samples and their task.
        part: Which of them calibrate, and which are held out.
        config: How curves are measured.
        guard: Watches memory.
        progress: Who watches.

    Raises:
        LayerLensError: as `measure_curves` and `HeldOut.probes`, or the data is not what kept curves were measured on.
    """
    samples = part.train[: config.num_samples]
    curves = folder.kept()
    if curves is not None and has_changed(curves.data, data, part, config):
        raise ConfigError(f"{data.id} has changed since {folder.path} was measured; remove that folder or choose another one")
    is_new = curves is None
    if is_new:
        folder.claim()
    folder.hold()
    if curves is None:
        curves = _calibrated(folder, model, data, samples, config, progress)
    chosen = part.race[: config.held_out_samples]
    held_out = HeldOut(
        model,
        held_out_samples(model, data, chosen, batch_size=config.batch_size, tokens_at_once=_TOKENS_AT_ONCE),
        curves,
        FactorCache(folder.path, model),
        folder.work,
        max_store=config.max_store,
        holds_weights=config.max_memory is None,
        after_part=guard.check,
        progress=progress,
    )
    if not is_new:
        return held_out
    folder.work.mkdir(parents=True, exist_ok=True)
    curves = anchored(curves, held_out.probes(_probed(held_out, config)))
    measured_on: dict[str, Any] = {"held_out_samples": len(chosen), "held_out_hash": data.hash(chosen)}
    if model.new_parameters:
        measured_on["compared"] = "embedding"
    curves = curves.model_copy(update={"data": {**curves.data, **measured_on}})
    folder.save(curves)
    folder.finish()
    return replace(held_out, curves=curves)


def has_changed(told: Mapping[str, Any], data: LoadedData, part: Partition, config: CompressConfig) -> bool:
    """Whether data hold other samples than those that curves tell of, for calibration or for what is measured beside it.

    Args:
        told: `data` of curves, or of a plan made from them; what an older release did not keep is not compared.
        data: As they are now.
        part: Which of them calibrate, and which are held out.
        config: How many are.
    """
    used = {"hash": part.train[: config.num_samples], "held_out_hash": part.race[: config.held_out_samples]}
    return any(name in told and told[name] != data.hash(samples) for name, samples in used.items())


def measured_elsewhere(curves: Curves) -> list[str]:
    """One sentence where kept curves were measured under other versions than those that race now; none where they were not."""
    then, now = curves.versions, versions_of_figures()
    others = [f"{name} {then[name]}, now {version}" for name, version in now.items() if then.get(name, version) != version]
    return [f"the curves were measured under other versions than those that race: {'; '.join(others)}"] if others else []


def probes_all(held_out: HeldOut, config: CompressConfig) -> bool:
    """Whether every matrix is probed; otherwise a few of each role are."""
    if config.probes != "auto":
        return config.probes == "all"
    tokens = sum(samples * length for samples, length, _ in held_out.samples.shapes)
    # A probe of block b runs through the blocks from b on: half of the model on average.
    cost = len(held_out.curves.matrices) * tokens * held_out.model.info.num_parameters / 2
    return cost <= _CHEAP_PROBES


def _calibrated(
    folder: CurvesFolder,
    model: StreamedModel,
    data: LoadedData,
    samples: Sequence[int],
    config: CompressConfig,
    progress: Progress,
) -> Curves:
    options = MeasureOptions(
        option_grid(model.checkpoint, config),
        batch_size=config.batch_size,
        seed=config.seed,
        max_memory=config.max_memory,
        max_store=config.max_store,
        processes=config.processes,
        engine=config.engine,
        threads=config.threads,
    )
    curves = measure_curves(model, data, samples, options, folder=folder.path, work=folder.work, progress=progress)
    folder.is_calibrated = True
    return curves


def _probed(held_out: HeldOut, config: CompressConfig) -> list[tuple[MatrixCurve, Option]]:
    if config.probes == "off":
        return []
    matrices = held_out.curves.matrices
    wanted = matrices if probes_all(held_out, config) else few_per_role(matrices)
    return [(matrix, option) for matrix in wanted if (option := probed_option(matrix)) is not None]
