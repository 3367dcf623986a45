"""What a pass over the calibration samples leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from layerlens.profiling.calibration import CalibrationBatch
from layerlens.profiling.layer_statistics import LayerStatistics


@dataclass
class Statistics:
    """What the pass leaves.

    Attributes:
        layers: Statistics of each layer; all of the model's or, for a pass by blocks, of one block's.
        input_groups: By layer, the first layer that was seen to read the same input.
        losses: Loss of each sample in nats, in calibration order.
        half_sizes: Samples of the two halves.
        num_terms: Mean number of log-likelihoods that a sample's loss is the mean of.
        positions: Calibration position of each sample in the order of the pass (the order of the norms).
    """

    layers: dict[str, LayerStatistics]
    input_groups: dict[str, str]
    losses: Float[np.ndarray, " samples"]
    half_sizes: tuple[int, int]
    num_terms: float
    positions: list[int]

    @classmethod
    def of_batches(
        cls,
        batches: Sequence[CalibrationBatch],
        *,
        layers: dict[str, LayerStatistics],
        input_groups: dict[str, str],
        losses: Float[np.ndarray, " samples"],
        num_terms: float,
    ) -> Statistics:
        """What a pass over these batches, in their order, leaves."""
        return cls(
            layers=layers,
            input_groups=input_groups,
            losses=losses,
            half_sizes=(
                sum(batch.num_first for batch in batches),
                sum(len(batch.samples) - batch.num_first for batch in batches),
            ),
            num_terms=num_terms,
            positions=[sample for batch in batches for sample in batch.samples],
        )

    def mean_gradients(
        self, layer: str
    ) -> tuple[Float[Tensor, "out_features in_features"], Float[Tensor, "out_features in_features"]]:
        """Mean per-sample gradient of each half, written out."""
        return self.layers[layer].mean_gradients(self.half_sizes)

    def norms(self, layer: str, labels: str) -> Float[np.ndarray, " samples"]:
        """Squared norm of each sample's gradient in float64, in calibration order; empty if not measured."""
        parts = self.layers[layer].norms[labels]
        if not parts:
            return np.zeros(0)
        ordered = np.zeros(len(self.positions))
        ordered[self.positions] = torch.cat(parts).double().cpu().numpy()
        return ordered
