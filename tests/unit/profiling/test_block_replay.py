"""Forwards that start at a block against whole ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from layerlens.profiling.block_replay import BlockReplay
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES
from tests.unit.profiling.cases import open_case


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_from_any_block_gives_the_same_outputs_on_every_family(tmp_path: Path, family: str) -> None:
    kind = TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION
    case = open_case(tmp_path, family, kind)
    case.model.config.use_cache = False
    replay = BlockReplay(case.model, [block.path for block in case.layout.blocks])
    batches = [case.task.model_inputs(case.task.collate(case.examples[start : start + 3])) for start in (0, 3)]
    whole = []
    for inputs in batches:
        with replay.recording():
            whole.append(case.model(**inputs).logits)
    for number, inputs in enumerate(batches):
        for block in range(len(case.layout.blocks)):
            ran: list[int] = []
            modules = [case.model.get_submodule(spec.path) for spec in case.layout.blocks]
            first_norms = [next(child for child in module.modules() if not list(child.children())) for module in modules]
            handles = [
                child.register_forward_hook(lambda *_, position=position, ran=ran: ran.append(position))
                for position, child in enumerate(first_norms)
            ]
            with torch.no_grad(), replay.starting_at(block, number):
                outputs = case.model(**inputs).logits
            for handle in handles:
                handle.remove()
            torch.testing.assert_close(outputs, whole[number], rtol=1e-5, atol=1e-5)
            assert sorted(set(ran)) == list(range(block, len(modules)))


def test_the_blocks_run_again_once_the_replay_is_over(tmp_path: Path) -> None:
    case = open_case(tmp_path, "bert", TaskKind.CLASSIFICATION)
    inputs = case.task.model_inputs(case.task.collate(case.examples[:3]))
    replay = BlockReplay(case.model, [block.path for block in case.layout.blocks])
    with replay.recording():
        before = case.model(**inputs).logits
    with replay.starting_at(1, 0):
        pass
    with torch.no_grad():
        case.model.get_submodule(case.layout.layers[0].layer).weight.mul_(3.0)
        assert not torch.allclose(case.model(**inputs).logits, before)


class _TwoPaths(nn.Module):
    """Blocks of an encoder, then of a decoder that reads what the encoder gave; or both in turns."""

    def __init__(self, is_in_turns: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.ModuleList(nn.Linear(4, 4) for _ in range(2)) for _ in range(2))
        self.is_in_turns = is_in_turns

    def forward(self, x: Tensor) -> Tensor:
        if self.is_in_turns:
            for one, other in zip(self.first, self.second, strict=True):
                x = torch.tanh(other(torch.tanh(one(x))))
            return x
        encoded = torch.tanh(self.first[1](torch.tanh(self.first[0](x))))
        for block in self.second:
            x = torch.tanh(block(x) + encoded)
        return x


@pytest.mark.parametrize("is_in_turns", [False, True], ids=["encoder and decoder", "in turns"])
def test_a_change_of_any_block_gives_what_the_whole_model_gives(is_in_turns: bool) -> None:
    model, x = _TwoPaths(is_in_turns), torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    paths = [f"{part}.{block}" for part in ("first", "second") for block in range(2)]
    replay = BlockReplay(model, paths)
    with replay.recording():
        model(x)
    for block, path in enumerate(paths):
        handle = model.get_submodule(path).register_forward_hook(lambda _, __, output: output + 1.0)
        with torch.no_grad(), replay.starting_at(block, 0):
            found = model(x)
        torch.testing.assert_close(found, model(x))
        handle.remove()
