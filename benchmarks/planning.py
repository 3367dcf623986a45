"""Planning a 70B-class model under two budgets: LayerLens's solver beside plain HiGHS, and `make_plan` end to end.

    python benchmarks/planning.py [--repeats 3] [--milp-repeats 1] [--seeds 2] [--out runs/benchmarks/planning.json]

80 blocks × 7 layers × 33 options (none and 32 ranks), trainable parameters and training memory at once. The second is
not proportional to the first (it has a price per rank of its own and a lump per adapted layer), and both limits
bind: each, alone, allows more value. One process on one core, the same instance for both solvers; medians over repeats.
Seconds are those that the core
was busy for, so that a loaded machine measures nearly the same; the wall time stands in the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from layerlens.budget.knapsack import Knapsack
from layerlens.budget.run import make_plan
from layerlens.budget.solver import solve
from layerlens.config import OptimizationConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.synthetic_profile import CLASS_70B, synthesise

NUM_RANKS = 32
TARGET_SECONDS, TARGET_GAP = 1.0, 1e-6
BATCH_TOKENS = 4096
#: Shares of what every layer at the largest rank costs. Limits are then moved until both bind.
SHARE = 0.2
CURVES = ("whitened", "identical", "random concave")


def gains(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Cumulative gain at rank 1 … 32 of every layer, float64 [layers, ranks]."""
    num_layers = CLASS_70B.blocks * len(CLASS_70B.layers)
    ranks = np.arange(1, NUM_RANKS + 1)
    if kind == "random concave":
        return np.sort(rng.exponential(1.0, (num_layers, NUM_RANKS)), axis=1)[:, ::-1].cumsum(axis=1) * 1e-3
    shape = 1.0 - 0.85**ranks
    if kind == "identical":
        return rng.lognormal(0.0, 0.5, num_layers)[:, None] * shape * 1e-3
    decay = rng.uniform(0.6, 0.95, num_layers)[:, None]
    return rng.lognormal(0.0, 1.0, num_layers)[:, None] * (1.0 - decay**ranks) * 1e-3


def instance(kind: str, seed: int) -> Knapsack:
    """Both budgets bind: relaxing either one alone raises the optimum."""
    layers = list(CLASS_70B.layers.values()) * CLASS_70B.blocks
    ranks = np.arange(NUM_RANKS + 1)
    params = np.array([ranks * (inputs + outputs) for _, _, inputs, outputs in layers], dtype=np.int64)
    lump = np.array([4 * BATCH_TOKENS * inputs for _, _, inputs, _ in layers], dtype=np.int64)[:, None] * (ranks > 0)
    memory = 16 * params + 4 * BATCH_TOKENS * ranks + lump
    costs = np.stack([params, memory])
    curves = gains(kind, np.random.default_rng(seed))
    values = np.concatenate([np.zeros((len(layers), 1)), curves], axis=1)
    first = int(SHARE * params[:, -1].sum())
    only_first = solve(Knapsack.of(values, costs[:1], [first])).choice
    assert only_first is not None
    spent = int(memory[np.arange(len(layers)), only_first].sum())
    return Knapsack.of(values, costs, [first, int(0.93 * spent)])


def binds(problem: Knapsack, best: float) -> bool:
    """Whether each limit, relaxed alone by a tenth, allows more value."""
    loosened = []
    for budget in range(problem.num_budgets):
        limits = problem.limits.copy()
        limits[budget] = int(1.1 * limits[budget])
        loosened.append(solve(Knapsack.of(problem.values, problem.costs, limits)).value)
    return min(loosened) > best * (1 + TARGET_GAP)


def plain_milp(problem: Knapsack) -> tuple[float, float]:
    """The same instance as it is written down: one binary per option, no help. Value and bound."""
    groups, options = problem.values.shape
    one_each = csr_array(np.kron(np.eye(groups), np.ones(options)))
    budgets = csr_array(problem.costs.reshape(problem.num_budgets, -1).astype(np.float64))
    rows = vstack([one_each, budgets])
    low = np.concatenate([np.ones(groups), np.full(problem.num_budgets, -np.inf)])
    high = np.concatenate([np.ones(groups), problem.limits.astype(np.float64)])
    found = milp(
        -problem.values.ravel(),
        constraints=LinearConstraint(rows, low, high),
        integrality=np.ones(groups * options),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": TARGET_GAP, "time_limit": 120},
    )
    assert found.x is not None, found.message
    assert found.mip_dual_bound is not None
    choice = found.x.reshape(groups, options).argmax(axis=1)
    return problem.value_of(choice), -float(found.mip_dual_bound)


