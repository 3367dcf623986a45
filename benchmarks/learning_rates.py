"""Tune the learning rates of full fine-tuning and of LoRA, on validation samples that no final evaluation sees.

    python benchmarks/learning_rates.py demo|mrpc [--seeds 0] [--record]

Full fine-tuning and uniform LoRA train at every rate of their stated grids, from each seed, for the setting's own number
of steps, and are scored on the race part of the data; test samples are never read. Prints the table and writes
runs/benchmarks/learning_rates-SETTING.json; --record also writes the best rates, with the sweep's figures, to the file
that the setting reads them from. Finished runs are kept and not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table
from settings import SETTINGS, SWEPT, profiled_and_planned

from layerlens.adapting.arms.run import run_arm
from layerlens.artifacts.plan import load_candidates, load_plan
from layerlens.terminal import TerminalProgress
from layerlens.workflow.machine import machine_kind
from layerlens.workflow.open import open_plan_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=sorted(SETTINGS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    root = Path("runs/benchmarks/learning_rates") / options.setting
    with TerminalProgress() as progress:
        plan_path = profiled_and_planned(setting, root, progress)
        plan, candidates = load_plan(plan_path), load_candidates(plan_path)
        opened = open_plan_model(plan, setting.data, setting.training, has_eval_data=setting.eval_data is not None)
        validation = (opened.data, opened.part.race)
        figures: dict[str, dict[str, list[dict[str, float]]]] = {}
        for arm in SWEPT:
            for rate in setting.full_rates if arm == "full" else setting.adapter_rates:
                for seed in seeds:
                    config = setting.training.model_copy(
                        update={"learning_rate": rate, "seed": seed, "compare": [], "eval_data": None}
                    )
                    run = run_arm(
                        arm,
                        plan,
                        candidates,
                        opened.task_model,
                        opened.data,
                        opened.part,
                        validation,
                        config,
                        out=root / "arms" / f"{arm}-{rate:g}-{seed}",
                        progress=progress,
                    )
                    figures.setdefault(arm, {}).setdefault(f"{rate:g}", []).append(run.metrics)
    best = {arm: min(rates, key=lambda rate: mean_loss(rates[rate])) for arm, rates in figures.items()}
    primary = opened.data.task.primary_metric
    table = Table(
        title=f"{setting.name}: validation after {setting.training.max_steps} steps, {len(seeds)} seeds, {machine_kind()}"
    )
    for column in ("arm", "rate", "loss", primary, "chosen"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, rates in figures.items():
        for label, runs in rates.items():
            score = statistics.mean(run[primary] for run in runs)
            table.add_row(arm, label, f"{mean_loss(runs):.4f}", f"{score:.4f}", "←" if best[arm] == label else "")
    Console().print(table)
    content = {
        "command": f"python benchmarks/learning_rates.py {options.setting} --seeds {options.seeds}",
        "machine": machine_kind(),
        "steps": setting.training.max_steps,
        "scored_on": f"{len(opened.part.race)} validation samples of {setting.data_name}",
        "arms": {
            arm: {
                "learning_rate": float(best[arm]),
                "validation_loss": {rate: round(mean_loss(runs), 4) for rate, runs in rates.items()},
                f"validation_{primary}": {
                    rate: round(statistics.mean(run[primary] for run in runs), 4) for rate, runs in rates.items()
                },
            }
            for arm, rates in figures.items()
        },
    }
    text = json.dumps(content, indent=2) + "\n"
    Path(f"runs/benchmarks/learning_rates-{options.setting}.json").write_text(text)
    if options.record:
        setting.rates_file.write_text(text)


def mean_loss(runs: list[dict[str, float]]) -> float:
    return statistics.mean(run["loss"] for run in runs)


if __name__ == "__main__":
    main()
