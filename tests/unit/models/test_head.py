"""The cheap fit on kept features is compared with the model's own full forward pass, and with an exact solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from layerlens.artifacts.profile import HeadFit, TaskInfo
from layerlens.data.batches import length_sorted_batches
from layerlens.data.example import Example
from layerlens.data.task import Task
from layerlens.data.tasks import build_task
from layerlens.errors import DataError, NotFiniteError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.head import describe_model, fit_head
from layerlens.models.load import TaskModel, load_task_model
from layerlens.models.processor import load_processor
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES, save_tiny

NAMES = ["a", "b", "c"]
CASES = [
    *((family, TaskKind.CLASSIFICATION) for family in FAMILIES if family != "vit"),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
    *((family, TaskKind.QUESTION_ANSWERING) for family in ("bert", "gpt2", "llama")),
    *((family, TaskKind.REGRESSION) for family in ("roberta", "mistral")),
]


def load(folder: Path, kind: TaskKind, num_labels: int = 3) -> tuple[TaskModel, Task]:
    num_labels = {TaskKind.REGRESSION: 1, TaskKind.QUESTION_ANSWERING: 0, TaskKind.CAUSAL_LM: 0}.get(kind, num_labels)
    info = TaskInfo(kind=kind, num_labels=num_labels, label_names=NAMES[:num_labels])
    checkpoint = open_checkpoint(str(folder))
    return load_task_model(checkpoint, info, seed=0), build_task(info, load_processor(checkpoint, kind))


def examples_of(kind: TaskKind, num: int, *, seed: int = 0, num_labels: int = 3, noise: float = 0.0) -> list[Example]:
    """Samples whose label can be read off the input; with `noise`, a share of them has any label."""
    random = np.random.default_rng(seed)
    samples: list[Example] = []
    for _ in range(num):
        label = int(random.integers(num_labels))
        if kind is TaskKind.IMAGE_CLASSIFICATION:
            pixels = random.normal(scale=0.3, size=(3, 16, 16)).astype(np.float32)
            pixels[label] += 1.0
            samples.append({"pixel_values": pixels, "labels": label})
            continue
        # Few words per class, so that even a random model's features tell the classes apart.
        tokens = [int(token) for token in random.integers(40, 190, size=int(random.integers(0, 4)))]
        place = int(random.integers(len(tokens) + 1))
        tokens[place:place] = [10 + label] * 3
        tokens += [10 + label] * 2
        given = int(random.integers(num_labels)) if random.random() < noise else label
        target: Example = {"labels": given}
        if kind is TaskKind.QUESTION_ANSWERING:
            target = {"start_positions": place, "end_positions": place + 2}
        if kind is TaskKind.REGRESSION:
            target = {"labels": 3.0 + given}
        samples.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), **target})
    return samples


def full_loss(task_model: TaskModel, task: Task, examples: list[Example], batch_size: int = 1) -> float:
    """Mean loss by the model's own forward pass, one sample at a time or in batches of like lengths."""
    losses = []
    for indices in length_sorted_batches(examples, batch_size):
        batch = task.collate([examples[index] for index in indices])
        with torch.no_grad():
            losses += task.per_sample_loss(task_model.model(**task.model_inputs(batch)), batch).tolist()
    return sum(losses) / len(examples)


