"""The matrices of a model that no block holds: tables before the blocks, the head after them."""

from __future__ import annotations

from collections.abc import Iterable

from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.replacement import is_replaceable, is_table
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.streamed.weight_source import WeightSource
from layerlens.models.tree import is_under


class OutsideBlocks:
    """Replaceable modules outside the blocks.

    Args:
        model: The streamed model.

    Attributes:
        entries: Paths of what may run before the first block: tables, and linear layers that are no head.
        linears: Paths of what may run after the last one: linear layers.
    """

    def __init__(self, model: StreamedModel) -> None:
        blocks = [block.path for block in model.layout.blocks]
        modules = {path: module for path, module in model.model.named_modules() if not is_under(path, blocks)}
        tables = [path for path, module in modules.items() if is_table(module)]
        self.linears = [path for path, module in modules.items() if is_replaceable(module) and path not in tables]
        outputs = model.model.get_output_embeddings()
        heads = [*model.layout.head, *(path for path, module in modules.items() if module is outputs)]
        self.entries = [*tables, *(path for path in self.linears if not is_under(path, heads))]
        self._modules = modules

    def sources(self) -> list[WeightSource]:
        """Where the streamed linear layers read their weights."""
        modules = [self._modules[path] for path in self.linears]
        return [module.source for module in modules if isinstance(module, StreamedLinear)]


def starting_block(model: StreamedModel, paths: Iterable[str]) -> int:
    """The first block whose hidden states change when these matrices do; the number of blocks where only the head does."""
    blocks = [block.path for block in model.layout.blocks]
    entries = set(OutsideBlocks(model).entries)
    starts = [len(blocks)]
    for path in paths:
        inside = [number for number, block in enumerate(blocks) if is_under(path, [block])]
        starts += inside or ([0] if path in entries else [])
    return min(starts)
