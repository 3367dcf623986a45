"""Is the prediction true? Layers one at a time, then whole plans trained to the end, against what a profile foretells.

    python benchmarks/predicted_gain.py [--models NAME,…] [--parts layers,plans] [--seeds 0,1] [--steps N] [--plan-steps N]
                                        [--batch-size N] [--plans N] [--probe-steps N,…] [--race-seeds N] [--budget-rank R]
                                        [--held-out N] [--processes N] [--quick] [--estimate]

layers   A LoRA on one layer alone (adapters only), and the whole weight of one layer alone: the drop of held-out loss, correlated
         with every score of the profile and with controls.
plans    Whole plans at one budget, trained to the end from paired seeds: predicted order (models of joint value, measured
         anchors, the prior, early signals of a race) against final order.

Learning rates are chosen on validation samples from the grids in `predicted_gain_subjects.py`; results are on test samples that
neither profile nor training nor rates saw. Runs are kept in runs/benchmarks/predicted_gain/NAME/runs.jsonl and never done
twice: stop at any time and start again. Writes runs/benchmarks/predicted_gain.json and predicted_gain.html.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from predicted_gain_layers import measure_layers, planned_jobs
from predicted_gain_page import write_page
from predicted_gain_plans import measure_plans, planned_plan_jobs
from predicted_gain_runs import Runs
from predicted_gain_subjects import SUBJECTS, Subject, profiled
from predicted_gain_tables import print_layers, print_plans

from layerlens.artifacts.store import write_json
from layerlens.terminal import TerminalProgress
from layerlens.workflow.machine import machine_kind

ROOT = Path("runs/benchmarks")
PARTS = ("layers", "plans")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SUBJECTS), help="which of " + ", ".join(SUBJECTS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, help="training steps of one layer alone")
    parser.add_argument("--plan-steps", type=int, help="training steps of a whole plan")
    parser.add_argument("--batch-size", type=int, help="samples per step; those of short runs follow in proportion")
    parser.add_argument("--plans", type=int, help="candidates of the planner at most; five controls come on top")
    parser.add_argument("--probe-steps", default="", help="lengths of the short runs of one layer alone, such as 5,10,20")
    parser.add_argument("--race-seeds", type=int, help="seeds of the plans' short runs; 0: none of these")
    parser.add_argument(
        "--budget-rank", type=float, help="parameters of a plan, in those of rank 1 on every layer; may be below 1"
    )
    parser.add_argument("--held-out", type=int, help="held-out samples")
    parser.add_argument("--processes", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed, short runs, one rate: minutes on two cores")
    parser.add_argument("--estimate", action="store_true", help="say what it will take, and stop")
    options = parser.parse_args()
    seeds = [0] if options.quick else [int(seed) for seed in options.seeds.split(",")]
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS) | set(options.models.split(",")) - set(SUBJECTS)):
        raise SystemExit(f"unknown {', '.join(unknown)}; parts are {', '.join(PARTS)}, models are {', '.join(SUBJECTS)}")
    name = "predicted_gain-quick" if options.quick else "predicted_gain"
    with TerminalProgress() as progress:
        for model in options.models.split(","):
            subject = chosen(SUBJECTS[model], options)
            folder = ROOT / name / model
            measured = profiled(subject, folder, progress)
            runs = Runs(subject, folder, processes=options.processes, progress=progress)
            layers = [layer.layer for layer in measured.profile.layers]
            jobs = planned_jobs(subject, layers, seeds) if "layers" in parts else []
            jobs += planned_plan_jobs(subject, measured, seeds) if "plans" in parts else []
            seconds = runs.estimate_seconds(jobs)
            progress.note(f"{model}: {len(runs.missing(jobs))} of {len(jobs)} runs are missing, about {seconds / 60:.0f} minutes")
            if options.estimate:
                continue
            found: dict[str, Any] = {}
            if "layers" in parts:
                found["layers"] = measure_layers(runs, measured, seeds)
                keep(ROOT / f"{name}.json", model, found)
                print_layers(model, found["layers"])
            if "plans" in parts:
                found["plans"] = measure_plans(runs, measured, seeds, layer_gains(ROOT / f"{name}.json", model))
                label = model if options.budget_rank is None else f"{model}, rank {options.budget_rank:g}"
                keep(ROOT / f"{name}.json", label, {"plans": found["plans"]})
                print_plans(label, found["plans"])
    if (ROOT / f"{name}.json").exists():
        page = write_page(ROOT / f"{name}.html", json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8")))
        print(f"{ROOT / name}.json, {page}")


def chosen(subject: Subject, options: argparse.Namespace) -> Subject:
    """The subject with what the command line changes."""
    if options.quick:
        subject = subject.quick()
    if options.batch_size:
        before, size = subject.training.batch_size, options.batch_size
        subject = replace(
            subject,
            training=subject.training.model_copy(update={"batch_size": size}),
            horizons=tuple((steps, max(1, own * size // before)) for steps, own in subject.horizons),
        )
    if options.probe_steps:
        subject = replace(subject, probe_steps=tuple(int(steps) for steps in options.probe_steps.split(",")))
    given = {
        "layer_steps": options.steps,
        "plan_steps": options.plan_steps,
        "max_plans": options.plans,
        "held_out": options.held_out,
        "race_seeds": options.race_seeds,
        "budget_rank": options.budget_rank,
    }
    return replace(subject, **{field: value for field, value in given.items() if value is not None})


def layer_gains(path: Path, model: str) -> dict[str, float]:
    """Measured gain of each layer alone, where part 1 has run."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = content.get("subjects", {}).get(model, {}).get("layers")
    return dict(zip(part["layers"], part["gains"]["lora"], strict=True)) if part else {}


def keep(path: Path, model: str, found: dict[str, Any]) -> None:
    """Write what a part found, beside what other models and parts have."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"subjects": {}}
    content["machine"] = machine_kind()
    content["subjects"].setdefault(model, {}).update(found)
    write_json(path, content)


if __name__ == "__main__":
    main()
