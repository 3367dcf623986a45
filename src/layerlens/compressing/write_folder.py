"""Writing a compressed folder: one matrix in memory at a time, everything else copied byte for byte from the checkpoint.

    chosen matrix     its stored tensors under its own name: h.0.attn.c_attn.codes, .scales, .up, …
    half              `weight` cast to bfloat16, a few rows at a time
    all else          as the checkpoint has it; a tied matrix that is stored twice, once

The folder appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from layerlens.artifacts.compression import PLAN_FILE
from layerlens.artifacts.evaluation import EVALUATION_FILE
from layerlens.artifacts.formats import Format, Scheme
from layerlens.artifacts.validation import VALIDATION_FILE
from layerlens.compressing.folder_config import StoredMatrix, folder_config, write_config
from layerlens.compressing.stored_matrix import check_tensors
from layerlens.compressing.tensor_files import NAMES, SHARD_BYTES, TensorFiles, TensorShape, new_folder
from layerlens.errors import CheckpointError, ConfigError
from layerlens.models.checkpoint import CONFIG_FILE, Checkpoint
from layerlens.models.headers import ELEMENT_BYTES
from layerlens.models.sentence_modules import bytes_behind, modules_behind
from layerlens.models.streamed.tensor_reader import TORCH_DTYPES, TensorReader, as_bytes
from layerlens.nn.stored_form import is_plain, stored_tensors

#: Bytes of a tensor that are copied at once.
_COPY_BYTES = 16 << 20
#: What is copied beside the weights: tokenizer, processor, generation settings, pooling of a sentence encoder, licence.
_COPIED = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".bpe", ".md", "LICENSE", "NOTICE")
_WEIGHTS = ".safetensors"
#: Where a tokenizer keeps chat templates beside its first one.
_TEMPLATES = "additional_chat_templates"
#: What commands say of the folder that they were run on: it is not true of another one.
_TOLD = {CONFIG_FILE, PLAN_FILE, EVALUATION_FILE, VALIDATION_FILE}


@dataclass(frozen=True)
class ChosenMatrix:
    """A matrix and what it is stored as.

    Attributes:
        layer: What the caller calls it.
        tensor: Its name in the checkpoint, ending in `.weight`.
        scheme: How it is stored.
        out_features: Its rows.
        in_features: Its columns.
        is_transposed: The checkpoint has it as [in_features out_features].
        copies: Other tensors of the checkpoint that hold the same matrix; they are left out.
    """

    layer: str
    tensor: str
    scheme: Scheme
    out_features: int
    in_features: int
    is_transposed: bool = False
    copies: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its module, as the checkpoint's names have it."""
        return self.tensor.removesuffix(".weight")


def write_folder(
    out: Path,
    source: Checkpoint,
    chosen: Iterable[ChosenMatrix],
    stored: Iterable[tuple[str, Mapping[str, Tensor]]],
    *,
    unused: Collection[str] = (),
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
    size_bytes: int | None = None,
    may_replace: Callable[[], None] | None = None,
) -> int:
    """Write a compressed folder.

    Args:
        out: The folder; must not exist, or be empty, or hold what `may_replace` lets go.
        source: The checkpoint; not touched.
        chosen: Every matrix that is not kept; kept ones may be among them.
        stored: Layer and stored tensors (`stored_matrix.stored`) of each chosen matrix with codes or factors, in any order, one
            at a time; those of `keep` and `half` need not come and are passed over.
        unused: Tensors of the checkpoint that nobody loads (`matrices.unused_tensors`); they are left out.
        files: More files for the folder, by name.
        shard_bytes: Largest weight file.
        size_bytes: What all tensors take by the plan, where there is one; nothing of another size is ever left.
        may_replace: As `new_folder` has it.

    Returns:
        Bytes of all tensors, those of a sentence encoder's modules behind the transformer among them.

    Raises:
        CheckpointError: a tensor that is copied is not finite or cannot be read.
        ConfigError: the tensors of a matrix are missing, not contiguous, not finite or not what its scheme stores; `out` is the
            checkpoint's folder, holds files, or cannot be written.
    """
    chosen = list(chosen)
    matrices = {matrix.layer: matrix for matrix in chosen if matrix.scheme.format is not Format.KEEP}
    copies = {copy for matrix in chosen for copy in matrix.copies} | set(unused)
    with new_folder(out, source.folder, may_replace) as folder:
        tensors = _tensors(source, matrices, copies)
        weights = TensorFiles(folder, tensors, shard_bytes)
        reader = TensorReader(source.tensors)
        try:
            for name in tensors:
                if name in source.tensors:
                    _copy(reader, weights, name, tensors[name])
            for layer, values in stored:
                _write_matrix(weights, matrices.get(layer), layer, values)
            if weights.missing:
                raise ConfigError(f"no tensors came for {len(weights.missing)} of them, among them {weights.missing[0]}")
            weights.close()
        finally:
            weights.abandon()
            reader.close()
        entries = {matrix.path: _entry(matrix) for matrix in matrices.values()}
        write_config(folder / CONFIG_FILE, folder_config(source.config, entries, _dtype(source)))
        copy_other_files(source.folder, folder)
        written = weights.num_bytes + bytes_behind(folder)
        if size_bytes is not None and written != size_bytes:
            raise AssertionError(f"wrote {written} bytes of tensors where the plan says {size_bytes}")
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
    return written


