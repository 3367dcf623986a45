"""The arms that a suite may name: those of `run_arm`, and LayerLens with another profile, plan or race.

A variant whose switch the configs do not have is not known: an ablation that changes nothing would measure nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from layerlens.adapting.arms.names import ArmName
from layerlens.artifacts.plan import Plan
from layerlens.config import OptimizationConfig, ProfilingConfig
from layerlens.config.bench import BenchBudget, RateKind
from layerlens.errors import ConfigError

LAYERLENS = ArmName.LAYERLENS.value
UNIFORM = ArmName.UNIFORM.value
TIME_ARM = "layerlens-time"


@dataclass(frozen=True)
class Variant:
    """LayerLens with something else in it; what is empty is as in LayerLens itself."""

    profiling: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)
    has_time_budget: bool = False
    has_depth_cut: bool = True

    @property
    def is_switchable(self) -> bool:
        """Whether the configs have what it changes."""
        has_switches = self.profiling.keys() <= ProfilingConfig.model_fields.keys()
        return has_switches and self.planning.keys() <= OptimizationConfig.model_fields.keys()


_VARIANTS = {
    LAYERLENS: Variant(),
    TIME_ARM: Variant(has_time_budget=True),
    "no-debias": Variant(profiling={"debias": False}),
    "no-cross-fit": Variant(profiling={"cross_fit": False}),
    "no-whitening": Variant(profiling={"whiten": False}),
    "no-depth-cut": Variant(has_depth_cut=False),
}
VARIANTS: dict[str, Variant] = {name: variant for name, variant in _VARIANTS.items() if variant.is_switchable}
#: Arms that take nothing from a plan but its model and head.
WITHOUT_PLAN = frozenset({"full", "head", "query+value"})
#: Arms that a race has no part in; where there are no others, none is run.
WITHOUT_RACE = WITHOUT_PLAN | {"uniform", "uniform-rslora", "mlp", "no-race"}
#: Arms whose one run is a search over many: they take the rate of uniform, as every trial of theirs would have to be tuned.
_SEARCHES = "search"
_KINDS = {"full": RateKind.FULL, "head": RateKind.HEAD}


def known_arms() -> list[str]:
    """Every arm that a suite may name."""
    return list(dict.fromkeys([*(name.value for name in ArmName), *VARIANTS]))


def check_arms(arms: Sequence[str]) -> None:
    """Raises:
    ConfigError: an arm that nothing here can run; names those that can, or what it lacks.
    """
    known = known_arms()
    if unknown := [arm for arm in arms if arm not in known]:
        raise ConfigError(f"unknown arm {', '.join(unknown)}; known are {', '.join(known)}")
    searches = [arm for arm in arms if is_search(arm)]
    if searches and find_spec("optuna") is None:
        raise ConfigError(
            f'arms: {" and ".join(searches)} need optuna, which is not installed; pip install "layerlens-plan[search]", or leave '
            "them out with --arms"
        )


def kind_of(arm: str) -> RateKind:
    """Which grid of learning rates an arm is tuned on."""
    return _KINDS.get(arm, RateKind.ADAPTER)


def is_search(arm: str) -> bool:
    """Whether an arm's one run is a search over many."""
    return arm.startswith(_SEARCHES)


def tuned_for(arm: str, arms: Sequence[str], *, per_kind: bool) -> str:
    """The arm whose trials decide an arm's rate: its own, uniform's for a search, or one for all of its kind.

    Args:
        arm: Which.
        arms: Of the suite, in order.
        per_kind: Whether one arm of each kind is tuned for all.
    """
    kind = kind_of(arm)
    if kind is RateKind.ADAPTER and (per_kind or is_search(arm)):
        return UNIFORM
    return next(name for name in [*arms, arm] if kind_of(name) is kind) if per_kind else arm


def trained_by(plan: Plan) -> list[tuple[str, str, str, int]]:
    """What a plan puts where: all that its training depends on beside the model, the data and the config."""
    return [(entry.layer, entry.site.value, entry.method.value, entry.size) for entry in plan.adapted]


def planning_of(variant: Variant, budget: BenchBudget, options: dict[str, Any], model_parameters: int) -> OptimizationConfig:
    """The planner's config of a variant for a model of so many parameters."""
    timed = {"max_time_ratio": budget.max_time_ratio} if variant.has_time_budget else {}
    return OptimizationConfig(max_trainable_params=budget.params(model_parameters), **options | variant.planning | timed)
