"""How a run's batches are padded and their loss is taken, as part of what the run is known by."""

from __future__ import annotations

from layerlens.data.task import Task
from layerlens.data.training_batches import TOKENS

#: Key of what a run is known by where its batches are padded on; runs of earlier versions lack it, whose batches were not.
PADDED_TO = "tokens_padded_to"


def batch_identity(task: Task) -> dict[str, int | str]:
    """What numbers depend on beside samples: which tokens the loss is over, and how much padding dropout draws for."""
    return {**task.loss_identity, **({PADDED_TO: TOKENS} if task.is_padded_on else {})}
