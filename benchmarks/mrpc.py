"""MiniLM on MRPC: full fine-tuning, query + value LoRA, uniform LoRA and LayerLens, from paired seeds.

    python benchmarks/mrpc.py [--seeds 0,1,2]

Learning rates were tuned on validation samples by `benchmarks/learning_rates.py mrpc --record`; query + value takes uniform's.
Every arm trains the same steps on the same batches from the same fitted head, and is scored on the same test pairs (per
seed). LayerLens is profiled, planned and raced once, at the first seed. Prints the table and writes
runs/benchmarks/mrpc.json. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table
from settings import MRPC, profiled_and_planned

from layerlens.config import RaceConfig
from layerlens.terminal import TerminalProgress
from layerlens.workflow.tune import tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    root, rates, training = Path("runs/benchmarks/mrpc"), MRPC.rates, MRPC.training
    others = [arm for arm in MRPC.arms if arm != "layerlens"]
    config = training.model_copy(
        update={
            "eval_data": MRPC.eval_data,
            "learning_rate": rates["layerlens"],
            "learning_rates": rates,
            "compare": others,
            "seeds": [int(seed) for seed in options.seeds.split(",")],
        }
    )
    race = RaceConfig(
        max_length=training.max_length,
        batch_size=training.batch_size,
        eval_data=MRPC.eval_data,
        learning_rate=rates["layerlens"],
        tuning_steps=training.max_steps,
        min_steps=20,
        share=1.0,
    )
    with TerminalProgress() as progress:
        plan_path = profiled_and_planned(MRPC, root, progress)
        result = tune(plan_path, MRPC.data, root, config, race_config=race, progress=progress)
    if result.evaluation is None:
        raise SystemExit("nothing was measured")
    evaluation = result.evaluation
    arms: dict[str, list] = {}
    for arm in evaluation.arms:
        arms.setdefault(arm.name, []).append(arm)
    full_seconds = statistics.mean(arm.train_seconds for arm in arms["full"])
    table = Table(
        title=f"MRPC test, {training.max_steps} steps of {training.batch_size}, {options.seeds} seeds, {evaluation.machine}"
    )
    for column in ("arm", "accuracy", "F1", "loss", "parameters", "head", "seconds", "time ÷ full", "peak MiB", "rate"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    rows = {}
    for name, runs in arms.items():
        row = {metric: [run.metrics[metric] for run in runs] for metric in ("accuracy", "f1", "loss")}
        seconds = statistics.mean(run.train_seconds for run in runs)
        peak = max(run.peak_memory_bytes for run in runs) / 2**20
        shown = [
            f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}" for values in row.values()
        ]
        table.add_row(
            name, *shown, f"{runs[0].trainable_params:,}", f"{runs[0].head_params:,}", f"{seconds:.1f}",
            f"{seconds / full_seconds:.2f}", f"{peak:,.0f}", f"{runs[0].learning_rate:g}",
        )  # fmt: skip
        rows[name] = {**row, "params": runs[0].trainable_params, "seconds": [run.train_seconds for run in runs], "peak_mib": peak}
    Console(width=150).print(table)
    content = {"machine": evaluation.machine, "arms": rows, "plan": json.loads((root / "plan.json").read_text())["chosen"]}
    Path("runs/benchmarks/mrpc.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
