"""Other matrices in place of a model's own, for a while: what a streamed layer, a table or a head in memory computes with.

The normal path is left as it is: a streamed layer takes what its source holds, and here its source holds another matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from layerlens.errors import UnsupportedModelError
from layerlens.models.streamed.row_embedding import RowEmbedding
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.models.weights import is_planned_module, is_transposed


def is_replaceable(module: nn.Module) -> bool:
    """Whether a module's matrix can be replaced: a linear layer or an embedding table, streamed or in memory."""
    return isinstance(module, StreamedLinear) or is_table(module) or is_planned_module(module)


def is_table(module: nn.Module) -> bool:
    """Whether a module is an embedding table."""
    return isinstance(module, RowEmbedding | nn.Embedding)


@contextmanager
def replaced_weights(model: nn.Module, replacements: Mapping[str, Tensor]) -> Iterator[None]:
    """Let modules compute with other matrices until the context ends.

    A matrix that two modules share (a tied head and its table) is replaced in the modules that are named, not in others.

    Args:
        model: A streamed model's `model`, or any other.
        replacements: By full module path, the matrix [out_features in_features] (a table: [rows features]). Of a streamed layer
            any float type is used as it is, slice by slice; float32 is fastest.

    Raises:
        UnsupportedModelError: a path is no linear layer or table, or the shape is another.
    """
    with ExitStack() as stack:
        for path, values in replacements.items():
            stack.enter_context(_replaced(path, model.get_submodule(path), values))
        yield


@contextmanager
def _replaced(path: str, module: nn.Module, values: Tensor) -> Iterator[None]:
    match module:
        case StreamedLinear():
            _check_shape(path, values, (module.out_features, module.in_features))
            with module.source.holding(values.t() if module.is_transposed else values):
                yield
        case RowEmbedding():
            _check_shape(path, values, (module.num_embeddings, module.embedding_dim))
            former, module.values = module.values, values
            try:
                yield
            finally:
                module.values = former
        case _ if is_replaceable(module):
            with _replaced_parameter(path, module, values):
                yield
        case _:
            raise UnsupportedModelError(f"{path} is a {type(module).__name__}, which has no matrix that can be replaced")


@contextmanager
def _replaced_parameter(path: str, module: nn.Module, values: Tensor) -> Iterator[None]:
    weight = module.weight
    if not isinstance(weight, nn.Parameter):
        raise UnsupportedModelError(f"{path} has no weight of its own that can be replaced")
    is_turned = is_planned_module(module) and is_transposed(module)
    own = weight.data
    _check_shape(path, values, tuple(own.t().shape) if is_turned else tuple(own.shape))
    try:
        weight.data = (values.t() if is_turned else values).to(own.dtype)
        yield
    finally:
        weight.data = own


def _check_shape(path: str, values: Tensor, needed: tuple[int, ...]) -> None:
    if tuple(values.shape) != needed:
        raise UnsupportedModelError(f"the matrix for {path} is {list(values.shape)}, needed {list(needed)}")
