"""How long a run is."""

from __future__ import annotations

import numpy as np


def num_tuning_steps(num_samples: int, *, batch_size: int, epochs: float, max_steps: int | None = None) -> int:
    """Steps of a tuning run: `max_steps` where given, else as many batches as the epochs hold, rounded up."""
    if max_steps is not None:
        return max_steps
    return max(1, int(np.ceil(epochs * num_samples / min(batch_size, num_samples))))
