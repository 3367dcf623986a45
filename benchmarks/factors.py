"""Factors of rank 128 and 256 for the attention layers of a GPT-Neo-1.3B shape, against `torch.linalg.svd` of each layer.

    python benchmarks/factors.py [--layers 6] [--out runs/benchmarks/factors.json]

96 matrices of 2048 × 2048. A sample of them, spread evenly, is timed, and the medians are scaled to 96. Weights: the seeded ones
of `benchmarks/shapes.py` (Gaussian, so that the spectrum is flat: hard for methods that iterate) where that folder is made, else
drawn alike; and spectra as trained matrices have them, which are made (σ_i is said in the table).

One singular value decomposition gives both ranks, and so does one of ours: "both" is the fair ratio. Seconds are those that one
core was busy for, so that a loaded machine measures nearly the same; the wall time stands in the JSON. The error of a rank is
‖up·down − W‖ over that of the decomposition by `torch.linalg.svd`, both multiplied out in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from torch import Tensor

from layerlens.linalg.whitened_factors import plain_factors, whitened_factors

NUM_LAYERS, SIZE, RANKS = 96, 2048, (128, 256)
TARGET_RATIO, GOAL_RATIO, TARGET_ERROR = 5.0, 10.0, 1.01
SHAPE = Path("runs/benchmarks/shapes/gpt-neo-1.3b")
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "i^-0.5": lambda places: places**-0.5,
    "i^-1": lambda places: places**-1.0,
    "exp(-i/200)": lambda places: torch.exp(-places / 200) + 1e-3,
    "i^-0.6 over a quarter circle": lambda places: 3 * places**-0.6 + 0.6 * (1 - places / SIZE).clamp_min(0.01).sqrt(),
}


def shape_weights(count: int) -> Iterator[tuple[str, Tensor]]:
    """Attention weights of the shape, spread evenly over its blocks and roles."""
    roles = ("q_proj", "k_proj", "v_proj", "out_proj")
    for step in range(count):
        place = step * NUM_LAYERS // count + step % len(roles)
        name = f"transformer.h.{place // 4 % 24}.attn.attention.{roles[place % 4]}.weight"
        index = SHAPE / "model.safetensors.index.json"
        if index.exists():
            file = json.loads(index.read_text())["weight_map"][name]
            with safe_open(SHAPE / file, framework="pt") as tensors:
                yield name, tensors.get_tensor(name).float()
        else:
            yield f"drawn {place}", torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(place)) * 0.02


def spectrum_weight(values: Tensor, seed: int) -> Tensor:
    """A matrix of given singular values in random directions."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0] for _ in range(2))
    return (left * values) @ right


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the core, wall time, and the result."""
    start, started = time.process_time(), time.perf_counter()
    result = call()
    return time.process_time() - start, time.perf_counter() - started, result


def error(weight: Tensor, up: Tensor, down: Tensor) -> float:
    """‖up·down − W‖ of factors [rank features]."""
    return (up.double().t() @ down.double() - weight.double()).norm().item()


def one_layer(name: str, kind: str, weight: Tensor, grams: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """Both ways on one matrix."""
    svd, svd_wall, (left, values, right) = timed(lambda: torch.linalg.svd(weight, full_matrices=False))
    row: dict[str, Any] = {"layer": name, "spectrum": kind, "svd_seconds": svd, "svd_wall_seconds": svd_wall}
    for rank in RANKS:
        seconds, wall, factors = timed(partial(plain_factors, weight, rank))
        row |= {f"seconds_{rank}": seconds, f"wall_seconds_{rank}": wall}
        if rank != max(RANKS):
            continue
        for front in RANKS:
            best = error(weight, (left[:, :front] * values[:front]).t(), right[:front])
            row[f"error_ratio_{front}"] = error(weight, factors.up[:front], factors.down[:front]) / best
            row[f"relative_error_{front}"] = best / weight.double().norm().item()
    if grams is not None:
        row["whitened_seconds"], row["whitened_wall_seconds"], _ = timed(lambda: whitened_factors(weight, *grams, max(RANKS)))
    return row


def random_gram(seed: int) -> Tensor:
    """A Gram of decaying directions, as inputs of a trained model have."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4096, SIZE, generator=generator) * torch.logspace(0, -2, SIZE)
    mixed = rows @ torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator))[0]
    return mixed.t() @ mixed / len(mixed)


def summary(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of one kind of spectrum, and whether the target is met."""
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key.endswith(("seconds", "128", "256"))}
    worst = max(row[f"error_ratio_{rank}"] for row in rows for rank in RANKS)
    # The larger rank's factors begin with the smaller's.
    ratio = median["svd_seconds"] / median[f"seconds_{max(RANKS)}"]
    return {
        "spectrum": kind,
        "layers_timed": len(rows),
        "median": median,
        "ratio_both": ratio,
        "ratio_128_alone": median["svd_seconds"] / median["seconds_128"],
        "ratio_both_apart": median["svd_seconds"] / (median["seconds_128"] + median["seconds_256"]),
        "worst_error_ratio": worst,
        "svd_seconds_all_layers": NUM_LAYERS * median["svd_seconds"],
        "seconds_all_layers": NUM_LAYERS * median[f"seconds_{max(RANKS)}"],
        "is_met": ratio >= TARGET_RATIO and worst <= TARGET_ERROR,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="layers of the shape that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/factors.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    grams = random_gram(0), random_gram(1)
    one_layer("warm-up", "", next(shape_weights(1))[1], grams)
    source = "seeded weights of the shape" if SHAPE.exists() else "drawn as the shape's"
    by_kind = {source: [one_layer(name, source, weight, grams) for name, weight in shape_weights(options.layers)]}
    places = torch.arange(1, SIZE + 1, dtype=torch.float32)
    for kind, make in SPECTRA.items():
        by_kind[kind] = [one_layer(f"seed {seed}", kind, spectrum_weight(make(places), seed), None) for seed in range(2)]
    summaries = [summary(kind, rows) for kind, rows in by_kind.items()]
    table = Table(title=f"{NUM_LAYERS} matrices of {SIZE}²: factors of rank 128 and 256; medians of sampled layers, one core")
    columns = ("spectrum", "layers", "svd s", "both s", "×", "128 s", "×", "worst error", "svd, all", "ours, all")
    for column in (*columns, f"≥ {TARGET_RATIO:g} × at ≤ {TARGET_ERROR}"):
        table.add_column(column)
    for row in summaries:
        median = row["median"]
        table.add_row(
            row["spectrum"],
            str(row["layers_timed"]),
            f"{median['svd_seconds']:.2f}",
            f"{median['seconds_256']:.3f}",
            f"{row['ratio_both']:.1f}",
            f"{median['seconds_128']:.3f}",
            f"{row['ratio_128_alone']:.1f}",
            f"{row['worst_error_ratio']:.4f}",
            f"{row['svd_seconds_all_layers']:.0f} s",
            f"{row['seconds_all_layers']:.0f} s",
            ("yes" if row["is_met"] else "NO") + (", goal" if row["is_met"] and row["ratio_both"] >= GOAL_RATIO else ""),
        )
    console = Console(width=150)
    console.print(table)
    whitened = summaries[0]["median"]["whitened_seconds"]
    console.print(f"whitened on both sides (full Grams), rank 256 with the loss of every rank: {whitened:.2f} s a layer")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"summaries": summaries, "layers": by_kind, "threads": 1, "load_average": os.getloadavg()[0]}
    options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
