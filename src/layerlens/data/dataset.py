"""From what the user typed to a task with its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.artifacts.profile import TaskInfo
from layerlens.config import DataConfig
from layerlens.data.encoders import check_form, prepare
from layerlens.data.example import Example, hash_examples
from layerlens.data.guess import guess_task
from layerlens.data.labels import NO_HEAD, HeadLabels
from layerlens.data.lazy import LazyExamples
from layerlens.data.sources.opening import open_source
from layerlens.data.task import Task
from layerlens.data.tasks import build_task
from layerlens.data.token_ids import TokenIds
from layerlens.errors import DataError
from layerlens.words import TaskKind


@dataclass(frozen=True)
class LoadedData:
    """A data set that fits a model and a task."""

    id: str
    """What the user called it."""
    task: Task
    examples: Sequence[Example]
    """In the source's order; encoded on access, then kept. `take` is the fast way to many."""
    splits: list[str] | None
    """`train`, `validation` or `test` of each example, where the source fixes it."""
    columns: dict[str, str]
    """Which column became what: `text`, `text_pair`, `label`, `image`, `question`, `context`."""
    notes: tuple[str, ...] = ()
    """What was left out or cut, one line each; worth telling the user."""

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Return the examples at `indices`, in that order; those not yet encoded are encoded in one go."""
        if isinstance(self.examples, LazyExamples):
            return self.examples.take(indices)
        return [self.examples[index] for index in indices]

    def hash(self, indices: Sequence[int]) -> str:
        """Hash the encoded examples at `indices`, in that order."""
        chunks = range(0, len(indices), 256)
        return hash_examples(example for start in chunks for example in self.take(indices[start : start + 256]))

    def source_hash(self, indices: Sequence[int]) -> str:
        """Hash what the examples at `indices` are encoded from, in that order: cheap however many they are."""
        return self.examples.source_hash(indices) if isinstance(self.examples, LazyExamples) else self.hash(indices)

    def has_samples_of(self, other: LoadedData) -> bool:
        """Whether other data hold the same samples in the same order, whatever they are called."""
        numbers = range(len(self.examples))
        return len(numbers) == len(other.examples) and self.source_hash(numbers) == other.source_hash(numbers)


def load_dataset(
    data: str,
    config: DataConfig,
    *,
    checkpoint_config: dict[str, Any],
    processor_for: Callable[[TaskKind], Any],
    task: TaskInfo | None = None,
    keeps_head: bool = False,
) -> LoadedData:
    """Load a data set for a model.

    Args:
        data: A built-in name (`stdlib-docs`), a file, a folder of images, or a hub data set.
        config: Task, columns, split and length; what is not given is guessed.
        checkpoint_config: The model's `config.json`.
        processor_for: Gives the model's tokenizer or image processor, once the task is known.
        task: The task of a plan: its kind, label set and (unless the config asks otherwise) columns and length hold.
        keeps_head: Whether the model is used with the head that its checkpoint has: where the labels are that head's classes,
            its order holds before a plan's, and the data may lack some.

    Raises:
        DataError: the source cannot be read, or does not fit the task; all faults in one line.
    """
    if task is not None and config.task is not None and config.task is not task.kind:
        raise DataError(f"{data}: the plan is for {task.kind}, not for {config.task}; leave --task out, or profile again")
    table = open_source(data, config)
    kind = task.kind if task is not None else guess_task(table, config, checkpoint_config)
    check_form(kind, table)
    processor = processor_for(kind)
    head = HeadLabels.of(checkpoint_config, is_kept=keeps_head) if task is None or keeps_head else NO_HEAD
    prepared = prepare(kind, table, config, task, checkpoint_config, processor, head)
    built = build_task(prepared.info, processor)
    return LoadedData(
        id=data,
        task=built,
        examples=LazyExamples(prepared.encoder, TokenIds.of(checkpoint_config, getattr(built, "pad_token_id", 0))),
        splits=prepared.splits,
        columns=prepared.columns,
        notes=prepared.notes,
    )
