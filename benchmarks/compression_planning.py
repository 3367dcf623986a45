"""Planning the formats of a 7B-class model: seconds from stored curves to a plan, and plain HiGHS beside the optimum.

    python benchmarks/compression_planning.py [--repeats 3] [--seeds 2] [--out runs/benchmarks/compression_planning.json]

226 matrices with about 56 options each, drawn from a seed (no model is read). A plan is everything that races: the
optimum with its proof, our other readings, every baseline, all reasons. Reading `curves.json` is timed apart. One process on
one core; medians over repeats, in seconds that the core was busy for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from layerlens.artifacts.compression import Curves, load_curves, save_curves
from layerlens.artifacts.compression_checks import inconsistencies
from layerlens.budget.compression import plan_compression
from layerlens.config import CompressConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.synthetic_curves import CLASS_7B, synthesise_curves

TARGET_SECONDS, TARGET_GAP = 1.0, 1e-6
TARGETS: tuple[dict[str, Any], ...] = (
    {"bits_per_weight": 8},
    {"bits_per_weight": 6},
    {"bits_per_weight": 4.25},
    {"bits_per_weight": 3.5},
    {"bits_per_weight": 3},
    {"bits_per_weight": 4.25, "group_by": "fused"},
    {"cosine": 0.99},
    {"rank": 512},
)


def plain_milp(curves: Curves, room_bytes: int) -> float:
    """Least predicted loss by HiGHS: one binary per option, no help."""
    sizes = np.array([option.size_bytes for matrix in curves.matrices for option in matrix.options], float)
    losses = np.array([option.predicted_loss for matrix in curves.matrices for option in matrix.options])
    groups = np.repeat(np.arange(len(curves.matrices)), [len(matrix.options) for matrix in curves.matrices])
    places = np.arange(len(groups))
    one_each = csr_array((np.ones(len(groups)), (groups, places)), shape=(len(curves.matrices), len(groups)))
    rows = vstack([one_each, csr_array(sizes[None] / room_bytes)])
    high = np.ones(len(curves.matrices) + 1)
    low = np.append(np.ones(len(curves.matrices)), -np.inf)
    # HiGHS also stops at an absolute gap, which must not stand in for the relative one.
    scale = float(np.median(losses[losses > 0]))
    found = milp(
        losses / scale,
        constraints=LinearConstraint(rows, low, high),
        integrality=np.ones(len(groups), dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": TARGET_GAP, "time_limit": 60},
    )
    assert found.x is not None, found.message
    return float(found.fun) * scale


def median_seconds(repeats: int, call: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of the core, and the last result."""
    busy, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        busy.append(time.process_time() - start)
    return statistics.median(busy), result


def planned(curves: Curves, given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """One target on one set of curves."""
    config = CompressConfig(**given)
    seconds, plans = median_seconds(
        repeats, lambda: plan_compression(curves, config, command="benchmarks/compression_planning.py")
    )
    plan = plans.plan
    assert not any(inconsistencies(each) for each in (*plans.candidates.values(), *plans.baselines.values()))
    row: dict[str, Any] = {
        "target": " ".join(f"{name}={value}" for name, value in given.items()),
        "seed": curves.seed,
        "seconds": seconds,
        "bits_per_weight": plan.bits_per_weight,
        "loss": -plan.solver.value,
        "gap": plan.solver.gap,
        "plans": len(plans.candidates) + len(plans.baselines),
        "best_baseline_loss": min((-each.chosen.value for each in plans.baselines.values()), default=None),
        "milp_seconds": None,
        "milp_loss": None,
        "is_met": seconds <= TARGET_SECONDS and plan.solver.gap <= TARGET_GAP,
    }
    if set(given) == {"bits_per_weight"}:
        limit = int(given["bits_per_weight"] * curves.model.num_parameters / 8)
        row["milp_seconds"], row["milp_loss"] = median_seconds(1, lambda: plain_milp(curves, limit - curves.model.other_bytes))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/compression_planning.json"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    console = Console(width=150)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        save_curves(Path(folder), synthesise_curves(CLASS_7B))
        reading, curves = median_seconds(options.repeats, lambda: load_curves(Path(folder)))
    for seed in range(options.seeds):
        drawn = synthesise_curves(CLASS_7B, seed=seed)
        rows += [planned(drawn, given, options.repeats) for given in TARGETS]
    num_options = sum(len(matrix.options) for matrix in curves.matrices)
    title = f"{len(curves.matrices)} matrices, {num_options} options, one core; curves.json is read in {reading:.2f} s"
    table = Table(title=title)
    for column in ("target", "seed", "s", "plans", "bits/weight", "loss, nats", "gap", "best baseline", "HiGHS s", "HiGHS loss"):
        table.add_column(column)
    table.add_column(f"≤ {TARGET_SECONDS:g} s, gap ≤ {TARGET_GAP:g}")
    for row in rows:
        has_milp = row["milp_loss"] is not None
        table.add_row(
            row["target"],
            str(row["seed"]),
            f"{row['seconds']:.2f}",
            str(row["plans"]),
            f"{row['bits_per_weight']:.5f}",
            f"{row['loss']:.9g}",
            f"{row['gap']:.0e}",
            f"{row['best_baseline_loss']:.4g}" if row["best_baseline_loss"] is not None else "none fits",
            f"{row['milp_seconds']:.2f}" if has_milp else "",
            f"{row['milp_loss']:.9g}" if has_milp else "",
            "yes" if row["is_met"] else "NO",
        )
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"reading_seconds": reading, "options": num_options, "rows": rows, "load_average": os.getloadavg()[0]}
    options.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
