"""What was changed comes back to the bit, in place, and neither memory nor the folder holds a copy meanwhile."""

from __future__ import annotations

import errno
import gc
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor, nn

from layerlens.adapting.weights_on_disk import kept_on_disk
from layerlens.errors import ConfigError


class Tied(nn.Module):
    """Parameters of two types, one of them under two names and one stored transposed; buffers, a scalar and an empty one too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(300, 64)
        self.norm = nn.BatchNorm1d(64)
        self.narrow = nn.Parameter(torch.randn(7, 5).to(torch.bfloat16))
        self.turned = nn.Parameter(torch.randn(9, 4).t())
        self.register_buffer("none", torch.empty(0))
        self.head = nn.Linear(64, 300)
        self.head.weight = self.embedding.weight


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def spoil(model: nn.Module) -> None:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(3)


def bytes_beside(model: nn.Module) -> int:
    """Bytes of every tensor alive that is not the model's."""
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    found = [tensor for tensor in gc.get_objects() if type(tensor) in (Tensor, nn.Parameter)]
    return sum(tensor.nbytes for tensor in found if tensor.device.type == "cpu" and tensor.data_ptr() not in own)


@pytest.mark.parametrize("fails", [False, True])
def test_every_tensor_comes_back_in_place_also_after_a_failure(fails: bool, tmp_path: Path) -> None:
    model = Tied()
    before, objects = state(model), [id(parameter) for parameter in model.parameters()]
    try:
        with kept_on_disk(model, tmp_path):
            spoil(model)
            assert not any(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if tensor.numel())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    after = state(model)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in after.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in before.items()
    }
    assert [id(parameter) for parameter in model.parameters()] == objects
    assert model.head.weight is model.embedding.weight
    assert not model.turned.is_contiguous()


def test_neither_memory_nor_the_folder_holds_a_copy(tmp_path: Path) -> None:
    model, folder = Tied(), tmp_path / "not there yet"
    before = bytes_beside(model)
    with kept_on_disk(model, folder):
        assert bytes_beside(model) - before < model.embedding.weight.nbytes
        # What has no name now cannot be left behind by a process that is killed.
        assert list(folder.iterdir()) == []


def test_a_full_disk_is_told_before_anything_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ConfigError, match=r"too full to keep the model's weights.* MiB"), kept_on_disk(Tied(), tmp_path):
        pytest.fail("the context was entered")
