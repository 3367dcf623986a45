"""Predicted against measured, matrix by matrix: anchored at one option, checked at others.

Every matrix is compressed alone. Its curve was anchored at 3-bit codes on the race's samples; here its neighbours are measured
on every other sample of the test: the codes of one bit more and of one bit less, and factors or corrected codes of about the
bytes of 3-bit codes. Spearman's correlation is taken over matrices, with anchors and without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from compression_points import TOKENS_AT_ONCE, Lab
from scipy.stats import spearmanr

from layerlens.artifacts.compression import MatrixCurve, Option, Rounding
from layerlens.artifacts.formats import Format
from layerlens.compressing.family_anchors import unanchored
from layerlens.compressing.held_out import held_out_samples
from layerlens.compressing.outside_blocks import starting_block
from layerlens.compressing.variant_pass import measure_variants
from layerlens.compressing.variant_result import VariantResult
from layerlens.compressing.variants import Variant
from layerlens.models.threads import threads

#: A matrix alone is measured on every so many of the test's samples: there are many matrices.
CHECK_EVERY = 2


def _codes(bits: int, rounding: Rounding = Rounding.SECOND_ORDER) -> Callable[[MatrixCurve], Option | None]:
    def found(matrix: MatrixCurve) -> Option | None:
        fitting = (one for one in matrix.options if one.scheme.format is Format.INTEGER and one.rounding is rounding)
        return next((one for one in fitting if one.scheme.bits == bits), None)

    return found


def _like_codes(family: Format) -> Callable[[MatrixCurve], Option | None]:
    """The 8-bit option of a family that is nearest in bytes to 3-bit codes."""

    def found(matrix: MatrixCurve) -> Option | None:
        codes = _codes(3)(matrix)
        options = [one for one in matrix.options if one.scheme.format is family and one.rounding is not Rounding.PLAIN]
        options = [one for one in options if one.scheme.factor_bits == 8]
        if codes is None:
            return None
        return min(options, key=lambda one: abs(one.size_bytes - codes.size_bytes), default=None)

    return found


CHECKED: dict[str, Callable[[MatrixCurve], Option | None]] = {
    "int4": _codes(4),
    "int2": _codes(2),
    "int4 nearest": _codes(4, Rounding.NEAREST),
    "low-rank": _like_codes(Format.LOW_RANK),
    "corrected": _like_codes(Format.INTEGER_LOW_RANK),
}


def measure_checked(lab: Lab, name: str) -> list[dict[str, Any]]:
    """Measure each matrix alone at one kind of option."""
    chosen = [(matrix, option) for matrix in lab.curves.matrices if (option := CHECKED[name](matrix)) is not None]
    with threads(lab.config.threads):
        found = measure_alone(lab, chosen)
    return [
        {
            "layer": matrix.layer,
            "role": str(matrix.role),
            "format": option.scheme.name,
            "predicted": option.predicted_loss,
            "unanchored": unanchored(matrix, option),
            "measured": found[matrix.layer].mean,
        }
        for matrix, option in chosen
    ]


def measure_alone(lab: Lab, chosen: list[tuple[MatrixCurve, Option]]) -> dict[str, VariantResult]:
    """Each of these matrices alone at its option."""
    variants = []
    for matrix, option in chosen:
        weight = lab.test.cache.weight_of(matrix.layer, option, matrix.out_features, matrix.in_features)
        paths = (matrix.layer, *matrix.tied)
        variants.append(Variant(matrix.layer, dict.fromkeys(paths, weight), starting_block(lab.opened.model, paths)))
    if not variants:
        return {}
    chosen_samples = lab.opened.test_samples[::CHECK_EVERY]
    samples = held_out_samples(
        lab.opened.model, lab.opened.test, chosen_samples, batch_size=lab.config.batch_size, tokens_at_once=TOKENS_AT_ONCE
    )
    return measure_variants(lab.opened.model, samples, variants, work=lab.test.work)


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How well the predictions order the matrices, and how far off they are."""
    measured = np.array([row["measured"] for row in rows])
    predicted = np.array([row["predicted"] for row in rows])
    is_positive = (measured > 0) & (predicted > 0)
    factors = np.exp(np.abs(np.log(predicted[is_positive] / measured[is_positive])))
    return {
        "matrices": len(rows),
        "spearman": float(spearmanr(predicted, measured).statistic),
        "unanchored_spearman": float(spearmanr([row["unanchored"] for row in rows], measured).statistic),
        "median_factor": float(np.median(factors)),
        "total_predicted": float(predicted.sum()),
        "total_measured": float(measured.sum()),
    }
