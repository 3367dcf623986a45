"""How a run's batches are padded, as part of what the run is known by."""

from __future__ import annotations

from layerlens.data.task import Task
from layerlens.data.training_batches import TOKENS

#: Key of what a run is known by where its batches are padded on; runs of earlier versions lack it, whose batches were not.
PADDED_TO = "tokens_padded_to"


def padding_identity(task: Task) -> dict[str, int]:
    """What a run's numbers depend on in how its batches are padded: dropout draws for padding too."""
    return {PADDED_TO: TOKENS} if task.is_padded_on else {}
