"""What a method of its own adds to a training run that is otherwise the same for every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import TrainerCallback


@dataclass(frozen=True)
class Hooks:
    """Additions to one run.

    Attributes:
        callbacks: See the Trainer's events; on a save they are asked before the checkpoint is marked whole, so what they
            write into it can be resumed from.
        extra_loss: Added to the task's loss at every step, nats; not in the loss curve, which stays comparable.
        outcome: Asked after training for fields of the arm that only training could tell.
    """

    callbacks: tuple[TrainerCallback, ...] = ()
    extra_loss: Callable[[], Tensor] | None = None
    outcome: Callable[[], dict[str, Any]] | None = None


NO_HOOKS = Hooks()
