"""Which layers `proxy_eval` is measured on, decided by counted work and never by a clock.

Work is counted in tokens × blocks of a forward pass; a backward pass counts as much again. The proxies of a layer in block b
start from the kept output of block b − 1 and their backward stops at b, so they cost nothing below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from layerlens.artifacts.layers import LayerSpec

#: Block passes of the statistics for each token: forward, backward, and the products that fill G.
_STATISTICS_PASSES = 3
#: Block passes of one training step of a proxy for each token: forward and backward.
_STEP_PASSES = 2


def proxy_layers(
    layers: Sequence[LayerSpec],
    num_blocks: int,
    *,
    mode: Literal["auto", "all", "few", "off"],
    statistics_tokens: int,
    train_tokens: int,
    held_out_tokens: int,
) -> list[str]:
    """Choose the layers that are measured, in the layers' order.

    Args:
        layers: Planned layers.
        num_blocks: Blocks of the model.
        mode: `all`, `off`; `auto` takes all where they cost no more than the rest of the profile, and otherwise, as `few`
            does, as many of each role, spread over depth, as keep to that; one of each role at least.
        statistics_tokens: Tokens of the statistics pass.
        train_tokens: Tokens of all training steps of one proxy.
        held_out_tokens: Tokens of the held-out samples.
    """
    if mode == "off":
        return []
    names = [spec.layer for spec in layers]
    depth = max(1, num_blocks)
    limit = statistics_tokens * depth * _STATISTICS_PASSES

    def cost(chosen: Sequence[LayerSpec]) -> int:
        passes = train_tokens * _STEP_PASSES + held_out_tokens
        return sum(passes * (depth - (spec.block or 0)) for spec in chosen)

    if mode == "all" or (mode == "auto" and cost(layers) <= limit):
        return names
    by_role: dict[str, list[LayerSpec]] = {}
    for spec in layers:
        by_role.setdefault(spec.role, []).append(spec)
    largest = max(len(members) for members in by_role.values())
    best = _spread(by_role, 1)
    for count in range(2, largest + 1):
        chosen = _spread(by_role, count)
        if cost(chosen) > limit:
            break
        best = chosen
    kept = {spec.layer for spec in best}
    return [name for name in names if name in kept]


def interpolated(layers: Sequence[LayerSpec], measured: dict[str, float]) -> dict[str, float]:
    """Fill in the layers that were not measured: linear in depth within their role, level beyond the outermost."""
    values = dict(measured)
    roles = {spec.role for spec in layers}
    for role in roles:
        members = [spec for spec in layers if spec.role == role]
        known = [(float(spec.block or 0), measured[spec.layer]) for spec in members if spec.layer in measured]
        if not known:
            continue
        known.sort()
        depths, heights = zip(*known, strict=True)
        for spec in members:
            if spec.layer not in measured:
                values[spec.layer] = float(np.interp(float(spec.block or 0), depths, heights))
    return values


def _spread(by_role: dict[str, list[LayerSpec]], count: int) -> list[LayerSpec]:
    """`count` layers of each role, evenly over depth from the first to the last; one alone is the middle one."""
    chosen: list[LayerSpec] = []
    for members in by_role.values():
        if count >= len(members):
            chosen += members
        elif count == 1:
            chosen.append(members[len(members) // 2])
        else:
            chosen += [members[round(position)] for position in np.linspace(0, len(members) - 1, count)]
    return chosen
