"""Which matrices of a checkpoint may be compressed, and the bytes of everything else.

    blocks     every planned layer
    tables     the word embedding, where it is large; tables of positions and of token types stay as they are
    heads      the output embedding of a language model; a classifier or pooler, where it is large

An output embedding that is tied to the word embedding is one matrix: the table, with the head among its `tied` modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerlens.errors import CheckpointError, few
from layerlens.models.headers import ELEMENT_BYTES, TensorHeader, num_floats, tensor_bytes
from layerlens.models.sentence_modules import tensors_behind
from layerlens.models.streamed.load import StreamedModel
from layerlens.models.streamed.replacement import is_table
from layerlens.models.tree import POOLER, is_under
from layerlens.models.weights import is_planned_module
from layerlens.nn.row_scale import row_scale
from layerlens.words import Role

#: A table or head with fewer numbers stays as it is.
LARGE = 16_384


class Place(StrEnum):
    """Where a matrix stands, which decides how its sums are taken."""

    BLOCK = "block"
    TABLE = "table"
    HEAD = "head"
    TIED = "tied"


@dataclass(frozen=True)
class Matrix:
    """One matrix [out_features in_features]; a table is [rows features].

    Attributes:
        layer: Full module path; of a tied pair the table's.
        place: Where it stands.
        block: Index of its transformer block; none outside the blocks.
        role: What it does.
        out_features: Rows.
        in_features: Columns.
        tensor: Its name in the checkpoint.
        kept_element_bytes: Bytes of a number there.
        input_group: First layer that reads the same input.
        is_transposed: It is stored as [in_features out_features].
        tied: Other modules that hold this very matrix.
        copies: Other tensors of the checkpoint that hold it once more.
    """

    layer: str
    place: Place
    block: int | None
    role: Role
    out_features: int
    in_features: int
    tensor: str
    kept_element_bytes: int
    input_group: str
    is_transposed: bool = False
    tied: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes in the checkpoint."""
        return self.out_features * self.in_features * self.kept_element_bytes


@dataclass(frozen=True)
class CheckpointSize:
    """How large a checkpoint is, with a sentence encoder's modules behind the transformer, told from its headers alone.

    Attributes:
        num_parameters: Floating-point numbers of all tensors; a tied matrix that is stored twice counts once.
        size_bytes: Bytes of all tensors, as they lie there.
        other_bytes: Bytes of what is no `Matrix`, without the second copy of a tied one.
    """

    num_parameters: int
    size_bytes: int
    other_bytes: int


def matrices_of(model: StreamedModel) -> list[Matrix]:
    """Every matrix that may be compressed: the word embedding, the blocks' layers in forward order, the heads.

    Parameters that the checkpoint lacks (a new head) are left out: there is nothing to compress.
    """
    tables, heads = _table(model), list(_heads(model))
    shared = {stored: path for path, stored in tables}
    tied = {stored: path for path, stored, _ in heads if stored in shared}
    matrices = [_outside(model, path, stored, Role.EMBEDDING, tied.get(stored)) for path, stored in tables]
    for spec in model.layout.layers:
        stored = model.stored_names[f"{spec.layer}.weight"]
        matrices.append(
            Matrix(
                layer=spec.layer,
                place=Place.BLOCK,
                block=spec.block,
                role=spec.role,
                out_features=spec.out_features,
                in_features=spec.in_features,
                tensor=stored,
                kept_element_bytes=_element_bytes(_header(model, stored)),
                input_group=spec.input_group,
                is_transposed=spec.is_transposed,
            )
        )
    return matrices + [_outside(model, path, stored, role, None) for path, stored, role in heads if stored not in tied]


def read_matrix(model: StreamedModel, matrix: Matrix) -> Float[Tensor, "out_features in_features"]:
    """Read a matrix from the checkpoint, in the type it is stored in.

    Raises:
        CheckpointError: it cannot be read, or holds NaN or infinities.
    """
    values = model.state.reader.read(matrix.tensor)
    # Minimum and maximum carry NaN and infinities along and need no copy of the tensor.
    if not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
        raise CheckpointError(f"NaN or infinite weights in {matrix.tensor}; use an undamaged checkpoint")
    return (values.T if matrix.is_transposed else values).contiguous()


