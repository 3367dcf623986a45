"""Seconds that the optimiser spends on each parameter it trains: clipping and AdamW, which only read and write memory."""

from __future__ import annotations

import torch
from torch import nn

from layerlens.models.devices import seconds_now

#: Parameters of the sample: with gradient and state 16 MB, more than the caches of a core hold.
_NUM_PARAMETERS = 1 << 20
#: A tenth of a second, in which a busy machine has quiet moments.
_REPEATS = 40


def update_seconds_per_parameter(device: torch.device) -> float:
    """The fastest of a few updates of one vector, float32; the first two, which make the state and warm up, do not count.

    Updates wait for memory that other work on the machine takes as well: on two shared cores the medians and the fastest of five
    were 1 to 2.3 times what a quiet machine takes.
    """
    parameter = nn.Parameter(torch.ones(_NUM_PARAMETERS, device=device))
    optimizer = torch.optim.AdamW([parameter], lr=1e-3)
    seconds = []
    for _ in range(2 + _REPEATS):
        parameter.grad = torch.ones_like(parameter)
        start = seconds_now(device)
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()
        seconds.append(seconds_now(device) - start)
    return min(seconds[2:]) / _NUM_PARAMETERS