def fit(task_model: TaskModel, task: Task, train: list[Example], held_out: list[Example], **options: Any) -> HeadFit | None:
    settings = {"seed": 0, "batch_size": 16, "max_steps": 60, **options}
    return fit_head(task_model, describe_layers(task_model.model), train, held_out, task, **settings)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_the_reported_losses_are_those_of_the_whole_model(family: str, kind: TaskKind, tmp_path: Path) -> None:
    task_model, task = load(save_tiny(family, tmp_path), kind)
    train, held_out = examples_of(kind, 40), examples_of(kind, 20, seed=1)
    before = full_loss(task_model, task, train)
    result = fit(task_model, task, train, held_out, batch_size=16)
    assert result is not None
    assert result.parameters == list(task_model.new_parameters)
    assert result.num_samples == 40
    assert result.loss_before == pytest.approx(before, rel=1e-4)
    assert result.loss_after == pytest.approx(full_loss(task_model, task, train), rel=1e-4)
    assert result.held_out_loss == pytest.approx(full_loss(task_model, task, held_out), rel=1e-4)
    assert result.loss_after < result.loss_before
    assert result.steps > 0


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_only_the_new_parameters_change_and_the_model_is_left_as_found(family: str, kind: TaskKind, tmp_path: Path) -> None:
    task_model, task = load(save_tiny(family, tmp_path), kind)
    model = task_model.model
    frozen = next(iter(dict(model.named_parameters())))
    model.get_parameter(frozen).requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(task_model, task, examples_of(kind, 20), examples_of(kind, 10, seed=1))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == set(task_model.new_parameters)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "forward" not in model.base_model.__dict__
    assert not any(module.training for module in model.modules())


def test_the_base_model_runs_once_per_sample_however_many_steps_are_taken(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.CLASSIFICATION)
    seen = []
    block = task_model.model.get_submodule("bert.encoder.layer.0")
    block.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[0]))
    result = fit(task_model, task, examples_of(TaskKind.CLASSIFICATION, 40), examples_of(TaskKind.CLASSIFICATION, 20, seed=1))
    assert result is not None
    assert result.steps > 5
    assert sum(seen) == 60


