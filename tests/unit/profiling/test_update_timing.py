"""The update's seconds are those of AdamW and clipping, per parameter, by a clock that only they move."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layerlens.profiling import update_timing
from layerlens.profiling.update_timing import update_seconds_per_parameter


def test_seconds_are_the_median_update_over_the_parameters_it_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, num = [0.0], []
    # The first updates make the state; they are long and must not count.
    taken = iter([100.0, 50.0, 3.0, 1.0, 2.0, 9.0, 2.0])
    clip, step = nn.utils.clip_grad_norm_, torch.optim.AdamW.step

    def clip_for_a_second(parameters: list[nn.Parameter], norm: float) -> torch.Tensor:
        seconds[0] += 1.0
        num.append(sum(parameter.numel() for parameter in parameters))
        return clip(parameters, norm)

    def step_for_a_while(optimizer: torch.optim.AdamW) -> None:
        seconds[0] += next(taken)
        step(optimizer)

    monkeypatch.setattr(update_timing, "_REPEATS", 5)
    monkeypatch.setattr(update_timing, "seconds_now", lambda _: seconds[0])
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip_for_a_second)
    monkeypatch.setattr(torch.optim.AdamW, "step", step_for_a_while)
    assert update_seconds_per_parameter(torch.device("cpu")) == pytest.approx((1.0 + 1.0) / num[0])
    assert len(num) == 7
