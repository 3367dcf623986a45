"""What the backward pass of a block leaves, in memory and in the journal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layerlens.profiling.measures import Measures
from layerlens.streaming.journal import Journal


@dataclass(frozen=True)
class BlockResult:
    """Results of one block's layers.

    Attributes:
        measures: Metrics, intervals, replicates and curves.
        input_groups: By layer, the first layer that was seen to read the same input.
        gram_tokens: Rows of the Grams.
        spectra: `spectrum/<layer>`.
    """

    measures: Measures
    input_groups: dict[str, str]
    gram_tokens: int
    spectra: dict[str, np.ndarray]


def save_block(journal: Journal, block: int, result: BlockResult) -> None:
    """Keep a block's results; numbers come back to their last bit."""
    measures = result.measures
    arrays = {**result.spectra, **{f"gain/{layer}": curve for layer, curve in measures.curves.items()}}
    for layer, metrics in measures.replicates.items():
        arrays |= {f"replicates/{metric}/{layer}": values for metric, values in metrics.items()}
    kept = {
        "raw": measures.raw,
        "intervals": measures.intervals,
        "input_groups": result.input_groups,
        "gram_tokens": result.gram_tokens,
    }
    journal.save(f"block-{block}", kept, arrays)


def load_block(journal: Journal, block: int) -> BlockResult:
    """A block's results as they were kept."""
    kept, arrays = journal.load(f"block-{block}")
    measures = Measures(raw=kept["raw"])
    measures.intervals = {
        layer: {metric: (low, high) for metric, (low, high) in found.items()} for layer, found in kept["intervals"].items()
    }
    for name, values in arrays.items():
        kind, _, rest = name.partition("/")
        if kind == "gain":
            measures.curves[rest] = values
        elif kind == "replicates":
            metric, _, layer = rest.partition("/")
            measures.replicates.setdefault(layer, {})[metric] = values
    spectra = {name: values for name, values in arrays.items() if name.startswith("spectrum/")}
    return BlockResult(measures, kept["input_groups"], int(kept["gram_tokens"]), spectra)
