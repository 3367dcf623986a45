"""The arms of an evaluation, grouped by name over their seeds, and what each one is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, stdev

from layerlens.artifacts.evaluation import Arm, Evaluation


class ArmKind(StrEnum):
    """What an arm stands for on the page; its colour token is its value."""

    LAYERLENS = "chosen"
    UNIFORM = "uniform"
    FULL = "full"
    OTHER = "other"


@dataclass(frozen=True)
class ArmGroup:
    """One way to fine-tune, over its seeds."""

    name: str
    kind: ArmKind
    arms: tuple[Arm, ...]

    @property
    def seeds(self) -> list[int]:
        return [arm.seed for arm in self.arms]

    def values(self, metric: str) -> list[float]:
        """The metric of each seed that has it, in file order."""
        return [arm.metrics[metric] for arm in self.arms if metric in arm.metrics]

    def mean(self, metric: str) -> float | None:
        return fmean(values) if (values := self.values(metric)) else None

    def deviation(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None for one seed."""
        return stdev(values) if len(values := self.values(metric)) > 1 else None

    @property
    def train_seconds(self) -> float:
        return fmean(arm.train_seconds for arm in self.arms)

    @property
    def peak_memory_bytes(self) -> int:
        return max(arm.peak_memory_bytes for arm in self.arms)


def kind_of(name: str) -> ArmKind:
    """Tell an arm's kind from its name."""
    plain = name.lower().replace("-", " ").replace("_", " ")
    if "layerlens" in plain:
        return ArmKind.LAYERLENS
    # Another word may follow, but a name that goes on with a dash is another arm's: uniform-rslora.
    if name.lower().split(" ")[0] == "uniform":
        return ArmKind.UNIFORM
    return ArmKind.FULL if plain.startswith("full") else ArmKind.OTHER


def group_arms(evaluation: Evaluation) -> list[ArmGroup]:
    """Group arms by name, in the order of first appearance.

    What was scored alone and not trained here is called by its path, which tells no kind.
    """
    by_name: dict[str, list[Arm]] = {}
    for arm in evaluation.arms:
        by_name.setdefault(arm.name, []).append(arm)
    return [ArmGroup(name, _kind_of_group(name, arms), tuple(arms)) for name, arms in by_name.items()]


def _kind_of_group(name: str, arms: list[Arm]) -> ArmKind:
    return kind_of(name) if any(arm.train_seconds for arm in arms) else ArmKind.OTHER


def find_arm(groups: list[ArmGroup], kind: ArmKind) -> ArmGroup | None:
    """The first arm of a kind."""
    return next((group for group in groups if group.kind is kind), None)


def metric_names(evaluation: Evaluation) -> list[str]:
    """The primary metric, then every other one in the order of first appearance."""
    names = dict.fromkeys(name for arm in evaluation.arms for name in arm.metrics)
    return sorted(names, key=lambda name: name != evaluation.primary_metric)
