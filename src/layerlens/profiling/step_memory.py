"""From what is counted on samples of two lengths to bytes at any length.

    block, per sample      per_token · T + per_pair · T²          attention that is not fused keeps its weights
    outside, per sample    per_sample + per_token · T

Where there is one length alone, all is taken to be per token in the blocks and per sample outside, exact at that length.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerlens.artifacts.layers import BlockSpec
from layerlens.artifacts.profile import BlockProfile, StepMemory
from layerlens.profiling.activation_memory import Counted


def block_profiles(blocks: Sequence[BlockSpec], counts: Sequence[Counted]) -> list[BlockProfile]:
    """The blocks with what they keep.

    Args:
        blocks: In the order of the counts.
        counts: Of the longer samples, then of the shorter ones if there are any.
    """
    found = []
    for position, block in enumerate(blocks):
        per_token, per_pair = _growing([(count.num_tokens, count.saved[position] / count.num_samples) for count in counts])
        found.append(
            BlockProfile(**block.model_dump(), activation_bytes_per_token=per_token, attention_bytes_per_token_pair=per_pair)
        )
    return found


def step_memory(counts: Sequence[Counted]) -> StepMemory:
    """What a step takes beside what the blocks keep, from the same counts."""
    per_token, per_pair = _growing([(count.num_tokens, max(count.working) / count.num_samples) for count in counts])
    per_sample, outside_per_token = _linear([(count.num_tokens, count.outside / count.num_samples) for count in counts])
    return StepMemory(
        outside_bytes_per_sample=per_sample,
        outside_bytes_per_token=outside_per_token,
        working_bytes_per_token=per_token,
        working_bytes_per_token_pair=per_pair,
        is_padded=counts[0].is_padded,
    )


def _growing(counts: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(a, b) of a · T + b · T² through one or two counts (T, bytes); neither below zero."""
    tokens, num_bytes = counts[0]
    if len(counts) == 1:
        return num_bytes / tokens, 0.0
    fewer, half = counts[1]
    per_pair = (num_bytes / tokens - half / fewer) / (tokens - fewer)
    # Clipped, the longer one stays exact.
    per_pair = min(max(0.0, per_pair), num_bytes / tokens**2)
    return num_bytes / tokens - per_pair * tokens, per_pair


def _linear(counts: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """(a, b) of a + b · T through one or two counts (T, bytes); neither below zero."""
    tokens, num_bytes = counts[0]
    if len(counts) == 1:
        return num_bytes, 0.0
    fewer, half = counts[1]
    per_token = min(max(0.0, (num_bytes - half) / (tokens - fewer)), num_bytes / tokens)
    return num_bytes - per_token * tokens, per_token
