"""What both ways of profiling, in memory and block by block, put together in the end: the profile from its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.layers import ModelInfo, ModelLayout
from layerlens.artifacts.profile import BlockProfile, DataInfo, HeadFit, Profile, StepMemory
from layerlens.artifacts.versions import installed_versions
from layerlens.config import ProfilingConfig
from layerlens.data.dataset import LoadedData
from layerlens.profiling.intervals import utility_intervals
from layerlens.profiling.layer_records import idle_warnings, layer_records, proxy_warnings, weights_of
from layerlens.profiling.measures import Measures
from layerlens.profiling.normalisation import spread_warnings
from layerlens.profiling.proxies import Proxies

_PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True)
class Measured:
    """Everything a profile is made of.

    Attributes:
        measures: Metrics of the pass by layer, with their intervals and replicates.
        input_groups: By layer, the first layer that was seen to read the same input.
        losses: Loss of each sample, nats.
        gram_tokens: Rows of the Grams.
        lengths: Tokens of each sample without padding.
        head_fit: How the head was fitted; None where nothing was new.
        proxies: Measured proxies; None where there are none.
        blocks: The blocks with the activations they keep.
        step_memory: What a training step takes beside these.
        warnings: Said so far.
    """

    measures: Measures
    input_groups: Mapping[str, str]
    losses: np.ndarray
    gram_tokens: int
    lengths: Sequence[int]
    head_fit: HeadFit | None
    proxies: Proxies | None
    blocks: list[BlockProfile]
    step_memory: StepMemory
    warnings: list[str]


def assemble_profile(
    measured: Measured,
    info: ModelInfo,
    layout: ModelLayout,
    data: LoadedData,
    chosen: Sequence[int],
    config: ProfilingConfig,
    command: str,
) -> Profile:
    """Normalise, weigh and describe what was measured.

    Args:
        measured: The measurements.
        info: The model.
        layout: Its layers.
        data: The data, for its name and hash.
        chosen: Samples that were measured, by their position in the data.
        config: The config of the profile.
        command: The invocation, for the record.

    Raises:
        ConfigError: No metric with a weight was measured.
    """
    weights = weights_of(config, measured.proxies)
    raw, proxies = measured.measures.raw, measured.proxies
    if not config.debias:
        raw = {layer: {**values, "gradient_energy": values["gradient_norm_squared"]} for layer, values in raw.items()}
    fixed = {layer: {"proxy_eval": value} for layer, value in proxies.values.items()} if proxies else None
    of_utility = utility_intervals(
        {spec.layer: measured.measures.replicates[spec.layer] for spec in layout.layers}, weights, fixed
    )
    intervals = {layer: {**found, "utility": of_utility[layer]} for layer, found in measured.measures.intervals.items()}
    if not config.debias:
        # These two are of the debiased energy.
        undone = {"gradient_energy", "utility"}
        intervals = {
            layer: {name: interval for name, interval in found.items() if name not in undone}
            for layer, found in intervals.items()
        }
    records = layer_records(layout.layers, raw, proxies, measured.input_groups, weights, intervals)
    warnings = [*measured.warnings, *proxy_warnings(config, measured.proxies)]
    warnings += idle_warnings(records)
    warnings += spread_warnings([record.utility for record in records], [record.metrics for record in records], len(chosen))
    return Profile(
        model=info,
        task=data.task.info,
        data=DataInfo(
            id=data.id,
            hash=data.hash(list(chosen)),
            num_samples=len(chosen),
            num_tokens=sum(measured.lengths),
            gram_tokens=measured.gram_tokens,
            columns=data.columns,
        ),
        layers=records,
        blocks=measured.blocks,
        head=layout.head,
        is_roles_guessed=layout.is_guessed,
        fisher_labels=config.fisher_labels.value,
        metric_weights=weights,
        head_fit=measured.head_fit,
        proxy=measured.proxies.settings if measured.proxies else None,
        mean_length=sum(measured.lengths) / len(measured.lengths),
        base_loss=float(measured.losses.mean()),
        step_memory=measured.step_memory,
        seed=config.seed,
        config=config.record(),
        command=command,
        versions=installed_versions(*_PACKAGES),
        warnings=warnings,
    )