def copy_other_files(source: Path, folder: Path) -> None:
    """Copy what a model folder has beside its weights and its config: tokenizer, processor, generation settings, …

    What LayerLens wrote of the folder itself (its plan, its evaluation) stays behind.

    Of its subfolders only that of more chat templates, and those of a sentence encoder's modules behind the transformer, whole.
    """
    for file in sorted(source.glob("*")):
        is_wanted = file.name.endswith(_COPIED) and not file.name.endswith(".index.json") and file.name not in _TOLD
        if file.is_file() and is_wanted and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    for name in (_TEMPLATES, *modules_behind(source)):
        for file in sorted((source / name).glob("*")):
            if file.is_file() and file.name.endswith((*_COPIED, _WEIGHTS)):
                (folder / name).mkdir(exist_ok=True)
                shutil.copyfile(file, folder / name / file.name)


def _tensors(source: Checkpoint, matrices: Mapping[str, ChosenMatrix], copies: set[str]) -> dict[str, TensorShape]:
    """Every tensor of the folder: in the checkpoint's order, each matrix's own in place of its weight."""
    by_tensor = {matrix.tensor: matrix for matrix in matrices.values()}
    if unknown := sorted((by_tensor.keys() | copies) - source.tensors.keys()):
        raise ConfigError(f"{source.folder} has no tensor {unknown[0]}; give the checkpoint that the plan was made for")
    tensors: dict[str, TensorShape] = {}
    for name, header in source.tensors.items():
        matrix = by_tensor.get(name)
        if name in copies:
            continue
        if matrix is None:
            tensors[name] = TensorShape(header.dtype, header.shape)
            continue
        shape = (matrix.in_features, matrix.out_features) if matrix.is_transposed else (matrix.out_features, matrix.in_features)
        if not name.endswith(".weight") or header.shape != shape:
            raise ConfigError(f"{name} of {source.folder} is {list(header.shape)}, the plan has a weight {list(shape)}")
        if matrix.scheme.format is Format.HALF:
            tensors[name] = TensorShape("BF16", header.shape)
            continue
        for own, (own_shape, dtype) in stored_tensors(matrix.scheme, matrix.out_features, matrix.in_features).items():
            tensors[f"{matrix.path}.{own}"] = TensorShape(NAMES[dtype], own_shape)
    return tensors


def _copy(reader: TensorReader, weights: TensorFiles, name: str, target: TensorShape) -> None:
    """Copy a tensor in pieces of whole rows, as it is or in bfloat16."""
    header = reader.header(name)
    row_bytes = prod(header.shape[1:]) * ELEMENT_BYTES[header.dtype]
    num_rows = header.shape[0] if header.shape else 1
    step = max(1, _COPY_BYTES // max(1, row_bytes))
    for start in range(0, max(1, num_rows), step):
        values = reader.read(name, start, start + step)
        if values.is_floating_point() and values.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(values)):
            raise CheckpointError(f"NaN or infinite weights in {name}; use an undamaged checkpoint")
        if target.dtype != header.dtype:
            values = values.to(torch.bfloat16)
        weights.write(name, as_bytes(values), start * prod(target.shape[1:]) * ELEMENT_BYTES[target.dtype])


def _write_matrix(weights: TensorFiles, matrix: ChosenMatrix | None, layer: str, values: Mapping[str, Tensor]) -> None:
    if matrix is None or is_plain(matrix.scheme):
        return
    if faults := check_tensors(matrix.scheme, values, matrix.out_features, matrix.in_features):
        raise ConfigError.of([f"{layer}: {fault}" for fault in faults])
    for own, tensor in values.items():
        weights.write_tensor(f"{matrix.path}.{own}", tensor)


def _dtype(source: Checkpoint) -> str:
    """The type that transformers takes from a checkpoint's tensors: that of the first one in floating point."""
    types = (TORCH_DTYPES.get(header.dtype, torch.uint8) for header in source.tensors.values())
    return str(next((dtype for dtype in types if dtype.is_floating_point), torch.float32)).removeprefix("torch.")


def _entry(matrix: ChosenMatrix) -> StoredMatrix:
    return StoredMatrix(
        scheme=matrix.scheme,
        out_features=matrix.out_features,
        in_features=matrix.in_features,
        is_transposed=matrix.is_transposed,
    )
