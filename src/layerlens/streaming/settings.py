"""Choosing how a model is streamed: the fastest settings whose priced peak stays within the caps on memory and on disk.

Profiles and compression price their own settings; what they have in common is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from layerlens.errors import ConfigError
from layerlens.streaming.boundaries import fewest_slots, most_slots

#: Tokens that run through a language model's head together, at most: more make no product faster.
LOSS_TOKENS = 256


@runtime_checkable
class ReadsInput(Protocol):
    """A matrix that knows with which others it reads the same input."""

    @property
    def input_group(self) -> str:
        """The first layer that reads the same input."""
        ...


ReaderT = TypeVar("ReaderT", bound=ReadsInput)
SettingsT = TypeVar("SettingsT")


def input_groups(readers: Sequence[ReaderT]) -> list[list[ReaderT]]:
    """Those that read the same input, together, in the order in which they come."""
    groups: dict[str, list[ReaderT]] = {}
    for reader in readers:
        groups.setdefault(reader.input_group, []).append(reader)
    return list(groups.values())


def halvings(most: int, least: int) -> list[int]:
    """`most`, and every half of it that is not under `least`."""
    values = [max(most, least)]
    while values[-1] // 2 >= least:
        values.append(values[-1] // 2)
    return values


def slowness(num_sweeps: int, tokens_at_once: int, loss_tokens: int, *, holds_weights: bool) -> float:
    """Relative time: sweeps recompute, small parts read weights more often and run products less well."""
    reads = 0.0 if holds_weights else 200.0 / tokens_at_once
    return 2.0 + 2.0 * num_sweeps + 64.0 / tokens_at_once + reads + 16.0 / loss_tokens


def slots_within(max_store: int, slot_bytes: int, num_blocks: int, num_gradients: int = 1) -> int:
    """Boundaries that the activation store may hold.

    Args:
        max_store: Cap on the activations on disk, bytes.
        slot_bytes: A boundary on disk.
        num_blocks: Blocks of the model.
        num_gradients: Gradients that go down through the blocks.

    Raises:
        ConfigError: too few; says the least bytes that would do.
    """
    least = fewest_slots(num_blocks, num_gradients) * slot_bytes
    if max_store < least:
        raise ConfigError(
            f"--max-store {max_store / 2**20:,.0f} MiB is too little for the hidden states of these samples; the least that "
            f"would do is {-(-least // 2**20):,} MiB, or take fewer or shorter samples"
        )
    return min(max_store // max(1, slot_bytes), most_slots(num_blocks, num_gradients))


def fastest_within(
    candidates: Sequence[SettingsT],
    max_memory: int,
    *,
    peak: Callable[[SettingsT], int],
    slowness: Callable[[SettingsT], float],
    purpose: str,
) -> SettingsT:
    """The fastest settings that stay within a cap; of equally fast ones the first.

    Args:
        candidates: At least one.
        max_memory: Cap on the process, bytes.
        peak: Estimated peak of the process, bytes.
        slowness: Relative time.
        purpose: What the process does to the model, as "profile".

    Raises:
        ConfigError: nothing fits; says the least that would.
    """
    for settings in sorted(candidates, key=slowness):
        if peak(settings) <= max_memory:
            return settings
    least = min(map(peak, candidates))
    raise ConfigError(
        f"--max-memory {max_memory / 2**20:,.0f} MiB is too little to {purpose} this model; the least that would do is about "
        f"{-(-least // 2**20):,} MiB"
    )