def test_the_head_is_as_good_as_an_exact_ridge_solver_makes_it(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.CLASSIFICATION)
    kind = TaskKind.CLASSIFICATION
    train, held_out = examples_of(kind, 120, noise=0.3), examples_of(kind, 60, seed=1, noise=0.3)

    def features(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = task.collate(examples)
        with torch.no_grad():
            return task_model.model.bert(**task.model_inputs(batch)).pooler_output, batch["labels"]

    (x, y), (held_x, held_y) = features(train), features(held_out)
    exact = []
    for ridge in (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1):
        linear = torch.nn.Linear(32, 3)
        optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def objective(linear: torch.nn.Linear = linear, ridge: float = ridge) -> torch.Tensor:
            linear.zero_grad()
            loss = cross_entropy(linear(x), y) + ridge * linear.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(objective)
        with torch.no_grad():
            exact.append(float(cross_entropy(linear(held_x), held_y)))
    result = fit(task_model, task, train, held_out, max_steps=400)
    assert result is not None
    assert result.held_out_loss < min(exact) + 0.03
    assert result.held_out_loss < result.loss_before - 0.2


def test_the_fit_depends_on_the_seed_alone_and_leaves_the_global_state(tmp_path: Path) -> None:
    folder = save_tiny("roberta", tmp_path)
    heads = []
    for noise in (1, 2):
        task_model, task = load(folder, TaskKind.CLASSIFICATION)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        result = fit(task_model, task, examples_of(TaskKind.CLASSIFICATION, 40), examples_of(TaskKind.CLASSIFICATION, 20, seed=1))
        assert torch.equal(torch.get_rng_state(), state)
        heads.append((result, [task_model.model.get_parameter(name) for name in task_model.new_parameters]))
    assert heads[0][0] == heads[1][0]
    assert all(torch.equal(first, second) for first, second in zip(heads[0][1], heads[1][1], strict=True))


def test_labels_without_sense_never_raise_the_held_out_loss(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("gpt2", tmp_path), TaskKind.CLASSIFICATION)
    train = examples_of(TaskKind.CLASSIFICATION, 24, noise=1.0)
    held_out = examples_of(TaskKind.CLASSIFICATION, 24, seed=5, noise=1.0)
    start = full_loss(task_model, task, held_out)
    result = fit(task_model, task, train, held_out)
    assert result is not None
    assert result.held_out_loss <= start * (1 + 1e-6)


def test_a_new_pooler_is_fitted_too(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, folder / "model.safetensors")
    task_model, task = load(folder, TaskKind.CLASSIFICATION)
    before = {name: task_model.model.get_parameter(name).detach().clone() for name in task_model.new_parameters}
    train, held_out = examples_of(TaskKind.CLASSIFICATION, 40), examples_of(TaskKind.CLASSIFICATION, 20, seed=1)
    result = fit(task_model, task, train, held_out)
    assert result is not None
    assert "bert.pooler.dense.weight" in result.parameters
    assert all(not torch.equal(task_model.model.get_parameter(name), tensor) for name, tensor in before.items())
    assert result.held_out_loss == pytest.approx(full_loss(task_model, task, held_out), rel=1e-4)


def test_a_model_that_runs_its_base_twice_is_fitted_without_kept_features(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.CLASSIFICATION)
    model = task_model.model
    once = model.forward

    def twice(**inputs: torch.Tensor) -> Any:
        outputs = once(**inputs)
        outputs.logits = outputs.logits + once(**{**inputs, "input_ids": inputs["input_ids"].flip(1)}).logits
        return outputs

    model.forward = twice
    train, held_out = examples_of(TaskKind.CLASSIFICATION, 20), examples_of(TaskKind.CLASSIFICATION, 10, seed=1)
    result = fit(task_model, task, train, held_out, batch_size=20, max_steps=10)
    assert result is not None
    assert result.loss_after < result.loss_before
    assert result.loss_after == pytest.approx(full_loss(task_model, task, train, 20), rel=1e-4)


def test_a_language_model_has_nothing_to_fit(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("llama", tmp_path), TaskKind.CAUSAL_LM)
    assert fit(task_model, task, [], []) is None


def test_no_samples_are_an_error(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.CLASSIFICATION)
    with pytest.raises(DataError, match="20 training and 0 held-out"):
        fit(task_model, task, examples_of(TaskKind.CLASSIFICATION, 20), [])


def test_a_loss_that_is_not_finite_is_an_error_and_the_model_is_left_as_found(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.REGRESSION)
    train = [{**example, "labels": float("nan")} for example in examples_of(TaskKind.REGRESSION, 20)]
    with pytest.raises(NotFiniteError, match="not finite"):
        fit(task_model, task, train, examples_of(TaskKind.REGRESSION, 10))
    assert "forward" not in task_model.model.bert.__dict__
    assert all(parameter.requires_grad for parameter in task_model.model.parameters())


def test_a_loss_that_leaves_the_finite_at_every_rate_is_an_error(tmp_path: Path) -> None:
    task_model, task = load(save_tiny("bert", tmp_path), TaskKind.REGRESSION)
    # The loss of each sample is finite in single precision, the sum over a batch is not.
    train = [{**example, "labels": 1e19} for example in examples_of(TaskKind.REGRESSION, 20)]
    with pytest.raises(NotFiniteError):
        fit(task_model, task, train, examples_of(TaskKind.REGRESSION, 10))


def test_the_model_and_its_head_are_counted_with_tied_weights_once(minilm: Path, shared: Path) -> None:
    task_model, _ = load(minilm, TaskKind.CLASSIFICATION)
    stored = sum(int(np.prod(header.shape)) for header in task_model.checkpoint.tensors.values())
    unused = sum(int(np.prod(header.shape)) for name, header in task_model.checkpoint.tensors.items() if "position_ids" in name)
    classifier, pooler = 3 * 384 + 3, 384 * 384 + 384
    info = describe_model(task_model, describe_layers(task_model.model))
    assert (info.num_parameters, info.head_parameters) == (stored - unused + classifier, classifier + pooler)
    assert (info.architecture, info.family, info.hidden_size) == ("BertForSequenceClassification", "bert", 384)
    assert (info.id, info.hash, info.weight_dtype) == (str(minilm), task_model.checkpoint.hash(), "float32")
    task_model, _ = load(shared / "models" / "stories260k", TaskKind.CAUSAL_LM)
    info = describe_model(task_model, describe_layers(task_model.model))
    assert info.num_parameters == sum(int(np.prod(header.shape)) for header in task_model.checkpoint.tensors.values())
    assert info.head_parameters == 0
