"""`proxy_eval`: what a few real training steps of a small adapter on one layer alone gain on held-out samples.

For each measured layer a low-rank update (rank and steps from the config) is trained by Adam on the same few batches,
from the same start, with everything else frozen; the metric is mean held-out loss before minus after, in nats. Negative
where the steps did harm.

Layers share their batches, so they share the luck of the draw: where few samples say little about others (a small
classification set, say), all drops may be noise of one sign. So the proxies judge themselves: unless the drop, meant
over the measured layers, is above zero by two standard errors over the held-out samples, they are blind and have no say
in the utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerlens.artifacts.layers import BlockSpec, LayerSpec
from layerlens.artifacts.profile import ProxySettings
from layerlens.config import ProfilingConfig
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.models.frozen import frozen
from layerlens.nn.low_rank_probe import LowRankProbe
from layerlens.profiling.method_shares import method_shares
from layerlens.profiling.proxy_bench import ProxyBench
from layerlens.profiling.proxy_schedule import interpolated, proxy_layers
from layerlens.progress import SILENT, Progress

#: The update counts twice: the customary alpha / rank of LoRA.
_SCALING = 2.0
#: Standard errors that the mean drop must lie above zero.
_LEAST_SIGNIFICANCE = 2.0


@dataclass(frozen=True)
class Proxies:
    """`values` of every layer, measured or interpolated; `measured` names the former."""

    values: dict[str, float]
    measured: frozenset[str]
    settings: ProxySettings


def measure_proxies(
    model: nn.Module,
    layers: Sequence[LayerSpec],
    blocks: Sequence[BlockSpec],
    task: Task,
    examples: Sequence[Example],
    lengths: Sequence[int],
    config: ProfilingConfig,
    progress: Progress = SILENT,
) -> Proxies | None:
    """Measure the layers that the config asks for.

    Args:
        model: Task model; its weights are left as they were.
        layers: Planned layers.
        blocks: Blocks of the model, in forward order.
        task: Loss and labels.
        examples: Samples to draw from; those trained on and those scored are disjoint.
        lengths: Tokens of each of them.
        config: Steps, batch, rank, learning rate, seed, and on how many layers.

    Returns:
        None where proxies are off or there are too few samples to hold any out.
    """
    train, held_out = _split(len(examples), config)
    if config.proxy == "off" or not train:
        return None
    chosen = proxy_layers(
        layers,
        len(blocks),
        mode=config.proxy,
        statistics_tokens=sum(lengths),
        train_tokens=sum(lengths[sample] for batch in train for sample in batch),
        held_out_tokens=sum(lengths[sample] for sample in held_out),
    )
    by_length = sorted(held_out, key=lambda sample: (lengths[sample], sample))
    scored = [by_length[start : start + config.batch_size] for start in range(0, len(by_length), config.batch_size)]
    specs = {spec.layer: spec for spec in layers}
    with frozen(model):
        batches = [[examples[sample] for sample in batch] for batch in (*train, *scored)]
        bench = ProxyBench(model, task, blocks, batches, len(train))
        before = bench.held_out_losses(0)
        drops = {
            name: before - _losses_after(bench, model, specs[name], config)
            for name in progress.track(chosen, "proxies", total=len(chosen))
        }
        values = interpolated(layers, {name: float(drop.mean()) for name, drop in drops.items()})
        is_blind = not _is_significant(np.mean(list(drops.values()), axis=0))
        shares = {} if is_blind else method_shares(bench, before, model, layers, blocks, values, config)
    return Proxies(
        values=values,
        measured=frozenset(chosen),
        settings=ProxySettings(
            rank=config.proxy_rank,
            steps=config.proxy_steps,
            learning_rate=config.proxy_learning_rate,
            train_samples=len({sample for batch in train for sample in batch}),
            held_out_samples=len(held_out),
            is_complete=len(chosen) == len(layers),
            num_measured=len(chosen),
            is_blind=is_blind,
            method_shares=shares,
        ),
    )


def _split(num_samples: int, config: ProfilingConfig) -> tuple[list[list[int]], list[int]]:
    """Batches of training samples, and held-out samples: disjoint, at most half of the samples held out.

    Where the samples do not last for all steps, later steps see the earlier batches again.
    """
    order = np.random.default_rng([config.seed, 2]).permutation(num_samples).tolist()
    num_held_out = min(config.proxy_held_out, num_samples // 2)
    held_out, rest = order[:num_held_out], order[num_held_out:]
    if not held_out:
        return [], []
    size = min(config.proxy_batch_size, len(rest))
    starts = range(0, len(rest) - size + 1, size)
    distinct = [rest[start : start + size] for start in starts][: config.proxy_steps]
    return [distinct[step % len(distinct)] for step in range(config.proxy_steps)], held_out


def _is_significant(drops: Float[np.ndarray, " samples"]) -> bool:
    """Whether the mean drop is above zero by more than noise over the samples."""
    if len(drops) < 2:
        return False
    error = float(drops.std(ddof=1)) / len(drops) ** 0.5
    return float(drops.mean()) > _LEAST_SIGNIFICANCE * error


def _losses_after(bench: ProxyBench, model: nn.Module, spec: LayerSpec, config: ProfilingConfig) -> Float[np.ndarray, " samples"]:
    """Loss of each held-out sample after the steps of a low-rank proxy on one layer."""
    module = model.get_submodule(spec.layer)
    generator = torch.Generator().manual_seed(config.seed)
    probe = LowRankProbe(spec.in_features, spec.out_features, config.proxy_rank, scaling=_SCALING, generator=generator)
    probe.to(next(module.parameters()).device)
    return bench.losses_after(probe, probe.beside(module), config, block=spec.block or 0, name=spec.layer)
