"""What races of tiny models are made of: a model whose query and key do nothing, data that it can learn, plans, a watcher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, RaceConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.partition import Partition, partition
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.words import Role, TaskKind
from tests.unit.adapting.plans import made_data, make_plan, tiny_task_model

KIND = TaskKind.CLASSIFICATION
QUICK = RaceConfig(
    learning_rate=1e-2,
    share=1.0,
    min_steps=3,
    tuning_steps=3,
    precision=Precision.FP32,
    held_out_samples=16,
    batch_size=8,
    fit_head=False,
)


class Watcher:
    """Takes notes, and may stop everything after some steps of progress."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.left = stop_after

    def track(self, items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for item in items:
            if self.left is not None:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
            yield item

    def note(self, text: str) -> None:
        self.notes.append(text)


class Parts(NamedTuple):
    """What a race takes."""

    task_model: TaskModel
    data: LoadedData
    part: Partition
    candidates: dict[str, Plan]


def made_parts(folder: Path) -> Parts:
    """One block whose attention output is cut off; uniform sits on its useless layers alone."""
    task_model = tiny_task_model(
        "bert", folder, KIND, num_hidden_layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    with torch.no_grad():
        task_model.model.get_submodule("bert.encoder.layer.0.attention.output.dense").weight.zero_()
    layers = describe_layers(task_model.model).layers
    ranks: dict[str, Any] = {
        "uniform": {spec.layer: 2 for spec in layers if spec.role in (Role.ATTENTION_QUERY, Role.ATTENTION_KEY)},
        "all": 2,
        "mlp": {spec.layer: 2 for spec in layers if spec.role.is_mlp},
        "low": 1,
    }
    candidates = {name: make_plan(task_model, KIND, found, name=name) for name, found in ranks.items()}
    return Parts(task_model, made_data(task_model, KIND, 300), partition(300, None, seed=0, has_eval_data=False), candidates)


def pair(candidates: dict[str, Plan], *names: str) -> dict[str, Plan]:
    return {name: candidates[name] for name in names}