def median_seconds(repeats: int, call: Any) -> tuple[float, float, Any]:
    """Median seconds of the core, median wall time, and the last result."""
    busy, wall, result = [], [], None
    for _ in range(repeats):
        start, started = time.process_time(), time.perf_counter()
        result = call()
        busy.append(time.process_time() - start)
        wall.append(time.perf_counter() - started)
    return statistics.median(busy), statistics.median(wall), result


def compared(kind: str, seed: int, repeats: int, milp_repeats: int) -> dict[str, Any]:
    """Both solvers on one instance."""
    problem = instance(kind, seed)
    ours, wall, solution = median_seconds(repeats, lambda: solve(problem))
    theirs, milp_wall, (value, bound) = median_seconds(milp_repeats, lambda: plain_milp(problem))
    assert solution.choice is not None
    assert problem.is_feasible(solution.choice)
    return {
        "curves": kind,
        "seed": seed,
        "seconds": ours,
        "milp_seconds": theirs,
        "wall_seconds": wall,
        "milp_wall_seconds": milp_wall,
        "ratio": theirs / ours,
        "value": solution.value,
        "bound": solution.bound,
        "gap": solution.gap,
        "status": solution.status,
        "milp_value": value,
        "milp_bound": bound,
        "is_equal": abs(solution.value - value) <= TARGET_GAP * abs(value),
        "utilisation": (problem.spend_of(solution.choice) / problem.limits).tolist(),
        "both_bind": binds(problem, solution.value),
        "is_met": ours <= TARGET_SECONDS and solution.gap <= TARGET_GAP,
    }


def end_to_end(repeats: int) -> list[dict[str, Any]]:
    """Seconds of `make_plan` with candidates, reasons and trade-off curve, by budgets."""
    rng = np.random.default_rng(0)
    places = [(block, role) for block in range(CLASS_70B.blocks) for role in CLASS_70B.layers]
    made = synthesise({place: float(rng.lognormal(0.0, 0.7)) for place in places}, shape=CLASS_70B, num_ranks=NUM_RANKS)
    rows = []
    cases: dict[str, dict[str, float]] = {
        "parameters": {"max_trainable_params": 100_000_000},
        "parameters + memory": {"max_trainable_params": 100_000_000, "max_vram_gb": 285.0},
    }
    for name, budgets in cases.items():
        config = OptimizationConfig.model_validate({**budgets, "max_rank": NUM_RANKS, "batch_size": 1})
        seconds, wall, (plan, candidates) = median_seconds(
            repeats,
            lambda config=config: make_plan(
                made.profile, made.arrays, made.timing, config, profile_path="synthetic", command="benchmarks/planning.py"
            ),
        )
        spent = {key: budget.spent / budget.limit for key, budget in plan.budgets.items() if budget.limit}
        rows.append(
            {
                "budgets": name,
                "seconds": seconds,
                "wall_seconds": wall,
                "gap": plan.solver.gap,
                "utilisation": spent,
                "candidates": len(candidates),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--milp-repeats", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/planning.json"))
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    console = Console(width=170)
    rows = [compared(kind, seed, options.repeats, options.milp_repeats) for kind in CURVES for seed in range(options.seeds)]
    title = f"80 blocks × 7 layers × 33 options, two budgets, one core; median of {options.repeats} ({options.milp_repeats})"
    table = Table(title=title)
    for column in ("curves", "seed", "s", "HiGHS s", "×", "value", "bound", "gap", "equal", "spent", "both bind"):
        table.add_column(column)
    table.add_column(f"≤ {TARGET_SECONDS:g} s, gap ≤ {TARGET_GAP:g}")
    for row in rows:
        table.add_row(
            row["curves"],
            str(row["seed"]),
            f"{row['seconds']:.3f}",
            f"{row['milp_seconds']:.2f}",
            f"{row['ratio']:.1f}",
            f"{row['value']:.9g}",
            f"{row['bound']:.9g}",
            f"{row['gap']:.1e}",
            "yes" if row["is_equal"] else "NO",
            " ".join(f"{share:.4%}" for share in row["utilisation"]),
            "yes" if row["both_bind"] else "NO",
            "yes" if row["is_met"] else "NO",
        )
    console.print(table)
    whole = end_to_end(options.repeats)
    table = Table(title="make_plan on a 70B-class profile: optima, candidates, reasons, trade-off curve")
    for column in ("budgets", "s", "gap", "spent", "candidates"):
        table.add_column(column)
    for row in whole:
        shares = " ".join(f"{key}: {share:.2%}" for key, share in row["utilisation"].items())
        table.add_row(row["budgets"], f"{row['seconds']:.2f}", f"{row['gap']:.1e}", shares, str(row["candidates"]))
    console.print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    options.out.write_text(json.dumps({"solver": rows, "make_plan": whole, "load_average": load}, indent=2) + "\n")


if __name__ == "__main__":
    main()
