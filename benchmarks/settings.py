"""The settings that several benchmarks share: model, data, budget and training, fixed once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from layerlens.config import OptimizationConfig, ProfilingConfig, TuneConfig
from layerlens.progress import Progress
from layerlens.workflow import demo
from layerlens.workflow.plan import plan
from layerlens.workflow.profile import profile

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


SWEPT = ("full", "uniform")


@dataclass(frozen=True)
class Setting:
    """One model on one data set. Rates are swept for `SWEPT`; every other LoRA arm takes uniform's, at the same alpha / r."""

    name: str
    data: str
    data_name: str
    eval_data: str | None
    arms: tuple[str, ...]
    profiling: ProfilingConfig
    training: TuneConfig
    max_trainable_params: int
    rates_file: Path
    full_rates: tuple[float, ...]
    adapter_rates: tuple[float, ...]

    @property
    def rates(self) -> dict[str, float]:
        """The recorded learning rate of each arm."""
        content = json.loads(self.rates_file.read_text(encoding="utf-8"))
        swept = {arm: float(entry["learning_rate"]) for arm, entry in content["arms"].items()}
        return {arm: swept.get(arm, swept["uniform"]) for arm in self.arms}


DEMO = Setting(
    name="demo",
    data=demo.DATA,
    data_name=demo.DATA,
    eval_data=None,
    arms=("full", "uniform", "layerlens"),
    profiling=demo.profiling_config(),
    training=TuneConfig(
        max_length=demo.MAX_LENGTH,
        batch_size=demo.BATCH_SIZE,
        max_steps=demo.STEPS,
        head_learning_rate=demo.HEAD_LEARNING_RATE,
    ),
    max_trainable_params=demo.MAX_TRAINABLE_PARAMS,
    rates_file=ROOT / "src" / "layerlens" / "workflow" / "demo_rates.json",
    full_rates=(1e-5, 2e-5, 5e-5, 1e-4),
    adapter_rates=(1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3),
)

# What fits two shared cores: 200 steps of 16, about one pass over the training part, scored on all 1,725 test pairs.
MRPC = Setting(
    name="mrpc",
    data=str(SHARED / "data" / "mrpc" / "train.tsv"),
    data_name="MRPC train",
    eval_data=str(SHARED / "data" / "mrpc" / "msr_paraphrase_test.txt"),
    arms=("full", "query+value", "uniform", "layerlens"),
    profiling=ProfilingConfig(max_length=96, num_samples=256, proxy="off"),
    training=TuneConfig(max_length=96, batch_size=16, max_steps=200, max_eval_samples=1725, dropout=True),
    max_trainable_params=50_000,
    rates_file=ROOT / "benchmarks" / "rates-mrpc.json",
    full_rates=(3e-5, 1e-4, 2e-4),
    adapter_rates=(1e-3, 3e-3, 6e-3),
)

SETTINGS = {setting.name: setting for setting in (DEMO, MRPC)}


def profiled_and_planned(setting: Setting, folder: Path, progress: Progress) -> Path:
    """Profile and plan a setting in `folder`, or find it done; returns the plan."""
    profile(str(demo.demo_model()), setting.data, folder / "profile", setting.profiling, progress=progress)
    path = folder / "plan.json"
    if not path.exists():
        plan(folder / "profile", path, OptimizationConfig(max_trainable_params=setting.max_trainable_params))
    return path
