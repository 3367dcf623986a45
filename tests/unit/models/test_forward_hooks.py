from __future__ import annotations

import pytest
import torch
from torch import nn

from layerlens.models.forward_hooks import taken_off


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_run_inside_the_context_and_never_after_it(fails: bool) -> None:
    layers, seen = [nn.Linear(2, 2), nn.Linear(2, 2)], []
    values = torch.ones(1, 2)
    try:
        with taken_off([layer.register_forward_hook(lambda module, *_: seen.append(module)) for layer in layers]):
            for layer in layers:
                layer(values)
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert seen == layers
    for layer in layers:
        layer(values)
    assert seen == layers