def unused_tensors(model: StreamedModel) -> frozenset[str]:
    """Tensors of the checkpoint that transformers makes itself or never loads, such as the causal masks of old GPT-2 files.

    They are no parameters, and a compressed folder is without them. For some families the layers that predict several tokens are
    among them, which transformers passes over too. A tensor that another architecture of the family would load
    (a pooler, a head) is none of them.
    """
    module = model.model
    persistent = module.state_dict().keys()
    made = [name for name, _ in module.named_buffers() if name not in persistent]
    patterns = [re.compile(pattern) for pattern in getattr(module.base_model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    like_made = [
        name
        for name in model.checkpoint.tensors.keys() - set(model.stored_names.values())
        if _is_any(name, made) or any(pattern.search(name) for pattern in patterns)
    ]
    # Patterns match parameters too: attn.bias is part of attn.c_attn.bias.
    return frozenset(name for name in like_made if not _is_any(name, persistent))


def unused_told(model: StreamedModel) -> list[str]:
    """One sentence on what a compressed folder is without: prediction heads for several tokens are such, not only masks."""
    unused = sorted(unused_tensors(model))
    return [f"tensors that transformers never loads are left out ({len(unused)}): {few(unused)}"] if unused else []


def _is_any(stored: str, names: Iterable[str]) -> bool:
    """Whether a stored tensor bears one of the names, with or without the prefix of the base model."""
    return any(name == stored or name.endswith(f".{stored}") or stored.endswith(f".{name}") for name in names)


def checkpoint_size(model: StreamedModel, matrices: list[Matrix]) -> CheckpointSize:
    """Count a checkpoint's parameters and bytes, exactly as its files have them; unused tensors are no parameters.

    Raises:
        CheckpointError: a file of a sentence encoder's modules is damaged, or a tensor is of a type of unknown width.
    """
    tensors = {**model.checkpoint.tensors, **tensors_behind(model.checkpoint.folder)}
    left_out = {copy for matrix in matrices for copy in matrix.copies} | unused_tensors(model)
    used = {name: header for name, header in tensors.items() if name not in left_out}
    return CheckpointSize(
        num_parameters=num_floats(used),
        size_bytes=tensor_bytes(tensors),
        other_bytes=tensor_bytes(used) - sum(matrix.num_bytes for matrix in matrices),
    )


def _table(model: StreamedModel) -> list[tuple[str, str]]:
    """Path and stored name of the word embedding, where it is a large table of the checkpoint; else nothing."""
    try:
        table = model.model.get_input_embeddings()
    except NotImplementedError:
        # What transformers raises of a vision model without a module that it takes for one, as ConvNeXt.
        return []
    path = next((path for path, module in model.model.named_modules() if module is table), None)
    stored = model.stored_names.get(f"{path}.weight")
    # A table that does more than scale its rows is not known to LayerLens's own in its place.
    if path is None or stored is None or row_scale(table) is None or prod(_header(model, stored).shape) < LARGE:
        return []
    return [(path, stored)]


def _heads(model: StreamedModel) -> Iterator[tuple[str, str, Role]]:
    """Path, stored name and role of the output embedding, and of large linear layers of the task head."""
    outputs = model.model.get_output_embeddings()
    tables = {model.stored_names.get(f"{path}.weight") for path, module in model.model.named_modules() if is_table(module)}
    shared = {stored for _, stored in _table(model)}
    for path, module in model.model.named_modules():
        stored = model.stored_names.get(f"{path}.weight")
        if stored is None or prod(_header(model, stored).shape) < LARGE or stored in tables - shared:
            continue
        if module is outputs:
            yield path, stored, Role.HEAD
            continue
        is_linear = isinstance(module, nn.Linear) and is_planned_module(module)
        if is_linear and is_under(path, model.layout.head) and f"{path}.weight" not in model.new_parameters:
            yield path, stored, Role.POOLER if POOLER in path.split(".") else Role.HEAD


def _outside(model: StreamedModel, path: str, stored: str, role: Role, tied: str | None) -> Matrix:
    header = _header(model, stored)
    # A file may hold a tied matrix twice, by its module's own name.
    copies = [name for name in (f"{tied}.weight", f"{path}.weight") if tied and name != stored]
    place = Place.TIED if tied else Place.TABLE if role is Role.EMBEDDING else Place.HEAD
    return Matrix(
        layer=path,
        place=place,
        block=None,
        role=role,
        out_features=header.shape[0],
        in_features=header.shape[1],
        tensor=stored,
        kept_element_bytes=_element_bytes(header),
        input_group=path,
        tied=(tied,) if tied else (),
        copies=tuple(name for name in copies if name in model.checkpoint.tensors),
    )


def _header(model: StreamedModel, stored: str) -> TensorHeader:
    return model.checkpoint.tensors[stored]


def _element_bytes(header: TensorHeader) -> int:
    return ELEMENT_BYTES[header.dtype]
