"""The memory that a plan is charged for against the allocator's own record of a training step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from layerlens.adapting.attach import attached
from layerlens.adapting.dropout import rest_
from layerlens.adapting.optimizer import build_optimizer
from layerlens.artifacts.options import trainable_params
from layerlens.artifacts.plan import Plan
from layerlens.artifacts.profile import Profile, Timing
from layerlens.budget.costs import cost_model
from layerlens.budget.prices import PriceList
from layerlens.budget.run import make_plan
from layerlens.budget.sites import plan_sites
from layerlens.config import OptimizationConfig, ProfilingConfig, TuneConfig
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.partition import Partition
from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.quantised_base import plain_tensors
from layerlens.models.roles import describe_layers
from layerlens.profiling.run import profile_model
from layerlens.words import BudgetName, Method, TaskKind
from tests.tiny_models import save_tiny
from tests.unit.adapting.plans import info_of

LENGTH, BATCH = 64, 8
BERT = {"hidden_size": 96, "num_attention_heads": 6, "intermediate_size": 384}
#: 3 MiB of logits, beside blocks of 1 MiB each.
LLAMA = {"hidden_size": 64, "intermediate_size": 172, "vocab_size": 1500}
SIZES = {Method.LORA: 4, Method.ADAPTER: 8, Method.PREFIX: 8}


@dataclass(frozen=True)
class Case:
    family: str
    kind: TaskKind
    methods: Collection[Method] = (Method.LORA,)
    cut: int = 0
    is_ragged: bool = True
    length: int = LENGTH
    shape: Mapping[str, int] = field(default_factory=dict)


CASES = {
    "an encoder": Case("bert", TaskKind.CLASSIFICATION, shape=BERT),
    "an encoder, every method": Case("bert", TaskKind.CLASSIFICATION, [*Method], shape=BERT),
    "an encoder, above a cut": Case("bert", TaskKind.CLASSIFICATION, cut=1, shape=BERT),
    "an encoder, at a length between those counted": Case("bert", TaskKind.CLASSIFICATION, length=48, shape=BERT),
    "question answering": Case("bert", TaskKind.QUESTION_ANSWERING, shape=BERT),
    "a large vocabulary": Case("llama", TaskKind.CAUSAL_LM, shape=LLAMA),
    "a large vocabulary, above a cut": Case("llama", TaskKind.CAUSAL_LM, cut=1, shape=LLAMA),
    "prefixes and no padding": Case("llama", TaskKind.CAUSAL_LM, [Method.PREFIX], is_ragged=False),
    "prefixes and padding": Case("llama", TaskKind.CAUSAL_LM, [Method.PREFIX]),
    "every method": Case("gpt2", TaskKind.CAUSAL_LM, [*Method]),
}


def opened(case: Case, folder: Path) -> tuple[TaskModel, LoadedData]:
    save_tiny(case.family, folder, **case.shape)
    info = info_of(case.kind).model_copy(update={"max_length": LENGTH})
    checkpoint = open_checkpoint(str(folder))
    task_model = load_task_model(checkpoint, info, seed=0)
    task = build_task(info, load_processor(checkpoint, case.kind))
    examples = [example(case, number) for number in range(24)]
    return task_model, LoadedData(id="made", task=task, examples=examples, splits=None, columns={})


def example(case: Case, number: int, length: int = LENGTH) -> Example:
    random = np.random.default_rng(number)
    tokens = random.integers(10, 190, size=length - number % 4 if case.is_ragged else length).tolist()
    made: Example = {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
    if case.kind is TaskKind.QUESTION_ANSWERING:
        return made | {"start_positions": 2, "end_positions": 3}
    return made | {"labels": tokens if case.kind is TaskKind.CAUSAL_LM else number % 3}


def profiled(task_model: TaskModel, data: LoadedData) -> tuple[Profile, dict[str, np.ndarray], Timing]:
    config = ProfilingConfig(num_samples=16, batch_size=4, gram_tokens=256, head_samples=8, proxy="off")
    part = Partition(train=tuple(range(len(data.examples))), race=(), test=())
    return profile_model(task_model, describe_layers(task_model.model), data, part, config, command="test")


def planned(case: Case, measured: tuple[Profile, dict[str, np.ndarray], Timing]) -> tuple[Plan, int]:
    """A plan with the same size at every site above the cut, and the bytes it is charged for."""
    config = OptimizationConfig(
        max_vram_gb=100.0, batch_size=BATCH, length=case.length, candidate_methods=[*case.methods, Method.NONE], max_rank=4
    )
    plan, _ = make_plan(*measured, config, profile_path="p", command="c")
    sites = plan_sites(measured[0], config)
    sizes = [SIZES[site.method] if site.sizes and (site.block or 0) >= case.cut else 0 for site in sites]
    prices = PriceList.of(cost_model(measured[0], measured[2], config), sites)
    layers = [
        entry.model_copy(
            update={
                "method": site.method if size else Method.NONE,
                "size": size,
                "params": trainable_params(
                    site.method if size else Method.NONE,
                    size,
                    in_features=site.in_features,
                    out_features=site.out_features,
                    kv_features=site.kv_features,
                ),
            }
        )
        for entry, site, size in zip(plan.layers, sites, sizes, strict=True)
    ]
    spent = prices.price(np.array(sizes, dtype=np.int64))[BudgetName.VRAM_BYTES]
    return plan.model_copy(update={"layers": layers}), spent


def taken(case: Case, task_model: TaskModel, data: LoadedData, plan: Plan) -> int:
    """Most bytes that a step holds at once: what is there before it, and the allocator's record of it."""
    task = data.task
    batch = task.collate([example(case, number, case.length) for number in range(BATCH)])
    with attached(task_model.model, plan, seed=0) as model:
        optimizer = build_optimizer(model, TuneConfig(), new_parameters=task_model.new_parameters)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rest_(model)

        def step() -> None:
            loss = task.per_sample_loss(model(**task.model_inputs(batch)), batch).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # The first one makes the optimiser's states.
        step()
        states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
        there = held(model) | {state.data_ptr(): state.nbytes for state in states}
        return sum(there.values()) + allocated(step)


def held(model: nn.Module) -> dict[int, int]:
    """Bytes of what a model's parameters consist of, by address; of bitsandbytes' with the scales that hang on them."""
    named = dict(model.named_parameters())
    for name, tensor in tuple(named.items()):
        state, scales = getattr(tensor, "quant_state", None), getattr(tensor, "SCB", None)
        named |= {f"{name}.scales": scale for scale in (getattr(state, "absmax", None), scales) if scale is not None}
    return {tensor.data_ptr(): tensor.nbytes for _, tensor in plain_tensors(named)}


def allocated(step: Callable[[], None]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_plan_is_charged_for_what_its_training_step_takes(case: Case, tmp_path: Path) -> None:
    task_model, data = opened(case, tmp_path / "model")
    plan, charged = planned(case, profiled(task_model, data))
    assert 0.99 <= charged / taken(case, task_model, data, plan) <= 1.1
