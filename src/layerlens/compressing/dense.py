"""From a compressed folder to an ordinary checkpoint, which loads without LayerLens: one matrix in memory at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layerlens.compressing.folder_config import StoredMatrix, write_config
from layerlens.compressing.open_folder import CompressedFolder, open_compressed
from layerlens.compressing.stored_matrix import restored
from layerlens.compressing.tensor_files import NAMES, SHARD_BYTES, TensorFiles, TensorShape, check_output, new_folder
from layerlens.compressing.write_folder import copy_other_files
from layerlens.errors import CheckpointError
from layerlens.models.checkpoint import CONFIG_FILE
from layerlens.models.sentence_modules import bytes_behind
from layerlens.models.streamed.tensor_reader import TORCH_DTYPES, TensorReader
from layerlens.nn.stored_form import is_plain, stored_tensors


def write_dense(
    folder: Path, out: Path, dtype: torch.dtype | None = None, *, shard_bytes: int = SHARD_BYTES, dry_run: bool = False
) -> int:
    """Write the checkpoint that a compressed folder stands for.

    Args:
        folder: A compressed folder; not touched.
        out: The new folder; must not exist, or be empty.
        dtype: Type of all floating-point tensors. As a default matrices get the type that the config names, and other tensors
            keep theirs.
        shard_bytes: Largest weight file.
        dry_run: Check everything and count the bytes, but write nothing.

    Returns:
        Bytes of all tensors.

    Raises:
        CheckpointError: `folder` is no compressed folder, or damaged.
        ConfigError: `out` is `folder`, holds files, or cannot be written.
    """
    source = open_compressed(folder)
    matrix_dtype = dtype or _config_dtype(source)
    plain = {f"{path}.weight": matrix for path, matrix in source.matrices.items() if is_plain(matrix.scheme)}
    coded = {path: matrix for path, matrix in source.matrices.items() if not is_plain(matrix.scheme)}
    first = {}
    own = set()
    for path, matrix in coded.items():
        names = [f"{path}.{name}" for name in stored_tensors(matrix.scheme, matrix.out_features, matrix.in_features)]
        if absent := [name for name in names if name not in source.tensors]:
            raise CheckpointError(f"{folder} lacks {absent[0]}; copy or download it again")
        first[names[0]] = path
        own.update(names)
    tensors: dict[str, TensorShape] = {}
    for name, header in source.tensors.items():
        if name in first:
            tensors[f"{first[name]}.weight"] = TensorShape(NAMES[matrix_dtype], _shape(coded[first[name]]))
        elif name not in own:
            is_float = TORCH_DTYPES[header.dtype].is_floating_point
            kept = NAMES[matrix_dtype] if name in plain else NAMES[dtype] if dtype else header.dtype
            tensors[name] = TensorShape(kept if is_float else header.dtype, header.shape)
    if dry_run:
        check_output(out, folder)
        return sum(tensor.num_bytes for tensor in tensors.values()) + bytes_behind(folder)
    with new_folder(out, folder) as target:
        weights = TensorFiles(target, tensors, shard_bytes)
        reader = TensorReader(source.tensors)
        try:
            for name, shape in tensors.items():
                path = name.removesuffix(".weight")
                values = _matrix(reader, path, coded[path]) if path in coded else reader.read(name)
                weights.write_tensor(name, values.to(TORCH_DTYPES[shape.dtype]).contiguous())
            weights.close()
        finally:
            weights.abandon()
            reader.close()
        named = {"dtype": str(dtype).removeprefix("torch.")} if dtype else {}
        write_config(target / CONFIG_FILE, {**source.config, **named})
        copy_other_files(folder, target)
        return weights.num_bytes + bytes_behind(target)


def _matrix(reader: TensorReader, path: str, matrix: StoredMatrix) -> Tensor:
    """A matrix in the orientation of the original."""
    names = stored_tensors(matrix.scheme, matrix.out_features, matrix.in_features)
    tensors = {name: reader.read(f"{path}.{name}") for name in names}
    dense = restored(matrix.scheme, tensors, matrix.out_features, matrix.in_features)
    return dense.t() if matrix.is_transposed else dense


def _shape(matrix: StoredMatrix) -> tuple[int, int]:
    shape = (matrix.out_features, matrix.in_features)
    return (shape[1], shape[0]) if matrix.is_transposed else shape


def _config_dtype(source: CompressedFolder) -> torch.dtype:
    name = source.config.get("dtype") or source.config.get("torch_dtype") or "float32"
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or dtype not in NAMES:
        raise CheckpointError(f"the config of {source.folder} names the type {name!r}; give one, such as float32")
    return dtype
