"""What a bottleneck adapter and a prefix gain beside a LoRA of as many parameters, measured at a few sites of each kind.

    share = Σ_sites drop(method) / Σ_sites drop(LoRA)

Both drops are of held-out loss after the same steps, from the same start, on the same batches. A site's LoRA is the
low-rank proxy of the layer that a bottleneck stands behind, or the mean of those of a prefix's attention: the gains that the
planner's curves speak of. A quotient of sums, and not a mean of quotients, since single sites may gain next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from layerlens.artifacts.layers import BlockSpec, LayerSpec
from layerlens.config import ProfilingConfig
from layerlens.nn.bottleneck import BOTTLENECK_RATE, Bottleneck
from layerlens.nn.prefix import PREFIX_RATE, Prefix
from layerlens.nn.prefix_attention import attend_prefixes_, prefix_fault
from layerlens.profiling.proxy_bench import ProxyBench
from layerlens.words import Method

#: Sites of each kind, spread over depth.
NUM_SITES = 2

SpecT = TypeVar("SpecT")


@dataclass(frozen=True)
class _Site:
    """A place for a proxy of another method, and the layers whose gain it is compared with."""

    method: Method
    path: str
    block: int
    features: int
    members: tuple[LayerSpec, ...]


def method_shares(
    bench: ProxyBench,
    before: Float[np.ndarray, " samples"],
    model: nn.Module,
    layers: Sequence[LayerSpec],
    blocks: Sequence[BlockSpec],
    values: Mapping[str, float],
    config: ProfilingConfig,
) -> dict[Method, float]:
    """Measure the methods that the model can have.

    Args:
        bench: Trains and scores proxies.
        before: Held-out loss of each sample before any training, nats.
        model: Task model, frozen.
        layers: Planned layers.
        blocks: Its blocks.
        values: Drop of held-out loss by each layer's low-rank proxy, nats.
        config: Rank of the low-rank proxies, learning rate, seed.

    Returns:
        Share by method, at least 0; without a method that has no site, or whose layers' own proxies gain nothing.
    """
    sites = [*_sublayers(layers), *_attentions(layers, blocks, model)]
    gained: dict[Method, float] = {}
    compared: dict[Method, float] = {}
    for site in sites:
        drop = float((before - _losses_after(bench, model, site, config)).mean())
        gained[site.method] = gained.get(site.method, 0.0) + drop
        of_lora = sum(values[member.layer] for member in site.members) / len(site.members)
        compared[site.method] = compared.get(site.method, 0.0) + of_lora
    return {method: max(0.0, gained[method] / compared[method]) for method in gained if compared[method] > 0}


def proxy_size(each: int, fixed: int, members: Sequence[LayerSpec], rank: int) -> int:
    """The size whose parameters are closest to those of a LoRA of `rank` on one of the members; at least 1.

    Args:
        each: Parameters per unit of size.
        fixed: Parameters whatever the size.
        members: Layers compared with.
        rank: Of their proxies.
    """
    wanted = rank * sum(spec.in_features + spec.out_features for spec in members) / len(members)
    return max(1, round((wanted - fixed) / each))


def _sublayers(layers: Sequence[LayerSpec]) -> Iterator[_Site]:
    outputs = [spec for spec in layers if spec.role.is_sublayer_output]
    for role in dict.fromkeys(spec.role for spec in outputs):
        for spec in _spread([spec for spec in outputs if spec.role is role]):
            yield _Site(Method.ADAPTER, spec.layer, spec.block or 0, spec.out_features, (spec,))


def _attentions(layers: Sequence[LayerSpec], blocks: Sequence[BlockSpec], model: nn.Module) -> Iterator[_Site]:
    usable = [
        block
        for block in blocks
        if block.attention is not None
        and prefix_fault(model.get_submodule(block.attention)) is None
        and any(spec.block == block.block and spec.role.is_attention for spec in layers)
    ]
    for block in _spread(usable):
        members = tuple(spec for spec in layers if spec.block == block.block and spec.role.is_attention)
        yield _Site(Method.PREFIX, block.attention or "", block.block, block.kv_features, members)


def _spread(members: Sequence[SpecT]) -> list[SpecT]:
    """A few of them, in the middle of equal stretches of the depth."""
    count = min(NUM_SITES, len(members))
    return [members[int((number + 0.5) * len(members) / count)] for number in range(count)]


def _losses_after(bench: ProxyBench, model: nn.Module, site: _Site, config: ProfilingConfig) -> Float[np.ndarray, " samples"]:
    module = model.get_submodule(site.path)
    generator, device = torch.Generator().manual_seed(config.seed), next(module.parameters()).device
    if site.method is Method.ADAPTER:
        size = proxy_size(2 * site.features + 1, site.features, site.members, config.proxy_rank)
        bottleneck = Bottleneck(site.features, size, generator=generator, device=device)
        placed = _after(bottleneck, module)
        return bench.losses_after(bottleneck, placed, config, block=site.block, name=site.path, rate=BOTTLENECK_RATE)
    tokens = proxy_size(2 * site.features, 0, site.members, config.proxy_rank)
    prefix = Prefix(site.features, tokens, generator=generator, device=device)
    return bench.losses_after(prefix, _before(prefix, module), config, block=site.block, name=site.path, rate=PREFIX_RATE)


@contextmanager
def _after(bottleneck: Bottleneck, layer: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(bottleneck.place_after_(layer))
        yield


@contextmanager
def _before(prefix: Prefix, attention: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(attend_prefixes_(attention))
        stack.callback(prefix.place_before_(attention))
        yield
