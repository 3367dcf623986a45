"""Sensitivity by trial: every compressed matrix in turn as it was, all others compressed; which ones hold the model up.

gain of a matrix = KL(original ‖ all compressed) − KL(original ‖ all but this one), nats per predicted position

All trials run in one pass over the blocks: below its matrix a trial is the compressed model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from layerlens.artifacts.compression_evaluation import LeaveOneOut, Reverted
from layerlens.compressing.outside_blocks import starting_block
from layerlens.compressing.variant_pass import measure_variants
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.variants import ORIGINAL, Variant, Weights
from layerlens.models.streamed.load import StreamedModel
from layerlens.progress import SILENT, Progress
from layerlens.streaming.samples import Samples

ALL = "all compressed"
#: A pillar gives back at least so many times the even share 1/N of the divergence, and its interval lies above zero.
PILLAR_SHARES = 2.0
_DRAWS = 2000


def leave_one_out(
    model: StreamedModel,
    samples: Samples,
    weights: Weights,
    layers: Sequence[Sequence[str]],
    *,
    work: Path,
    holds_weights: bool = True,
    head_tokens: int | None = None,
    max_store: int | None = None,
    after_part: Callable[[], None] = lambda: None,
    progress: Progress = SILENT,
    seed: int = 0,
) -> LeaveOneOut:
    """Revert each matrix in turn and measure what it gives back.

    Args:
        model: The original model, streamed.
        samples: What to measure on; calibration must not have seen them.
        weights: The compressed matrices.
        layers: For each matrix that is compressed the paths of the modules that hold it; the first one names it.
        work: As `measure_variants` takes it.
        holds_weights: As `measure_variants` takes it.
        head_tokens: As `measure_variants` takes it.
        max_store: As `measure_variants` takes it.
        after_part: As `measure_variants` takes it.
        progress: Who watches.
        seed: Of the resampling of samples.

    Raises:
        ConfigError: as `measure_variants`.
        NotFiniteError: as `measure_variants`.
    """
    trials = [
        Variant(f"without {paths[0]}", dict.fromkeys(paths, ORIGINAL), starting_block(model, paths), parent=ALL)
        for paths in layers
    ]
    found = measure_variants(
        model,
        samples,
        [Variant(ALL, weights), *trials],
        work=work,
        holds_weights=holds_weights,
        head_tokens=head_tokens,
        max_store=max_store,
        after_part=after_part,
        progress=progress,
    )
    whole = found[ALL]
    reverted = [_reverted(paths[0], whole, found[f"without {paths[0]}"], len(layers), seed) for paths in layers]
    return LeaveOneOut(kl_nats=whole.mean, layers=sorted(reverted, key=lambda one: -one.gain_nats))


def _reverted(layer: str, whole: VariantResult, without: VariantResult, num_layers: int, seed: int) -> Reverted:
    low, high = _interval(whole.sample_sums - without.sample_sums, whole.sample_counts.astype(np.float64), seed)
    gain = whole.mean - without.mean
    share = gain / whole.mean if whole.mean > 0 else 0.0
    is_pillar = share >= PILLAR_SHARES / num_layers and low > 0
    return Reverted(layer=layer, kl_nats=without.mean, gain_nats=gain, low=low, high=high, share=share, is_pillar=is_pillar)


def _interval(sums: Float[np.ndarray, " samples"], counts: Float[np.ndarray, " samples"], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval, over samples, of the mean per position."""
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_DRAWS)
    totals = drawn @ counts
    means = np.divide(drawn @ sums, totals, out=np.zeros(_DRAWS), where=totals > 0)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
