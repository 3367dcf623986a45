"""Variants of one model: the same model with other matrices here and there, each perhaps a variant of another.

    checkpoint ──► int4 everywhere ──► int4, but block 3's query as it was      (leave one out: parent = int4 everywhere)
               └─► block 0's query in int2, all else as it was                  (a probe)

Below its first block a variant is its parent, so its hidden states start there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from layerlens.errors import ConfigError


class Own(Enum):
    """What a variant says of a matrix where it gives none."""

    ORIGINAL = "as in the checkpoint, whatever the parent has"


ORIGINAL = Own.ORIGINAL

#: A matrix [out_features in_features], float32 (or a smaller float type, for less memory); None: as in the parent.
Replacement = Tensor | Own | None
Weights = Callable[[str], Replacement] | Mapping[str, Replacement]


@dataclass(frozen=True)
class Variant:
    """A model with other matrices.

    Attributes:
        name: Unique among the variants of a run.
        weights: Matrix by full module path. It is asked once for each matrix of a block, when the block's turn comes. A tied
            matrix stands under the path of every module that holds it.
        first_block: Position of the first block with another matrix; the number of blocks where only the head has one. Tables
            are asked for only at 0.
        parent: Variant that it is a variant of; none for the checkpoint.
    """

    name: str
    weights: Weights
    first_block: int = 0
    parent: str | None = None

    def own(self, path: str) -> Replacement:
        """What it says of a matrix."""
        return self.weights.get(path) if isinstance(self.weights, Mapping) else self.weights(path)


class Lineage:
    """Variants with their ancestors.

    Args:
        variants: In any order.
        num_blocks: Blocks of the model.

    Raises:
        ConfigError: a name stands twice, a parent is unknown or its own ancestor, or a first block is out of range.
    """

    def __init__(self, variants: Sequence[Variant], num_blocks: int) -> None:
        self.variants = {variant.name: variant for variant in variants}
        if len(self.variants) < len(variants):
            twice = sorted({name for name in self.variants if sum(one.name == name for one in variants) > 1})
            raise ConfigError(f"variants are called by the same name: {', '.join(twice)}; give each its own")
        for variant in variants:
            if not 0 <= variant.first_block <= num_blocks:
                raise ConfigError(f"variant {variant.name} starts at block {variant.first_block} of {num_blocks}")
            if variant.parent is not None and variant.parent not in self.variants:
                raise ConfigError(f"variant {variant.name} has an unknown parent, {variant.parent}")
            seen: list[str] = []
            for ancestor in self._line(variant):
                if ancestor.name in seen:
                    raise ConfigError(f"variant {variant.name} is its own ancestor")
                seen.append(ancestor.name)

    def line(self, name: str) -> list[Variant]:
        """A variant, its parent, and so on."""
        return list(self._line(self.variants[name]))

    def children_first(self, names: Iterable[str]) -> list[str]:
        """Names so ordered that a variant that starts at a block reads its parent's state before the parent moves on."""
        chosen = list(names)
        return sorted(chosen, key=lambda name: (-len(self.line(name)), chosen.index(name)))

    def with_ancestors(self, names: Iterable[str]) -> list[str]:
        """Names and those of all their ancestors, each once."""
        return list(dict.fromkeys(ancestor.name for name in names for ancestor in self.line(name)))

    def block_weights(self, name: str, block: int, paths: Iterable[str]) -> dict[str, Tensor]:
        """The matrices of a block that are not the checkpoint's."""
        line = [variant for variant in self.line(name) if variant.first_block <= block]
        return self._resolved(line, paths)

    def weights(self, name: str, paths: Iterable[str]) -> dict[str, Tensor]:
        """Matrices outside the blocks that are not the checkpoint's."""
        return self._resolved(self.line(name), paths)

    def has_own(self, name: str, paths: Iterable[str]) -> bool:
        """Whether a variant itself says anything of one of these matrices."""
        return any(self.variants[name].own(path) is not None for path in paths)

    def owners(self, name: str, paths: Iterable[str]) -> tuple[str | None, ...]:
        """Which variant each of these matrices outside the blocks comes from; none for the checkpoint's."""
        line = self.line(name)
        return tuple(next((one.name for one in line if one.own(path) is not None), None) for path in paths)

    @staticmethod
    def _resolved(line: Sequence[Variant], paths: Iterable[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path in paths:
            for variant in line:
                values = variant.own(path)
                if values is not None:
                    if values is not ORIGINAL:
                        found[path] = values
                    break
        return found

    def _line(self, variant: Variant) -> Iterable[Variant]:
        position: Variant | None = variant
        for _ in range(len(self.variants) + 1):
            if position is None:
                return
            yield position
            position = None if position.parent is None else self.variants[position.parent]
