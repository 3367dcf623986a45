"""How a model is streamed within a cap on the whole process's memory: priced beforehand, watched while it runs.

    peak = libraries + what stays in memory + the largest of
             a block's backward pass    weights, activations of what runs at once, sums of the layers of one sweep
             a layer's curve            the sums of the sweep, and the factorisations of its largest layer
             a layer's spectrum
             the loss                   logits of what runs at once

Prices are estimates from shapes alone, so that the same input always gives the same settings; `MemoryGuard` compares the truth
with the cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from layerlens.artifacts.layers import LayerSpec
from layerlens.errors import ConfigError
from layerlens.linalg.singular_values import singular_values_bytes
from layerlens.models.streamed.weight_source import SLICE_BYTES
from layerlens.profiling.spaces import Tokens, curve_bytes, statistics_bytes
from layerlens.streaming.boundaries import fewest_slots
from layerlens.streaming.memory_guard import libraries_bytes
from layerlens.streaming.settings import LOSS_TOKENS, fastest_within, halvings, input_groups, slots_within, slowness

#: What the C library holds on to between two uses, and what the estimates below leave out.
_SLACK_BYTES = 88 << 20


@dataclass(frozen=True)
class StreamSettings:
    """How a model is streamed.

    Attributes:
        tokens_at_once: Padded tokens that run through a block together.
        holds_weights: Keep the weights of the block at hand in memory; otherwise read them in slices.
        num_sweeps: Times a block is recomputed, each time for some of its layers.
        num_slots: Boundaries that the activation store holds.
        loss_tokens: Padded tokens that run through the head together.
        max_memory: Cap on the process's peak memory, bytes; None for no cap.
    """

    tokens_at_once: int
    holds_weights: bool
    num_sweeps: int
    num_slots: int
    loss_tokens: int = 1 << 30
    max_memory: int | None = None

    def identity(self) -> dict[str, int | bool | None]:
        """What the numbers depend on, to their last bit."""
        return asdict(self)

    def sweeps(self, layers: Sequence[LayerSpec]) -> list[list[LayerSpec]]:
        """The layers of each sweep; layers that read the same input stay together."""
        return balanced_sweeps(layers, self.num_sweeps)


@dataclass(frozen=True)
class Demand:
    """What a model and its samples ask of memory, in bytes unless said otherwise.

    Attributes:
        resident: Parameters and buffers that stay in memory, and their optimiser where a head is fitted.
        kept_per_token: What autograd keeps of a block for each token.
        hidden_size: Features of a hidden state.
        longest: Padded tokens of the longest sample.
        most_tokens: Padded tokens of the largest batch.
        layers: Layers of each block.
        block_bytes: Weights of the largest block as stored.
        tokens: What the calibration brings to a layer.
        logits_per_token: Outputs of the head for each token; 0 where the head reads one token of a sample.
        slot_bytes: A boundary on disk.
        num_labels: Kinds of labels that gradients come from.
        head_bytes: Hidden states on disk that a new head is fitted on, before all others; 0 where no head is new.
    """

    resident: int
    kept_per_token: float
    hidden_size: int
    longest: int
    most_tokens: int
    layers: list[list[LayerSpec]]
    block_bytes: int
    tokens: Tokens
    logits_per_token: int
    slot_bytes: int
    num_labels: int
    head_bytes: int = 0

    def peak(self, settings: StreamSettings) -> int:
        """Estimated peak of the whole process."""
        at_once = max(settings.tokens_at_once, self.longest)
        widest = max(spec.in_features + spec.out_features for block in self.layers for spec in block)
        activations = at_once * (self.kept_per_token + 4.0 * (2 * widest + 8 * self.hidden_size))
        weights = (self.block_bytes if settings.holds_weights else 0) + 3 * SLICE_BYTES
        sums, curves = 0.0, 0.0
        for block in self.layers:
            for sweep in settings.sweeps(block):
                own = statistics_bytes(sweep, self.tokens)
                sums = max(sums, own)
                curves = max(curves, own + curve_bytes(sweep, self.tokens))
        loss = 4.0 * max(settings.loss_tokens, self.longest) * (5 * self.logits_per_token + 12 * self.hidden_size)
        spectrum = max(_spectrum_bytes(spec) for block in self.layers for spec in block)
        return int(
            libraries_bytes()
            + _SLACK_BYTES
            + self.resident
            + max(activations + weights + sums, curves, loss + 3 * SLICE_BYTES, spectrum)
        )


def choose_settings(demand: Demand, *, max_memory: int | None, max_store: int) -> StreamSettings:
    """The fastest settings that stay within the caps.

    Args:
        demand: What the model asks.
        max_memory: Cap on the process, bytes; None for none.
        max_store: Cap on the activations on disk, bytes.

    Raises:
        ConfigError: Nothing fits; says the least that would.
    """
    _check_head(demand, max_store)
    num_slots = slots_within(max_store, demand.slot_bytes, len(demand.layers), demand.num_labels)
    candidates = [
        StreamSettings(at_once, holds_weights, num_sweeps, num_slots, loss_tokens, max_memory)
        for num_sweeps in range(1, 1 + max(len(input_groups(block)) for block in demand.layers))
        for holds_weights in (True, False)
        for at_once in halvings(demand.most_tokens, demand.longest)
        for loss_tokens in halvings(min(at_once, LOSS_TOKENS), demand.longest)
    ]
    if max_memory is None:
        return candidates[0]
    return fastest_within(candidates, max_memory, peak=demand.peak, slowness=_slowness, purpose="profile")


def _check_head(demand: Demand, max_store: int) -> None:
    if demand.head_bytes > max_store:
        least = max(demand.head_bytes, fewest_slots(len(demand.layers), demand.num_labels) * demand.slot_bytes)
        raise ConfigError(
            f"--max-store {max_store / 2**20:,.0f} MiB is too little for the hidden states that the new head is fitted on; the "
            f"least that would do is {-(-least // 2**20):,} MiB, or give fewer --head-samples or a smaller --max-length"
        )


def _slowness(settings: StreamSettings) -> float:
    return slowness(settings.num_sweeps, settings.tokens_at_once, settings.loss_tokens, holds_weights=settings.holds_weights)


def _spectrum_bytes(spec: LayerSpec) -> int:
    """A layer's weight, and the work space of its spectrum."""
    return 4 * spec.weight_params + singular_values_bytes(spec.out_features, spec.in_features)


def balanced_sweeps(layers: Sequence[LayerSpec], num_sweeps: int) -> list[list[LayerSpec]]:
    """Cut layers into at most `num_sweeps` lists of about equal weight, in order, never between readers of one input."""
    if num_sweeps <= 1:
        return [list(layers)]
    parts = input_groups(layers)
    sweeps: list[list[LayerSpec]] = []
    sizes = [sum(spec.weight_params for spec in part) for part in parts]
    limit = max(max(sizes), -(-sum(sizes) // num_sweeps))
    used = 0
    for part, size in zip(parts, sizes, strict=True):
        if not sweeps or (used + size > limit and len(sweeps) < num_sweeps):
            sweeps.append([])
            used = 0
        sweeps[-1].extend(part)
        used += size
    return sweeps
