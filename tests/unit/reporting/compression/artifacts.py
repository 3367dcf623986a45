"""A compressed folder of a small Llama: a plan by a price on bytes, its race, and an evaluation; seeded numbers, no model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from layerlens.artifacts.compression import (
    CompressionPlan,
    Curves,
    MatrixCurve,
    Measured,
    Option,
    PlanMatrix,
    Rounding,
    save_compression_plan,
    save_curves,
)
from layerlens.artifacts.compression_evaluation import (
    ByteChange,
    Change,
    CompressionEvaluation,
    ErrorTravel,
    Generated,
    LayerQuality,
    LeaveOneOut,
    Memory,
    MemoryChange,
    PowerLaw,
    Reverted,
    Speed,
    Spread,
    TextQuality,
    Windows,
    verdict_of,
)
from layerlens.artifacts.formats import integer
from layerlens.artifacts.plan import Budget, Chosen, Solver
from layerlens.artifacts.store import write_json
from layerlens.reporting.compression.folder import CompressedFolder
from layerlens.words import BudgetName
from tests.unit.reporting.compression.synthetic_curves import BLOCKS, OTHER_BYTES, VERSIONS, curves, model_info, task_info

PRICE = 6e-9
"""Nats that a byte must save."""

OURS, RIVAL = "optimum", "uniform second-order"
COMMAND = "layerlens compress tests/small-llama --data stdlib-docs --size 3MB --out compressed"
EVALUATE = "layerlens evaluate compressed --against tests/small-llama --data stdlib-docs --out evaluation.json"


def chosen_option(curve: MatrixCurve) -> Option:
    return min(curve.options, key=lambda option: option.predicted_loss + PRICE * option.size_bytes)


def planned(curve: MatrixCurve, option: Option) -> PlanMatrix:
    return PlanMatrix(
        layer=curve.layer,
        block=curve.block,
        role=curve.role,
        out_features=curve.out_features,
        in_features=curve.in_features,
        scheme=option.scheme,
        rounding=option.rounding,
        format=option.scheme.name,
        rank=option.scheme.rank,
        bits=option.scheme.bits,
        size_bytes=option.size_bytes,
        predicted_loss=option.predicted_loss,
        why=f"saves {option.predicted_loss:.2g} nats per byte less than the next one up would",
        tied=curve.tied,
    )


@cache
def plan() -> CompressionPlan:
    """Our plan won the race."""
    layers = [planned(curve, chosen_option(curve)) for curve in curves().matrices]
    size = OTHER_BYTES + sum(entry.size_bytes for entry in layers)
    predicted = sum(entry.predicted_loss for entry in layers)
    return CompressionPlan(
        model=model_info(),
        task=task_info(),
        budgets={BudgetName.SIZE_BYTES: Budget(limit=size + 1000, spent=size)},
        solver=Solver(status="optimal", value=-predicted, bound=-predicted, gap=0.0, uniform_value=-1.4 * predicted),
        chosen=Chosen(name=OURS, value=-predicted),
        size_bytes=size,
        bits_per_weight=8 * size / model_info().num_parameters,
        measured=_race(size, predicted),
        layers=layers,
        metadata={
            "command": COMMAND,
            "config": {"size": 3_000_000},
            "versions": VERSIONS,
            "seed": 3,
            "notes": ["a note of the plan"],
        },
    )


def _race(size: int, predicted: float) -> list[Measured]:
    runners = [
        (OURS, 0.0, predicted, 1.05 * predicted, False),
        ("without low rank", 0.001, 1.06 * predicted, 1.1 * predicted, False),
        (RIVAL, 0.02, 1.4 * predicted, 1.42 * predicted, True),
        ("uniform nearest", 0.02, 2.2 * predicted, 2.6 * predicted, True),
        ("whitened SVD + int8", 0.003, 18 * predicted, 11 * predicted, True),
        ("plain SVD + int8", 0.003, None, 19 * predicted, True),
    ]
    return [
        Measured(
            name=name,
            size_bytes=int(size * (1 - less)),
            bits_per_weight=8 * int(size * (1 - less)) / model_info().num_parameters,
            predicted_loss=expected,
            kl_nats=kl,
            is_baseline=is_baseline,
        )
        for name, less, expected, kl, is_baseline in runners
    ]


def baseline_plan() -> CompressionPlan:
    """A baseline won the race: every matrix in one width."""
    made = plan()
    layers = [
        planned(curve, next(o for o in curve.options if o.scheme == integer(4) and o.rounding is Rounding.NEAREST))
        for curve in curves().matrices
    ]
    size = OTHER_BYTES + sum(entry.size_bytes for entry in layers)
    race = [
        Measured(name=RIVAL, size_bytes=size, bits_per_weight=4.3, predicted_loss=0.02, kl_nats=0.010, is_baseline=True),
        Measured(name=OURS, size_bytes=size, bits_per_weight=4.3, predicted_loss=0.01, kl_nats=0.012, is_baseline=False),
    ]
    update = {
        "layers": layers,
        "size_bytes": size,
        "bits_per_weight": 8 * size / model_info().num_parameters,
        "measured": race,
        "chosen": Chosen(name=RIVAL, value=-sum(entry.predicted_loss for entry in layers)),
        "budgets": {BudgetName.SIZE_BYTES: Budget(limit=size, spent=size)},
    }
    return made.model_copy(update=update)


@cache
def evaluation() -> CompressionEvaluation:
    made, rng = plan(), np.random.default_rng(11)
    layers = []
    for curve, entry in zip(curves().matrices, made.layers, strict=True):
        option = chosen_option(curve)
        layers.append(
            LayerQuality(
                layer=curve.layer,
                weight_cosine=(1 - min(option.weight_error, 0.9) ** 2) ** 0.5,
                weight_error=option.weight_error,
                output_cosine=(1 - min(option.output_error, 0.9) ** 2) ** 0.5,
                output_error=option.output_error,
                size_bytes=ByteChange(before=4 * curve.out_features * curve.in_features, after=entry.size_bytes),
                verdict=verdict_of(option.output_error),
            )
        )
    whole = made.measured[0].kl_nats
    inner = made.layers[1:]
    shares = sorted((float(rng.exponential(1 / len(inner))) for _ in inner), reverse=True)
    reverted = [
        Reverted(
            layer=entry.layer,
            kl_nats=whole * (1 - share),
            gain_nats=whole * share,
            low=whole * share * 0.8,
            high=whole * share * 1.2,
            share=share,
            is_pillar=place < 2,
        )
        for place, (entry, share) in enumerate(zip(reversed(inner), shares, strict=False))
    ]
    after = [0.02 * (1 + 0.25 * block) for block in range(BLOCKS)]
    return CompressionEvaluation(
        model="compressed",
        against="tests/small-llama",
        task="causal-lm",
        size_bytes=ByteChange(before=model_info().size_bytes, after=made.size_bytes),
        bits_per_weight=made.bits_per_weight,
        texts=[_text("stdlib-docs", is_calibration=True, scale=1.0), _text("encyclopaedia", is_calibration=False, scale=1.7)],
        layers=layers,
        generated=[
            Generated(
                prompt="def load(",
                before="path):\n    return json.loads(path.read_text())",
                after="path):\n    return json.load(open(path))",
                num_same=9,
                num_tokens=14,
            ),
            Generated(prompt="The list", before=" is sorted in place.", after=" is sorted in place.", num_same=6, num_tokens=6),
        ],
        speed=Speed(
            tokens_per_second=Change(before=41.0, after=63.5),
            new_tokens=64,
            prompt_tokens=16,
            repeats=3,
            types=["float32", "bfloat16"],
        ),
        memory=MemoryChange(
            before=_memory(model_info().size_bytes, grown=24_000_000, of_files=22_000_000),
            after=_memory(made.size_bytes, grown=5_000_000, of_files=0),
        ),
        travel=ErrorTravel(
            alone=_law(-0.12, 0.75),
            together=_law(0.45, after[-1] / after[0]),
            error_after_blocks=after,
            summary="one matrix compressed: N^-0.12 (claimed N^-0.50)",
        ),
        leave_one_out=LeaveOneOut(kl_nats=whole, layers=reverted),
        command=EVALUATE,
        versions={"transformers": "5.23.0"},
        machine="Linux, 2 cores",
        notes=["a note of the evaluation"],
    )


def _law(exponent: float, end: float) -> PowerLaw:
    return PowerLaw(
        exponent=exponent,
        rms_log_error=0.05,
        claimed_rms_log_error=0.4,
        end_over_start=end,
        claimed_end_over_start=0.41,
        num_points=21,
    )


def _memory(weight_bytes: int, *, grown: int, of_files: int) -> Memory:
    start, files = 400_000_000, 30_000_000
    return Memory(
        weight_bytes=weight_bytes,
        resident_before_bytes=start,
        resident_after_bytes=start + grown,
        file_before_bytes=files,
        file_after_bytes=files + of_files,
    )


def _text(name: str, *, is_calibration: bool, scale: float) -> TextQuality:
    return TextQuality(
        name=name,
        is_calibration=is_calibration,
        num_positions=16_384,
        windows=Windows(window=512, stride=512, has_bos=True, num_tokens=16_416),
        perplexity=Change(before=7.125 * scale, after=7.25 * scale),
        kl=Spread(mean=0.0123 * scale, median=0.0045 * scale, p99=0.134 * scale, max=1.37 * scale),
        same_top_token=0.9512,
        logits_cosine=0.99871,
    )


def a_folder(**parts: Any) -> CompressedFolder:
    """Everything that compression and its evaluation leave, but for the parts given."""
    whole: dict[str, Any] = {"name": "compressed", "plan": plan(), "curves": curves(), "evaluation": evaluation(), "missing": ()}
    return CompressedFolder(**{**whole, **parts})


def write_folder(
    folder: Path,
    *,
    made: CompressionPlan | None = None,
    beside: Curves | None = None,
    evaluated: CompressionEvaluation | None = None,
) -> Path:
    """Write what is given; the plan always."""
    save_compression_plan(folder, made or plan())
    if beside is not None:
        save_curves(folder.with_name(f"{folder.name}.curves"), beside)
    if evaluated is not None:
        write_json(folder / "evaluation.json", evaluated)
    return folder
