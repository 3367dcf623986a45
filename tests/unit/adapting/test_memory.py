"""Peak memory is that of the stretch of work, not of what came before."""

from __future__ import annotations

import numpy as np
import torch

from layerlens.adapting.memory import peak_memory

CPU = torch.device("cpu")


def touch(num_bytes: int) -> None:
    np.ones(num_bytes // 8).sum()


def test_it_rises_with_what_the_work_takes_and_forgets_what_came_before() -> None:
    touch(400 * 2**20)
    with peak_memory(CPU) as small:
        touch(2**20)
    with peak_memory(CPU) as large:
        touch(200 * 2**20)
    assert large.num_bytes - small.num_bytes > 150 * 2**20


def test_it_is_filled_in_also_where_the_work_fails() -> None:
    try:
        with peak_memory(CPU) as peak:
            raise ValueError
    except ValueError:
        assert peak.num_bytes > 2**20
