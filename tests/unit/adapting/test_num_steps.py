from __future__ import annotations

import pytest

from layerlens.adapting.num_steps import num_tuning_steps


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs", "max_steps", "steps"),
    [(100, 16, 3.0, None, 19), (100, 16, 0.5, None, 4), (5, 16, 2.0, None, 2), (100, 16, 3.0, 7, 7), (1, 1, 0.1, None, 1)],
)
def test_steps_of_a_tuning_run(samples: int, batch_size: int, epochs: float, max_steps: int | None, steps: int) -> None:
    assert num_tuning_steps(samples, batch_size=batch_size, epochs=epochs, max_steps=max_steps) == steps
