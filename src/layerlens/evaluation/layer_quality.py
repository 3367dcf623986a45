"""What each matrix of a compressed model lost, of itself and of its outputs on real activations.

    weight error ‖Ŵ − W‖ / ‖W‖     cosine ⟨Ŵ, W⟩ / ‖Ŵ‖‖W‖        over all numbers of the matrix
    output error ‖Ŷ − Y‖ / ‖Y‖     cosine ⟨Ŷ, Y⟩ / ‖Ŷ‖‖Y‖        Y = X Wᵀ without bias, X what the original model's layer sees

Both layers get the same X, so an error is the layer's own, not what reached it from below. Sums are in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layerlens.artifacts.compression_evaluation import ByteChange, LayerQuality, verdict_of
from layerlens.data.example import Batch
from layerlens.errors import UnsupportedModelError
from layerlens.evaluation.perplexity import to_device_of
from layerlens.models.frozen import frozen
from layerlens.models.weights import is_planned_module, weight_matrix
from layerlens.nn.half_modules import HalfModule
from layerlens.progress import SILENT, Progress

#: Numbers of a matrix or an output that are in float64 at once.
_CHUNK_NUMBERS = 1 << 20


@dataclass
class _Sums:
    """Inner products of two tensors, over all that was added."""

    dot: float = 0.0
    first: float = 0.0
    second: float = 0.0
    error: float = 0.0

    def add(self, first: Tensor, second: Tensor) -> None:
        flat, other = first.reshape(-1), second.reshape(-1)
        for start in range(0, len(flat), _CHUNK_NUMBERS):
            one, two = (
                flat[start : start + _CHUNK_NUMBERS].double(),
                other[start : start + _CHUNK_NUMBERS].to(flat.device).double(),
            )
            self.dot += float(one @ two)
            self.first += float(one @ one)
            self.second += float(two @ two)
            self.error += float((two - one).square().sum())

    @property
    def relative_error(self) -> float:
        return (self.error / self.first) ** 0.5 if self.first > 0 else float(self.error > 0)

    @property
    def cosine(self) -> float:
        size = (self.first * self.second) ** 0.5
        return min(1.0, max(-1.0, self.dot / size)) if size > 0 else float(self.first == self.second)


@dataclass
class _Pair:
    """One matrix of both models."""

    original: nn.Module
    compressed: nn.Module
    tied_to: str | None
    outputs: _Sums = field(default_factory=_Sums)
    has_run: bool = False


def layer_quality(
    original: nn.Module, compressed: nn.Module, batches: Iterable[Batch], *, progress: Progress = SILENT
) -> list[LayerQuality]:
    """Compare every linear layer and embedding table of two models, in the order of the tree.

    Args:
        original: A model with `Linear`, `Conv1D` and `Embedding` modules.
        compressed: The same tree; a layer is any module that maps what the original's does and whose `weight` is its matrix.
        batches: Inputs of the model, without labels; tokens that `attention_mask` leaves out do not count.
        progress: Who watches.

    Returns:
        One entry for each; of a layer that no batch ran through (a pooler of a language model, cross-attention) its matrix alone.

    Raises:
        UnsupportedModelError: the compressed model lacks a layer, or has one of another shape.
    """
    pairs = _pairs(original, compressed)
    mask: list[Bool[Tensor, "samples tokens"] | None] = [None]
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(frozen(original))
        stack.enter_context(frozen(compressed))
        for pair in pairs.values():
            handle = pair.original.register_forward_hook(partial(_add_outputs, pair, mask))
            stack.callback(handle.remove)
        for batch in progress.track(batches, "activations of every layer"):
            given = batch.get("attention_mask")
            mask[0] = None if given is None else given.bool()
            original(**to_device_of(original, batch))
        return [_quality(path, pair) for path, pair in pairs.items()]


def _pairs(original: nn.Module, compressed: nn.Module) -> dict[str, _Pair]:
    pairs: dict[str, _Pair] = {}
    seen: dict[int, str] = {}
    others = dict(compressed.named_modules())
    for path, module in original.named_modules():
        if not (is_planned_module(module) or isinstance(module, nn.Embedding)):
            continue
        if path not in others:
            raise UnsupportedModelError(f"the compressed model has no layer {path}; give a model made from the original")
        if matrix_of(others[path]).shape != matrix_of(module).shape:
            raise UnsupportedModelError(
                f"{path} is {list(matrix_of(others[path]).shape)}, in the original {list(matrix_of(module).shape)}; give a model "
                "made from the original"
            )
        first = seen.setdefault(matrix_of(module).data_ptr(), path)
        pairs[path] = _Pair(module, others[path], None if first == path else first)
    return pairs


def matrix_of(module: nn.Module) -> Float[Tensor, "out_features in_features"]:
    """A layer's matrix [out_features in_features], a table's [rows features], decoded where it is stored otherwise.

    Raises:
        UnsupportedModelError: the module has no `weight` that is a matrix.
    """
    weight: Any = weight_matrix(module) if is_planned_module(module) else getattr(module, "weight", None)
    if isinstance(module, HalfModule) and module.is_transposed:
        # It holds the matrix as the checkpoint has it; coded modules decode theirs to [out in].
        weight = weight.T
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise UnsupportedModelError(f"a {type(module).__name__} has no weight that is a matrix, so it cannot be compared")
    return weight


def layer_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of what every module itself holds but its bias, by path: a layer's bytes in the file, if loaded in its own type."""
    return {path: _matrix_bytes(module) for path, module in model.named_modules()}


def _add_outputs(pair: _Pair, mask: list[Tensor | None], _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    given, found = inputs[0], output
    if mask[0] is not None and given.shape[:2] == mask[0].shape:
        kept = mask[0].to(given.device)
        given, found = given[kept], found[kept]
    other: Tensor = pair.compressed(_as_taken(pair.compressed, given))
    pair.has_run = True
    pair.outputs.add(_without_bias(pair.original, found), _without_bias(pair.compressed, other))


def _as_taken(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs in the type and on the device that a layer computes with; stored layers take any type."""
    tensor = next(chain(module.parameters(recurse=False), module.buffers(recurse=False)), None)
    if tensor is None:
        return inputs
    moved = inputs.to(tensor.device)
    is_dense = is_planned_module(module) and inputs.is_floating_point()
    return moved.to(tensor.dtype) if is_dense else moved


def _without_bias(module: nn.Module, output: Tensor) -> Tensor:
    bias = getattr(module, "bias", None)
    return output.float() - bias.float() if isinstance(bias, Tensor) else output.float()


def _quality(path: str, pair: _Pair) -> LayerQuality:
    weights = _Sums()
    weights.add(matrix_of(pair.original).detach(), matrix_of(pair.compressed).detach())
    output_error = pair.outputs.relative_error if pair.has_run else None
    return LayerQuality(
        layer=path,
        weight_cosine=weights.cosine,
        weight_error=weights.relative_error,
        output_cosine=pair.outputs.cosine if pair.has_run else None,
        output_error=output_error,
        size_bytes=ByteChange(before=_matrix_bytes(pair.original), after=_matrix_bytes(pair.compressed)),
        tied_to=pair.tied_to,
        verdict=verdict_of(output_error),
    )


def _matrix_bytes(module: nn.Module) -> int:
    """Bytes of a module's own tensors but its bias."""
    tensors = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return sum(tensor.nbytes for name, tensor in tensors if name != "bias")
