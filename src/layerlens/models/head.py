"""Fitting a random task head on frozen features, before anything is measured.

Minimised: the task's mean loss over the training samples, in the new parameters alone, with early stopping on held-out
samples. A random head gives noise for gradients, so every statistic of the layers below would be noise as well
(linear probing before fine-tuning: Kumar et al. 2022, arXiv 2202.10054).

    inputs ──► base model (frozen) ──► output ──► tail: the model's own code, new parameters
               runs once per sample    kept       runs at every step

The base model's `forward` is replaced by one that gives back the kept output, so whatever a family does after it
(pooling, gathering the last token, several layers) runs natively. A *pretrained* pooler counts as base and keeps its
weights; a new one is computed again at every step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.artifacts.layers import ModelInfo, ModelLayout
from layerlens.artifacts.profile import HeadFit
from layerlens.data.batches import length_sorted_batches
from layerlens.data.example import Batch, Example
from layerlens.data.task import Task
from layerlens.errors import DataError, NotFiniteError
from layerlens.models.load import TaskModel
from layerlens.models.replaced_forward import replaced_forwards
from layerlens.models.tree import POOLER, base_model_path, is_under

#: Features differ in scale by two orders of magnitude between families, so the held-out loss picks the rate.
LEARNING_RATES = (3e-2, 1e-2, 3e-3, 1e-3)
WEIGHT_DECAY = 0.05
#: Samples of a step.
BATCH_SIZE = 32
#: Passes over the training samples without a better held-out loss before a rate is given up.
PATIENCE = 5


class Features(ABC):
    """Where the features come from when the base model cannot run whole."""

    @abstractmethod
    def prepare(self, batches: Sequence[Batch]) -> Callable[[int], AbstractContextManager[None]]:
        """Compute the features of these batches.

        Returns:
            For a batch, by its position, a context in which a forward pass of the model on it runs the tail alone.
        """


def fit_head(
    task_model: TaskModel,
    layout: ModelLayout,
    train: Sequence[Example],
    held_out: Sequence[Example],
    task: Task,
    *,
    seed: int,
    max_steps: int = 400,
    batch_size: int = BATCH_SIZE,
    features: Features | None = None,
) -> HeadFit | None:
    """Fit the new parameters of a model's head in place; everything else stays as it is.

    AdamW from the same start at each of a few learning rates; the state with the lowest held-out loss is kept, the
    start included, so the held-out loss never rises. The kept features take samples × tokens × hidden size × 4 bytes.

    Args:
        task_model: Its `new_parameters` under the head are fitted. It is left in eval mode with its gradient flags as found.
        layout: The model's layout, for its head.
        train: Samples to fit on.
        held_out: Other samples, which decide when to stop.
        task: Collates the samples and computes their loss in nats.
        seed: Order of the batches; nothing else is random.
        max_steps: Steps at one learning rate at most.
        batch_size: Samples per step.
        features: Computes and keeps the features; none to run the base model and keep its output.

    Returns:
        What was fitted and how far; none if no parameter is new. Losses are means over samples.

    Raises:
        DataError: there are no training or no held-out samples.
        NotFiniteError: the loss became NaN or infinite, already at the start or at every learning rate.
    """
    model = task_model.model
    names = {name for name in task_model.new_parameters if is_under(name, layout.head)}
    new = {name: parameter for name, parameter in model.named_parameters() if name in names}
    if not new:
        return None
    if not train or not held_out:
        raise DataError(f"a head cannot be fitted on {len(train)} training and {len(held_out)} held-out samples; give more data")
    model.eval()
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in new)
        base = _Base(model, model.get_submodule(base_model_path(model)), _has_new_pooler(model, new))
        with replaced_forwards([(base.module, base)]):
            fitted, watched = (_Split(examples, task, base, batch_size, features) for examples in (train, held_out))
            return _search(new, fitted, watched, seed, max_steps)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


def describe_model(task_model: TaskModel, layout: ModelLayout) -> ModelInfo:
    """Return which model was looked at, and how large it and its head are; tied parameters count once."""
    model = task_model.model
    parameters = list(model.named_parameters())
    hidden_size = getattr(model.config.get_text_config(), "hidden_size", None) or layout.layers[0].in_features
    return ModelInfo(
        id=task_model.checkpoint.id,
        hash=task_model.checkpoint.hash(),
        architecture=type(model).__name__,
        family=model.config.model_type,
        hidden_size=int(hidden_size),
        num_parameters=sum(parameter.numel() for _, parameter in parameters),
        head_parameters=sum(parameter.numel() for name, parameter in parameters if is_under(name, layout.head)),
        weight_dtype=str(model.dtype).removeprefix("torch."),
    )


class _Base:
    """Stands in for the frozen base model's `forward`: runs it and records once per batch, then gives the record back."""

    def __init__(self, model: nn.Module, module: nn.Module, has_new_pooler: bool) -> None:
        self.model, self.module, self.has_new_pooler = model, module, has_new_pooler
        self.forward: Callable[..., Any] = module.forward
        self.record: Any = None
        self.num_calls = 0
        #: A model that runs its base twice, or around `forward`, cannot be replayed; it runs whole at every step.
        self.is_direct = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        if self.is_direct:
            return self.forward(*args, **kwargs)
        if self.record is None:
            with torch.no_grad():
                self.record = self._strip(self.forward(*args, **kwargs))
        if self.has_new_pooler:
            pooler: nn.Module = getattr(self.module, POOLER)
            return type(self.record)(**{**self.record, "pooler_output": pooler(self.record[0])})
        return self.record

    @staticmethod
    def _strip(output: Any) -> Any:
        """Drop what the tail never reads (key/value caches), for a record lives as long as the fit."""
        if isinstance(output, tuple):
            return output
        return type(output)(**{name: value for name, value in output.items() if isinstance(value, Tensor)})


