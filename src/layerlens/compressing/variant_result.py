"""What measuring a variant leaves: how far each prediction is from the checkpoint's, and how the hidden states drift."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from layerlens.data.compared import Compared, Distances


@dataclass(frozen=True)
class VariantResult:
    """How far a variant is from the checkpoint.

    Attributes:
        name: Of the variant.
        kind: What was compared: distributions and numbers are KL in nats, embeddings 1 − cosine.
        distances: Of each predicted position, in the order of the samples.
        samples: Sample that each position belongs to, in the order of the batches.
        num_samples: Samples in all.
        is_same_top: Whether the most probable class is the checkpoint's; none where rows are no distributions.
        first_block: First block that differs.
        error_after_blocks: ‖h − h₀‖ / ‖h₀‖ over all tokens but padding, after its first block and each later one.
    """

    name: str
    kind: Compared
    distances: Float[np.ndarray, " positions"]
    samples: Int[np.ndarray, " positions"]
    num_samples: int
    is_same_top: Bool[np.ndarray, " positions"] | None
    first_block: int
    error_after_blocks: list[float]

    @property
    def mean(self) -> float:
        """Mean over positions."""
        return float(self.distances.mean())

    @property
    def median(self) -> float:
        return float(np.median(self.distances))

    @property
    def p99(self) -> float:
        """What 99 % of the positions stay at or below."""
        return float(np.quantile(self.distances, 0.99))

    @property
    def max(self) -> float:
        return float(self.distances.max())

    @property
    def same_top_rate(self) -> float | None:
        return None if self.is_same_top is None else float(self.is_same_top.mean())

    @property
    def sample_sums(self) -> Float[np.ndarray, " samples"]:
        """Sum over each sample's positions, for pairing variants by sample."""
        return np.bincount(self.samples, weights=self.distances, minlength=self.num_samples)

    @property
    def sample_counts(self) -> Int[np.ndarray, " samples"]:
        """Positions of each sample."""
        return np.bincount(self.samples, minlength=self.num_samples)


@dataclass
class RunningError:
    """Squares of a hidden state and of its error, summed over samples in float64, block by block."""

    of_error: dict[int, float] = field(default_factory=dict)
    of_state: dict[int, float] = field(default_factory=dict)

    def add(self, block: int, error: float, state: float) -> None:
        self.of_error[block] = self.of_error.get(block, 0.0) + error
        self.of_state[block] = self.of_state.get(block, 0.0) + state

    def ratios(self) -> list[float]:
        """‖h − h₀‖ / ‖h₀‖ after each block, in order."""
        return [
            (error / self.of_state[block]) ** 0.5 if self.of_state[block] > 0 else 0.0
            for block, error in sorted(self.of_error.items())
        ]


@dataclass
class RunningResult:
    """The positions of a variant as they come, part by part."""

    parts: list[Distances] = field(default_factory=list)
    samples: list[Int[np.ndarray, " positions"]] = field(default_factory=list)
    errors: RunningError = field(default_factory=RunningError)

    def add(self, found: Distances, samples: Int[np.ndarray, " positions"]) -> None:
        self.parts.append(found)
        self.samples.append(samples)

    def result(self, name: str, kind: Compared, first_block: int, num_samples: int) -> VariantResult:
        tops = [part.is_same_top.numpy() for part in self.parts if part.is_same_top is not None]
        return VariantResult(
            name=name,
            kind=kind,
            distances=np.concatenate([part.values.numpy() for part in self.parts]),
            samples=np.concatenate(self.samples),
            num_samples=num_samples,
            is_same_top=np.concatenate(tops) if tops else None,
            first_block=first_block,
            error_after_blocks=self.errors.ratios(),
        )
