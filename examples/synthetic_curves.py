"""Compression curves without a model: true shapes and bytes, and sensitivities drawn from a seed.

A matrix of sensitivity s with relative output error e is predicted to lose  s · e²  nats. Codes of b bits have
e² = c · 4^(-b), second-order rounding 0.6 of it; factors of rank r leave a power law's tail of the spectrum, plain ones 1.5
times as much; a correction takes a share of what the codes lost. Every figure varies a little from matrix to matrix, so
that curves cross as measured ones do. Defaults are the shapes of a small Llama.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from layerlens.artifacts.compression import CompressedModelInfo, Curves, MatrixCurve, Option, Rounding
from layerlens.artifacts.formats import (
    FACTOR_BITS,
    HALF,
    KEEP,
    WIDTHS,
    Scheme,
    integer,
    integer_low_rank,
    low_rank,
    size_bytes,
)
from layerlens.artifacts.profile import TaskInfo
from layerlens.words import Role, TaskKind


@dataclass(frozen=True)
class DecoderShape:
    """A decoder's sizes; `kv` is narrower than `hidden` where heads share keys and values."""

    blocks: int = 4
    hidden: int = 256
    inner: int = 704
    kv: int = 128
    vocabulary: int = 2048
    is_tied: bool = True
    kept_element_bytes: int = 4
    #: Ranks on the curves, as shares of the smaller side; rounded to multiples of 16.
    rank_shares: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5)
    correction_ranks: tuple[int, ...] = (16, 32)

    @property
    def layers(self) -> dict[Role, tuple[str, str, int, int]]:
        """Role: path inside a block, first layer that reads the same input, out and in features."""
        return {
            Role.ATTENTION_QUERY: ("self_attn.q_proj", "self_attn.q_proj", self.hidden, self.hidden),
            Role.ATTENTION_KEY: ("self_attn.k_proj", "self_attn.q_proj", self.kv, self.hidden),
            Role.ATTENTION_VALUE: ("self_attn.v_proj", "self_attn.q_proj", self.kv, self.hidden),
            Role.ATTENTION_OUTPUT: ("self_attn.o_proj", "self_attn.o_proj", self.hidden, self.hidden),
            Role.MLP_GATE: ("mlp.gate_proj", "mlp.gate_proj", self.inner, self.hidden),
            Role.MLP_UP: ("mlp.up_proj", "mlp.gate_proj", self.inner, self.hidden),
            Role.MLP_DOWN: ("mlp.down_proj", "mlp.down_proj", self.hidden, self.inner),
        }


SMALL_LLAMA = DecoderShape()
CLASS_7B = DecoderShape(
    blocks=32,
    hidden=4096,
    inner=11008,
    kv=4096,
    vocabulary=32000,
    is_tied=False,
    kept_element_bytes=2,
    rank_shares=(0.03125, 0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5),
    correction_ranks=(16, 32, 64, 128),
)


def synthesise_curves(shape: DecoderShape = SMALL_LLAMA, *, seed: int = 0) -> Curves:
    """Draw every matrix's options."""
    rng = np.random.default_rng(seed)
    matrices = [_embedding(shape, rng)]
    for block in range(shape.blocks):
        for role, (path, group, out_features, in_features) in shape.layers.items():
            prefix = f"model.layers.{block}"
            matrices.append(_matrix(shape, rng, f"{prefix}.{path}", f"{prefix}.{group}", block, role, out_features, in_features))
    if not shape.is_tied:
        matrices.append(_matrix(shape, rng, "lm_head", "lm_head", None, Role.HEAD, shape.vocabulary, shape.hidden))
    norms = (2 * shape.blocks + 1) * shape.hidden
    parameters = norms + sum(matrix.out_features * matrix.in_features for matrix in matrices)
    return Curves(
        model=CompressedModelInfo(
            id="synthetic",
            hash="0" * 64,
            architecture="LlamaForCausalLM",
            num_parameters=parameters,
            size_bytes=parameters * shape.kept_element_bytes,
            other_bytes=norms * shape.kept_element_bytes,
        ),
        task=TaskInfo(kind=TaskKind.CAUSAL_LM),
        data={"id": "synthetic"},
        matrices=matrices,
        seed=seed,
    )


def _embedding(shape: DecoderShape, rng: np.random.Generator) -> MatrixCurve:
    """A table has no factors, and no second-order rounding without a Gram of its inputs."""
    path = "model.embed_tokens"
    found = _matrix(shape, rng, path, path, None, Role.EMBEDDING, shape.vocabulary, shape.hidden)
    options = [
        option
        for option in found.options
        if not option.scheme.format.has_factors and option.rounding is not Rounding.SECOND_ORDER
    ]
    return found.model_copy(update={"options": options, "tied": ["lm_head"] if shape.is_tied else []})


def _matrix(
    shape: DecoderShape,
    rng: np.random.Generator,
    layer: str,
    group: str,
    block: int | None,
    role: Role,
    out_features: int,
    in_features: int,
) -> MatrixCurve:
    sensitivity = float(rng.lognormal(0.0, 1.0)) * 0.05
    anchor = float(rng.lognormal(0.0, 0.3))
    options = []
    for scheme, rounding, error in _errors(shape, rng, min(out_features, in_features)):
        options.append(
            Option(
                scheme=scheme,
                rounding=rounding,
                size_bytes=size_bytes(scheme, out_features, in_features, shape.kept_element_bytes),
                predicted_loss=anchor * sensitivity * error**2,
                weight_error=error,
                output_error=error,
            )
        )
    options.sort(key=lambda option: option.size_bytes)
    return MatrixCurve(
        layer=layer,
        block=block,
        role=role,
        out_features=out_features,
        in_features=in_features,
        kept_element_bytes=shape.kept_element_bytes,
        input_group=group,
        options=options,
        anchor=anchor,
    )


def _errors(shape: DecoderShape, rng: np.random.Generator, side: int) -> Iterator[tuple[Scheme, Rounding, float]]:
    """Every option with its relative output error."""
    yield KEEP, Rounding.NONE, 0.0
    yield HALF, Rounding.NONE, 0.0 if shape.kept_element_bytes <= 2 else 1e-3
    rounding_error = {bits: math.sqrt(2.0 * float(rng.uniform(0.8, 1.25))) * 2.0**-bits for bits in WIDTHS}
    for bits, error in rounding_error.items():
        yield integer(bits), Rounding.NEAREST, error
        yield integer(bits), Rounding.SECOND_ORDER, math.sqrt(0.6) * error
    decay = float(rng.uniform(1.0, 3.0))
    for rank in sorted({max(16, round(share * side / 16) * 16) for share in shape.rank_shares}):
        tail = math.sqrt((1 - rank / side) ** decay * float(rng.uniform(0.3, 0.6)))
        for factor_bits in FACTOR_BITS:
            error = math.hypot(tail, rounding_error.get(factor_bits, 0.0))
            yield low_rank(rank, factor_bits), Rounding.WHITENED, error
            if factor_bits == 8:
                yield low_rank(rank, factor_bits), Rounding.PLAIN, min(1.0, math.sqrt(1.5) * error)
    for bits in (4, 3, 2):
        for rank in shape.correction_ranks:
            share = 1 - 0.5 * (rank / side) ** 0.5
            yield integer_low_rank(bits, rank, 8), Rounding.SECOND_ORDER, math.sqrt(0.6 * share) * rounding_error[bits]
