"""What `predicted_gain.py` measures on: model, data, profile, training and the stated grids of learning rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from settings import SHARED

from layerlens.artifacts.plan import Plan, load_candidates, load_plan
from layerlens.artifacts.profile import Profile, load_profile
from layerlens.config import OptimizationConfig, Precision, ProfilingConfig, TrainingConfig
from layerlens.progress import Progress
from layerlens.workflow.demo import demo_model
from layerlens.workflow.plan import plan as make_plan
from layerlens.workflow.profile import profile as make_profile


@dataclass(frozen=True)
class Subject:
    """One model on one data set; every number that a result depends on.

    `model` is none for MiniLM, which comes in a package. `rates` are of LoRA, on whole plans too where there are no `plan_rates`.
    `rank` and `layer_steps` are of one layer alone, `probe_steps` of short runs of it; `plan_steps` of a whole plan, `horizons`
    (steps, samples per step) of short runs of it, from the first `race_seeds` seeds (0: none). The budget of the plans is that of
    rank `budget_rank` in every layer; below 1 no rank fits everywhere. `variants` are profiles beside the default one.
    """

    name: str
    model: Path | None
    data: Path
    profiling: ProfilingConfig
    training: TrainingConfig
    rank: int = 4
    layer_steps: int = 60
    plan_steps: int = 150
    held_out: int = 512
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    full_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    plan_rates: tuple[float, ...] = ()
    budget_rank: float = 1.0
    max_plans: int = 24
    probe_steps: tuple[int, ...] = (5, 10, 20)
    horizons: tuple[tuple[int, int], ...] = ((10, 16), (20, 16), (40, 16), (80, 4))
    race_seeds: int = 1
    variants: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()

    @property
    def model_path(self) -> str:
        """Where the model lies."""
        return str(self.model or demo_model())

    def quick(self) -> Subject:
        """What two cores do in minutes: shorter runs, fewer samples, no other profiles, one short horizon."""
        return replace(
            self,
            layer_steps=min(self.layer_steps, 20),
            plan_steps=min(self.plan_steps, 40),
            held_out=128,
            rates=self.rates[1:2],
            plan_rates=self.plan_rates[1:2],
            full_rates=self.full_rates[1:2],
            probe_steps=self.probe_steps[:1],
            horizons=((10, self.training.batch_size), (20, self.training.batch_size)),
            variants=(),
        )


TRUE_LABELS = "true Fisher labels"
VARIANTS = (
    ("damping .03", (("damping", 0.03),)),
    ("damping 1", (("damping", 1.0),)),
    (TRUE_LABELS, (("fisher_labels", "true"),)),
    ("twice the samples", (("num_samples", 512),)),
)

STORIES = Subject(
    name="stories260k",
    model=SHARED / "models" / "stories260k",
    data=SHARED / "data" / "tinyshakespeare" / "input.txt",
    profiling=ProfilingConfig(max_length=64, num_samples=256, proxy="all", max_rank=16),
    training=TrainingConfig(max_length=64, batch_size=16, precision=Precision.FP32, threads=1),
    rates=(3e-3, 1e-2, 3e-2, 1e-1),
    full_rates=(3e-3, 1e-2, 3e-2),
    variants=VARIANTS,
)
STDLIB = Subject(
    name="stdlib-llama",
    model=SHARED / "models" / "stdlib-llama",
    data=SHARED / "data" / "tinyshakespeare" / "input.txt",
    profiling=ProfilingConfig(max_length=64, num_samples=256, proxy="all", max_rank=16),
    training=TrainingConfig(max_length=64, batch_size=8, threads=1),
    held_out=256,
    full_rates=(3e-4, 1e-3, 3e-3),
    plan_rates=(1e-2, 3e-2, 6e-2),
    horizons=((20, 8), (40, 8)),
    variants=VARIANTS,
)
MINILM = Subject(
    name="minilm-mrpc",
    model=None,
    data=SHARED / "data" / "mrpc" / "train.tsv",
    profiling=ProfilingConfig(max_length=96, num_samples=256, proxy="all", max_rank=16),
    training=TrainingConfig(max_length=96, batch_size=16, threads=1, dropout=True),
    layer_steps=100,
    plan_steps=200,
    full_rates=(1e-4, 3e-4, 1e-3),
    horizons=((20, 16), (40, 16), (80, 16)),
    variants=VARIANTS,
)
STSB = replace(
    MINILM,
    name="minilm-stsb",
    data=SHARED / "data" / "stsb" / "train.tsv",
    training=TrainingConfig(max_length=96, batch_size=16, threads=1),
    rates=(1e-3, 3e-3, 6e-3),
    plan_steps=150,
    variants=(),
)
DEIT = Subject(
    name="deit-cifar10",
    model=SHARED / "models" / "deit-tiny",
    data=SHARED / "data" / "cifar10" / "small.npz",
    profiling=ProfilingConfig(num_samples=128, proxy="few", max_rank=16, batch_size=8),
    training=TrainingConfig(batch_size=8, threads=1),
    layer_steps=30,
    plan_steps=60,
    held_out=256,
    full_rates=(1e-4, 3e-4, 1e-3),
    horizons=((10, 8), (20, 8)),
)
SUBJECTS = {subject.name: subject for subject in (STORIES, STDLIB, MINILM, STSB, DEIT)}


@dataclass(frozen=True)
class Measured:
    """The profile of a subject, its gain curves and spectra, and the plans at the budget."""

    profile: Profile
    arrays: dict[str, Any]
    plan: Plan
    candidates: dict[str, Plan]
    budget: int


def profiled(subject: Subject, folder: Path, progress: Progress) -> Measured:
    """Profile a subject in `folder`, or find it done, and plan it.

    It is planned each time, which takes seconds: a plan that lies there may be of other options or of an older planner. Runs go
    by their ranks, so finished ones count for whatever plan has the same.
    """
    make_profile(subject.model_path, str(subject.data), folder / "profile", subject.profiling, progress=progress)
    profile, arrays, _ = load_profile(folder / "profile")
    budget = int(subject.budget_rank * sum(layer.in_features + layer.out_features for layer in profile.layers))
    path = folder / "plan.json"
    config = OptimizationConfig(
        max_trainable_params=budget, max_rank=subject.profiling.max_rank, max_candidates=subject.max_plans
    )
    make_plan(folder / "profile", path, config)
    return Measured(profile, arrays, load_plan(path), load_candidates(path), budget)


def variant_profiles(subject: Subject, folder: Path, progress: Progress) -> dict[str, tuple[Profile, dict[str, Any]]]:
    """The profiles beside the default one, by name; without proxies, which do not depend on what varies."""
    found = {}
    for name, changes in subject.variants:
        config = ProfilingConfig.model_validate({**subject.profiling.model_dump(), "proxy": "off", **dict(changes)})
        where = folder / "variants" / name.replace(" ", "-")
        make_profile(subject.model_path, str(subject.data), where, config, progress=progress)
        profile, arrays, _ = load_profile(where)
        found[name] = (profile, arrays)
    return found