def _has_new_pooler(model: Any, new: dict[str, nn.Parameter]) -> bool:
    path = base_model_path(model)
    return any(is_under(name, [f"{path}.{POOLER}"]) for name in new)


class _Split:
    """Batches of one split with the record of the base model for each."""

    def __init__(self, examples: Sequence[Example], task: Task, base: _Base, batch_size: int, features: Features | None) -> None:
        # Batches of like lengths carry little padding through the one pass that costs anything.
        device = next(base.model.parameters()).device
        self.task, self.base, self.num_samples = task, base, len(examples)
        self.batches: list[Batch] = []
        self.records: list[Any] = []
        for indices in length_sorted_batches(examples, batch_size):
            collated = task.collate([examples[index] for index in indices])
            self.batches.append({name: value.to(device) for name, value in collated.items()})
        self._at: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext()
        if features is not None:
            base.is_direct = True
            self._at = features.prepare(self.batches)
        for batch in self.batches:
            base.record, base.num_calls = None, 0
            if not base.is_direct:
                with torch.no_grad():
                    base.model(**task.model_inputs(batch))
                base.is_direct = base.num_calls != 1
            self.records.append(base.record)

    def loss(self, index: int) -> Tensor:
        """Return the loss of each sample of a batch, nats."""
        batch = self.batches[index]
        self.base.record = self.records[index]
        with self._at(index):
            return self.task.per_sample_loss(self.base.model(**self.task.model_inputs(batch)), batch)

    def mean_loss(self) -> float:
        """Return the mean loss over all samples, nats."""
        with torch.no_grad():
            return sum(float(self.loss(index).double().sum()) for index in range(len(self.batches))) / self.num_samples


@dataclass
class _Best:
    held_out_loss: float
    steps: int
    state: dict[str, Tensor]


def _search(new: dict[str, nn.Parameter], train: _Split, held_out: _Split, seed: int, max_steps: int) -> HeadFit:
    """Fit from the same start at each learning rate, and leave the best state in place."""
    loss_before = train.mean_loss()
    start = _snapshot(new)
    best = _Best(held_out_loss=held_out.mean_loss(), steps=0, state=start)
    if not torch.isfinite(torch.tensor([loss_before, best.held_out_loss])).all():
        raise NotFiniteError(
            f"the loss of the untrained head is not finite ({loss_before} in training, {best.held_out_loss} held out); "
            "check the model's outputs and the labels"
        )
    has_diverged = []
    for learning_rate in LEARNING_RATES:
        _restore_(new, start)
        has_diverged.append(not _descend_(new, train, held_out, best, learning_rate, seed, max_steps))
    if all(has_diverged) and best.steps == 0:
        raise NotFiniteError(
            "the loss of the head became NaN or infinite at every learning rate; check the features and the labels"
        )
    _restore_(new, best.state)
    return HeadFit(
        parameters=list(new),
        num_samples=train.num_samples,
        steps=best.steps,
        loss_before=loss_before,
        loss_after=train.mean_loss(),
        held_out_loss=best.held_out_loss,
    )


def _descend_(
    new: dict[str, nn.Parameter], train: _Split, held_out: _Split, best: _Best, learning_rate: float, seed: int, max_steps: int
) -> bool:
    """Train at one rate until the held-out loss stops falling, updating `best`; false if the loss left the finite."""
    optimizer = torch.optim.AdamW(new.values(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(seed)
    lowest, since, steps = float("inf"), 0, 0
    while steps < max_steps and since < PATIENCE:
        for index in torch.randperm(len(train.batches), generator=generator).tolist()[: max_steps - steps]:
            loss = train.loss(index).mean()
            if not torch.isfinite(loss):
                return False
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        held_out_loss = held_out.mean_loss()
        since = 0 if held_out_loss < lowest else since + 1
        lowest = min(lowest, held_out_loss)
        if held_out_loss < best.held_out_loss:
            best.held_out_loss, best.steps, best.state = held_out_loss, steps, _snapshot(new)
    return True


def _snapshot(new: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in new.items()}


def _restore_(new: dict[str, nn.Parameter], state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in new.items():
            parameter.copy_(state[name])
