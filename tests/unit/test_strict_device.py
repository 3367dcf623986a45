"""The device that is not there tells what an accelerator would."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from tests.strict_device import STRICT, strict_device


def test_it_computes_what_the_host_does_backward_too() -> None:
    torch.manual_seed(0)
    layer, inputs = nn.Linear(4, 3), torch.randn(2, 4)
    expected = layer(inputs).square().sum()
    expected.backward()
    assert layer.weight.grad is not None
    gradient, layer.weight.grad = layer.weight.grad, None
    with strict_device():
        moved = deepcopy(layer).to(STRICT)
        found = moved(inputs.to(STRICT)).square().sum()
        found.backward()
        assert found.device == STRICT
        assert float(found.detach()) == float(expected.detach())
        assert moved.weight.grad is not None
        assert torch.equal(moved.weight.grad.cpu(), gradient)


def test_it_refuses_to_mix() -> None:
    with strict_device():
        here, there = torch.ones(3), torch.ones(3, device=STRICT)
        with pytest.raises(RuntimeError, match="add of a host's tensor"):
            there + here
        with pytest.raises(RuntimeError, match="mul_ of a host's tensor"):
            here.mul_(there)
        with pytest.raises(TypeError, match="copy it to the host first"):
            there.numpy()
        assert float((there + torch.tensor(1.0)).sum()) == 6.0
        assert torch.equal(torch.tensor([1, 2], device=STRICT).cpu(), torch.tensor([1, 2]))
        whole = torch.zeros(4, device=STRICT)
        whole[1:3].add_(1.0)
        assert torch.equal(whole.cpu(), torch.tensor([0.0, 1.0, 1.0, 0.0]))
