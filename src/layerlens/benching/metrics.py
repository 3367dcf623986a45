"""Which metrics a task scores by, so that a name that it lacks is told before anything is trained on it."""

from __future__ import annotations

from layerlens.artifacts.profile import TaskInfo
from layerlens.config.bench import BenchTask
from layerlens.words import TaskKind

_CLASSES = ("accuracy", "f1", "macro_f1", "matthews")
_METRICS = {
    TaskKind.CLASSIFICATION: _CLASSES,
    TaskKind.PAIR_CLASSIFICATION: _CLASSES,
    TaskKind.IMAGE_CLASSIFICATION: _CLASSES,
    TaskKind.REGRESSION: ("pearson", "spearman", "mean_squared_error"),
    TaskKind.CAUSAL_LM: ("perplexity", "loss_nats"),
    TaskKind.QUESTION_ANSWERING: ("f1", "exact_match"),
    TaskKind.EMBEDDING: ("cosine",),
}
#: Of every task.
_LOSS = "loss"
#: What tells two classes from more.
_OF_TWO, _OF_MORE = "f1", "macro_f1"


def metrics_of(info: TaskInfo) -> list[str]:
    """The metrics that an arm is scored by on a task."""
    names = _METRICS[info.kind]
    if names == _CLASSES:
        left_out = _OF_MORE if info.num_labels == 2 else _OF_TWO
        names = tuple(name for name in names if name != left_out)
    return [_LOSS, *names]


def metric_fault(name: str, task: BenchTask, info: TaskInfo | None = None) -> str | None:
    """What is wrong with the metric that a suite's task is to be compared by, or None.

    Args:
        name: Of the task.
        task: As the suite has it; where it leaves its kind open, a name that any kind has may be right.
        info: What the data showed it to be, where they have been looked at.
    """
    kinds = [info.kind] if info is not None else [task.task] if task.task is not None else list(TaskKind)
    known = metrics_of(info) if info is not None else [_LOSS, *(metric for kind in kinds for metric in _METRICS[kind])]
    if task.metric is None or task.metric in known:
        return None
    whose = kinds[0].value if len(kinds) == 1 else "any task"
    return f"tasks.{name}.metric: {task.metric} is no metric of {whose}; known are {', '.join(dict.fromkeys(known))}"
