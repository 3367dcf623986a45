"""Curves of a small Llama's shape, synthesised from the schemas alone: seeded numbers, true bytes, no model."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from layerlens.artifacts.compression import CompressedModelInfo, Curves, MatrixCurve, Option, Probe, Rounding
from layerlens.artifacts.formats import HALF, KEEP, WIDTHS, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.artifacts.profile import TaskInfo
from layerlens.words import Role, TaskKind

BLOCKS, HIDDEN, INNER, VOCABULARY = 6, 256, 704, 4096
SHAPES = {
    Role.ATTENTION_QUERY: ("self_attn.q_proj", HIDDEN, HIDDEN, 0.4),
    Role.ATTENTION_KEY: ("self_attn.k_proj", HIDDEN // 2, HIDDEN, 0.3),
    Role.ATTENTION_VALUE: ("self_attn.v_proj", HIDDEN // 2, HIDDEN, 1.4),
    Role.ATTENTION_OUTPUT: ("self_attn.o_proj", HIDDEN, HIDDEN, 1.0),
    Role.MLP_GATE: ("mlp.gate_proj", INNER, HIDDEN, 1.1),
    Role.MLP_UP: ("mlp.up_proj", INNER, HIDDEN, 1.3),
    Role.MLP_DOWN: ("mlp.down_proj", HIDDEN, INNER, 1.6),
}
EMBEDDING = "model.embed_tokens"
OTHER_BYTES = (2 * BLOCKS + 1) * HIDDEN * 4
VERSIONS = {"layerlens": "0.1.0", "numpy": "2.4.1", "torch": "2.13.0"}


def model_info() -> CompressedModelInfo:
    weights = VOCABULARY * HIDDEN + BLOCKS * sum(rows * columns for _, rows, columns, _ in SHAPES.values())
    return CompressedModelInfo(
        id="tests/small-llama",
        hash="a" * 64,
        architecture="LlamaForCausalLM",
        num_parameters=weights + OTHER_BYTES // 4,
        size_bytes=4 * weights + OTHER_BYTES,
        other_bytes=OTHER_BYTES,
    )


def task_info() -> TaskInfo:
    return TaskInfo(kind=TaskKind.CAUSAL_LM, max_length=512)


@cache
def curves() -> Curves:
    """All matrices; each but the embedding was measured alone at one option."""
    rng = np.random.default_rng(7)
    matrices = [_matrix(rng, EMBEDDING, None, Role.EMBEDDING, VOCABULARY, HIDDEN, 0.8)]
    for block in range(BLOCKS):
        for role, (path, rows, columns, weight) in SHAPES.items():
            name = f"model.layers.{block}.{path}"
            matrices.append(_matrix(rng, name, block, role, rows, columns, weight * (1.8 - block / BLOCKS)))
    return Curves(
        model=model_info(),
        task=task_info(),
        data={"id": "stdlib-docs", "hash": "c" * 64, "calibration": {"samples": 128, "tokens": 65536}, "is_mixed": True},
        matrices=matrices,
        versions=VERSIONS,
        seed=3,
        config={"num_samples": 128},
    )


def _matrix(
    rng: np.random.Generator, layer: str, block: int | None, role: Role, rows: int, columns: int, weight: float
) -> MatrixCurve:
    sensitivity = 0.02 * weight * float(rng.lognormal(0.0, 0.6))
    anchor = float(rng.lognormal(0.1, 0.25))
    options = []
    for scheme, rounding, error in _errors(rng, min(rows, columns), has_factors=block is not None):
        size = size_bytes(scheme, rows, columns, 4)
        loss = anchor * sensitivity * error**2
        options.append(
            Option(
                scheme=scheme,
                rounding=rounding,
                size_bytes=size,
                predicted_loss=loss,
                weight_error=error,
                output_error=0.8 * error,
            )
        )
    options.sort(key=lambda option: option.size_bytes)
    probe = None
    if block is not None:
        alone = next(o for o in options if o.scheme == integer(3) and o.rounding is Rounding.SECOND_ORDER)
        course = [0.1 * alone.output_error * (1.0 - 0.06 * step + 0.02 * float(rng.normal())) for step in range(BLOCKS - block)]
        predicted = alone.predicted_loss / anchor
        noise = float(rng.lognormal(0.0, 0.1))
        probe = Probe(
            scheme=alone.scheme,
            rounding=alone.rounding,
            predicted=predicted,
            measured=alone.predicted_loss * noise,
            error_after_blocks=course,
        )
    return MatrixCurve(
        layer=layer,
        block=block,
        role=role,
        out_features=rows,
        in_features=columns,
        kept_element_bytes=4,
        input_group=layer,
        tied=["lm_head"] if block is None else [],
        options=options,
        probe=probe,
        anchor=anchor,
        spectrum_rank=float(rng.uniform(20, 90)),
    )


def _errors(rng: np.random.Generator, side: int, *, has_factors: bool) -> list[tuple[Scheme, Rounding, float]]:
    """Options with their relative error."""
    found: list[tuple[Scheme, Rounding, float]] = [(KEEP, Rounding.NONE, 0.0), (HALF, Rounding.NONE, 0.0015)]
    coded = {bits: 1.6 * 2.0**-bits * float(rng.uniform(0.9, 1.1)) for bits in WIDTHS}
    for bits, error in coded.items():
        found.append((integer(bits), Rounding.NEAREST, error))
        if has_factors:
            found.append((integer(bits), Rounding.SECOND_ORDER, 0.75 * error))
    if not has_factors:
        return found
    decay = float(rng.uniform(1.5, 4.0))
    for rank in (16, 32, 64, 96):
        tail = math.sqrt(math.exp(-decay * rank / side * 2))
        found += [(low_rank(rank, bits), Rounding.WHITENED, math.hypot(0.3 * tail, coded.get(bits, 0.0))) for bits in (16, 8, 4)]
        found.append((low_rank(rank, 8), Rounding.PLAIN, 0.7 * tail))
    for bits in (4, 3, 2):
        found += [
            (integer_low_rank(bits, rank, 8), Rounding.SECOND_ORDER, 0.75 * coded[bits] * (1 - (rank / side) ** 0.3))
            for rank in (16, 32)
        ]
    return found
