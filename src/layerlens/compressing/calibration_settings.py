"""How a calibration pass is streamed within a cap on memory: priced beforehand from shapes alone, watched while it runs.

peak = libraries + what stays in memory + the largest of
         a block's backward pass    weights, activations of what runs at once, sums of the layers of one sweep
         a matrix's options         the sums of the sweep, its Grams in full, and the work space of its factorisations
         the loss                   logits of what runs at once, moments of the heads
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from layerlens.compressing.calibration_samples import CalibrationSamples
from layerlens.compressing.layer_moments import input_moment_bytes, layer_moment_bytes
from layerlens.compressing.matrices import Matrix, Place
from layerlens.compressing.option_grid import OptionGrid
from layerlens.compressing.solving_memory import solving_bytes
from layerlens.linalg.gram import gram_bytes
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.weight_source import SLICE_BYTES
from layerlens.streaming.memory_guard import libraries_bytes
from layerlens.streaming.settings import LOSS_TOKENS, fastest_within, halvings, input_groups, slots_within, slowness
from layerlens.words import fused_set

#: What the C library holds on to between two uses, and what the estimates leave out.
_SLACK_BYTES = 96 << 20
#: Sums of one sweep where no cap is set.
_DEFAULT_SUMS = 1 << 30


@dataclass(frozen=True)
class CalibrationSettings:
    """How a model is streamed.

    Attributes:
        tokens_at_once: Padded tokens that run through a block together.
        holds_weights: Keep the weights of the block at hand in memory; otherwise read them in slices.
        sums_bytes: Sums of one sweep over a block at most, bytes; one input group's may pass it.
        num_slots: Boundaries that the activation store holds.
        loss_tokens: Padded tokens that run through the head together.
    """

    tokens_at_once: int
    holds_weights: bool
    sums_bytes: int
    num_slots: int
    loss_tokens: int

    def identity(self) -> dict[str, int | bool]:
        """What the numbers depend on, to their last bit."""
        return asdict(self)

    def sweeps(self, matrices: Sequence[Matrix]) -> list[list[Matrix]]:
        """The layers of each sweep over a block; layers that read the same input stay together, and those that may.

        In a family that is not known by name, whether query, key and value of one parent read the same input shows only when they
        run, and only within one sweep.
        """
        together: dict[tuple[Any, ...], list[list[Matrix]]] = {}
        for group in input_groups(matrices):
            together.setdefault(_shared(group[0]), []).append(group)
        sweeps: list[list[Matrix]] = []
        used = 0
        for groups in together.values():
            group, size = [matrix for own in groups for matrix in own], sum(map(group_bytes, groups))
            if not sweeps or used + size > self.sums_bytes:
                sweeps.append([])
                used = 0
            sweeps[-1] += group
            used += size
        return sweeps


def _shared(matrix: Matrix) -> tuple[Any, ...]:
    """What matrices have in common that may read the same input."""
    fused = fused_set(matrix.role)
    return (matrix.input_group,) if fused is None else (matrix.block, fused, matrix.layer.rpartition(".")[0])


def group_bytes(group: Sequence[Matrix]) -> int:
    """Bytes of the sums of matrices that read the same input."""
    own = sum(layer_moment_bytes(matrix.out_features, matrix.in_features) for matrix in group)
    return input_moment_bytes(group[0].in_features) + own


@dataclass(frozen=True)
class Demand:
    """What a model and its samples ask of memory, in bytes unless said otherwise.

    Attributes:
        resident: Parameters and buffers that stay in memory.
        kept_per_token: About what autograd keeps of a block for each token.
        longest: Padded tokens of the longest sample.
        most_tokens: Padded tokens of the largest batch.
        blocks: Matrices of each block.
        outside: Matrices outside the blocks.
        block_bytes: Weights of the largest block as stored.
        logits_per_token: Outputs of the head for each token; 0 where the head reads one token of a sample.
        hidden_size: Features of a hidden state.
        slot_bytes: A boundary on disk.
        grid: Options of every matrix.
    """

    resident: int
    kept_per_token: int
    longest: int
    most_tokens: int
    blocks: list[list[Matrix]]
    outside: list[Matrix]
    block_bytes: int
    logits_per_token: int
    hidden_size: int
    slot_bytes: int
    grid: OptionGrid

    @classmethod
    def of(cls, model: StreamedModel, calibration: CalibrationSamples, matrices: Sequence[Matrix], grid: OptionGrid) -> Demand:
        """Of a model and its samples; nothing is written."""
        shapes = calibration.in_parts(1).shapes
        blocks = [[m for m in matrices if m.block == block.block] for block in model.layout.blocks]
        hidden_size = shapes[0][2]
        widths = [sum(m.in_features + m.out_features for m in block) for block in blocks]
        outputs = model.model.get_output_embeddings()
        return cls(
            resident=model.resident_bytes(),
            kept_per_token=4 * (2 * max(widths) + 16 * hidden_size),
            longest=max(tokens for _, tokens, _ in shapes),
            most_tokens=max(samples * tokens for samples, tokens, _ in shapes),
            blocks=blocks,
            outside=[m for m in matrices if m.place is not Place.BLOCK],
            block_bytes=max(sum(m.num_bytes for m in block) for block in blocks),
            logits_per_token=0 if outputs is None else int(getattr(outputs, "out_features", 0)),
            hidden_size=hidden_size,
            slot_bytes=4 * sum(samples * tokens * hidden for samples, tokens, hidden in shapes),
            grid=grid,
        )

    def peak(self, settings: CalibrationSettings) -> int:
        """Estimated peak of the whole process."""
        at_once = max(settings.tokens_at_once, self.longest)
        weights = (self.block_bytes if settings.holds_weights else 0) + 3 * SLICE_BYTES
        sums, options = 0, 0
        for block in self.blocks:
            for sweep in settings.sweeps(block):
                own = sum(group_bytes(group) for group in input_groups(sweep))
                sums = max(sums, own)
                # A Gram is let go of once it is written out in full, which is part of the work.
                solving = max(solving_bytes(m, self.grid) - gram_bytes(m.in_features, 1 << 40) for m in sweep)
                options = max(options, own + solving)
        outside = max((solving_bytes(m, self.grid) for m in self.outside), default=0)
        loss = 4 * max(settings.loss_tokens, self.longest) * (5 * self.logits_per_token + 12 * self.hidden_size)
        largest = max(at_once * self.kept_per_token + weights + sums, options, loss, outside)
        return libraries_bytes() + _SLACK_BYTES + self.resident + largest


def choose_settings(demand: Demand, *, max_memory: int | None, max_store: int) -> CalibrationSettings:
    """The fastest settings that stay within the caps.

    Args:
        demand: What the model asks.
        max_memory: Cap on the process, bytes; None for none.
        max_store: Cap on the activations on disk, bytes.

    Raises:
        ConfigError: nothing fits; says the least that would.
    """
    num_slots = slots_within(max_store, demand.slot_bytes, len(demand.blocks))
    at_once = halvings(demand.most_tokens, demand.longest)
    if max_memory is None:
        return CalibrationSettings(at_once[0], True, _DEFAULT_SUMS, num_slots, min(at_once[0], LOSS_TOKENS))
    candidates = [
        CalibrationSettings(tokens, holds_weights, sums_bytes, num_slots, loss_tokens)
        for sums_bytes in _sums_limits(demand)
        for holds_weights in (True, False)
        for tokens in at_once
        for loss_tokens in halvings(min(tokens, LOSS_TOKENS), demand.longest)
    ]
    return fastest_within(
        candidates, max_memory, peak=demand.peak, slowness=lambda settings: _slowness(settings, demand), purpose="compress"
    )


def settings_begun_with(
    identity: Mapping[str, Any], demand: Demand, *, max_memory: int | None, max_store: int
) -> CalibrationSettings | None:
    """The settings of an unfinished run, where they keep today's caps: one that passed its cap goes on under a larger one.

    Args:
        identity: What it was begun with, `CalibrationSettings.identity` among it.
        demand: What the model asks.
        max_memory: Cap on the process, bytes; None for none.
        max_store: Cap on the activations on disk, bytes.
    """
    names = [field.name for field in fields(CalibrationSettings)]
    if any(name not in identity for name in names):
        return None
    settings = CalibrationSettings(**{name: identity[name] for name in names})
    if settings.num_slots * demand.slot_bytes > max_store or (max_memory is not None and demand.peak(settings) > max_memory):
        return None
    return settings


def _sums_limits(demand: Demand) -> list[int]:
    """Limits that give one sweep for each block, two, … and one for each input group."""
    total = max(sum(group_bytes(group) for group in input_groups(block)) for block in demand.blocks)
    most = max(len(input_groups(block)) for block in demand.blocks)
    return [-(-total // sweeps) for sweeps in range(1, most + 1)] + [0]


def _slowness(settings: CalibrationSettings, demand: Demand) -> float:
    num_sweeps = max(len(settings.sweeps(block)) for block in demand.blocks)
    return slowness(num_sweeps, settings.tokens_at_once, settings.loss_tokens, holds_weights=settings.holds_weights)
