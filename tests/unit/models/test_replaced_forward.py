"""What stands in for a module's `forward` runs inside its hooks, and leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from layerlens.models.replaced_forward import replaced_forwards


def test_a_stand_in_is_called_and_the_hooks_still_run() -> None:
    model, seen = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), []
    model[0].register_forward_hook(lambda _, __, output: seen.append(output))
    values = torch.tensor([[3.0, 4.0]])
    with replaced_forwards([(model[0], lambda given: 2 * given), (model[1], lambda given: given + 1)]):
        assert model(values).tolist() == [[7.0, 9.0]]
    assert [output.tolist() for output in seen] == [[[6.0, 8.0]]]


def test_every_forward_comes_back_even_after_an_error() -> None:
    plain, special = nn.Linear(2, 2), nn.Linear(2, 2)

    def own(values: Tensor) -> Tensor:
        return -values

    special.forward = own

    def fail() -> None:
        with replaced_forwards([(plain, lambda values: values), (special, lambda values: values)]):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert "forward" not in plain.__dict__
    assert special.forward is own
