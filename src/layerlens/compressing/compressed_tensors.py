"""From a compressed folder to one in the `compressed-tensors` format, which transformers and servers read without LayerLens.

    int8, int4      weight_packed [out, ⌈in·bits/32⌉] int32, weight_scale [out, groups], weight_shape [2]
    keep, half      weight, as it is

Format `pack-quantized`, symmetric, by groups (or one scale for a row that is one group): code c is stored as c + 2^(bits−1), the
first in the lowest bits of a word. It has no factors, and of the widths its readers share only 8 and 4; matrices of other modules
than Linear, and tied ones, are refused too.

Source: https://github.com/vllm-project/compressed-tensors; written for its version 0.20.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Int8, Int32
from torch import Tensor, nn

from layerlens.artifacts.formats import Format
from layerlens.compressing.folder_config import QUANTIZATION_KEY, StoredMatrix, write_config
from layerlens.compressing.loaded_names import places_of
from layerlens.compressing.open_folder import CompressedFolder, open_compressed
from layerlens.compressing.tensor_files import SHARD_BYTES, TensorFiles, TensorShape, check_output, new_folder
from layerlens.compressing.write_folder import copy_other_files
from layerlens.errors import UnsupportedModelError
from layerlens.linalg.bit_planes import unpack_codes
from layerlens.models.checkpoint import CONFIG_FILE
from layerlens.models.sentence_modules import bytes_behind
from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.nn.stored_form import coded_shapes, is_plain

#: Widths that every reader of the format packs alike.
_BITS = (8, 4)


def write_compressed_tensors(folder: Path, out: Path, *, shard_bytes: int = SHARD_BYTES, dry_run: bool = False) -> int:
    """Write a compressed folder in the `compressed-tensors` format.

    Args:
        folder: A compressed folder; not touched.
        out: The new folder; must not exist, or be empty.
        shard_bytes: Largest weight file.
        dry_run: Check everything and count the bytes, but write nothing.

    Returns:
        Bytes of all tensors.

    Raises:
        CheckpointError: `folder` is no compressed folder, or damaged.
        ConfigError: `out` is `folder`, holds files, or cannot be written.
        UnsupportedModelError: the format cannot say how a matrix is stored; every such matrix is counted, the first are named.
    """
    source = open_compressed(folder)
    coded = {path: matrix for path, matrix in source.matrices.items() if not is_plain(matrix.scheme)}
    model = _skeleton(source)
    places = places_of(model, coded)
    _refuse(source, coded, model, places)
    tensors: dict[str, TensorShape] = {}
    for name, header in source.tensors.items():
        path, _, own = name.rpartition(".")
        if path not in coded or own not in ("codes", "scales"):
            tensors[name] = TensorShape(header.dtype, header.shape)
        elif own == "codes":
            matrix = coded[path]
            words = -(-matrix.in_features * matrix.scheme.bits // 32)
            tensors[f"{path}.weight_packed"] = TensorShape("I32", (matrix.out_features, words))
            tensors[f"{path}.weight_shape"] = TensorShape("I64", (2,))
        else:
            tensors[f"{path}.weight_scale"] = TensorShape(header.dtype, header.shape)
    if dry_run:
        check_output(out, folder)
        return sum(tensor.num_bytes for tensor in tensors.values()) + bytes_behind(folder)
    with new_folder(out, folder) as target:
        weights = TensorFiles(target, tensors, shard_bytes)
        reader = TensorReader(source.tensors)
        try:
            for name in tensors:
                path, _, own = name.rpartition(".")
                weights.write_tensor(name, _values(reader, path, own, coded[path]) if path in coded else reader.read(name))
            weights.close()
        finally:
            weights.abandon()
            reader.close()
        prefix = f"{model.base_model_prefix}."
        targets = {path: place.removeprefix(prefix) for path, place in places.items()}
        write_config(target / CONFIG_FILE, {**source.config, QUANTIZATION_KEY: _quantization(coded, targets)})
        copy_other_files(folder, target)
        return weights.num_bytes + bytes_behind(target)


def _values(reader: TensorReader, path: str, own: str, matrix: StoredMatrix) -> Tensor:
    if own == "weight_shape":
        return torch.tensor([matrix.out_features, matrix.in_features])
    if own == "weight_scale":
        return reader.read(f"{path}.scales")
    if own != "weight_packed":
        return reader.read(f"{path}.{own}")
    shape = coded_shapes(matrix.scheme, matrix.out_features, matrix.in_features)["codes"]
    codes = unpack_codes(reader.read(f"{path}.codes"), shape.bits, shape.padded)
    return packed_words(codes[:, : matrix.in_features], matrix.scheme.bits)


def packed_words(codes: Int8[Tensor, "rows features"], bits: int) -> Int32[Tensor, "rows words"]:
    """Pack codes of 8 or 4 bits into words, the first code in the lowest bits; the last word is filled up with zeros."""
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    unsigned = nn.functional.pad(unsigned, (0, -codes.shape[1] % (32 // bits)))
    if bits == 4:
        unsigned = unsigned[:, ::2] | (unsigned[:, 1::2] << 4)
    return unsigned.contiguous().view(torch.int32)


def _skeleton(source: CompressedFolder) -> Any:
    """The model that the config names, without weights: its modules' names and kinds are wanted."""
    config = transformers.AutoConfig.for_model(**source.config)
    names = source.config.get("architectures") or []
    kind = getattr(transformers, names[0], None) if names else None
    with torch.device("meta"):
        return kind(config) if kind is not None else transformers.AutoModel.from_config(config)


def _refuse(
    source: CompressedFolder, coded: Mapping[str, StoredMatrix], model: transformers.PreTrainedModel, places: Mapping[str, str]
) -> None:
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    faults = []
    for path, matrix in coded.items():
        scheme, module = matrix.scheme, model.get_submodule(places[path]) if path in places else None
        kind = type(module).__name__
        if scheme.format is not Format.INTEGER or scheme.bits not in _BITS:
            faults.append(f"{path} is {scheme.name}, needed int8, int4, half or keep")
        elif type(module) is not nn.Linear:
            faults.append(f"{path} is {'no module of the config' if module is None else f'of kind {kind}'}, needed a Linear")
        elif f"{places[path]}.weight" in tied:
            faults.append(f"{path} is tied to another module, needed one of its own")
        elif matrix.in_features % scheme.group_size and matrix.in_features > scheme.group_size:
            faults.append(f"{path} has {matrix.in_features} inputs, needed whole groups of {scheme.group_size}")
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UnsupportedModelError(
            f"compressed-tensors cannot say how {source.folder} is stored: {'; '.join(faults[:3])}{more}; keep these matrices as "
            "they are in the plan, or export a dense checkpoint"
        )


def _quantization(coded: Mapping[str, StoredMatrix], targets: Mapping[str, str]) -> dict[str, Any]:
    """`quantization_config`: one group of modules for each width and group size."""
    by_scheme: dict[tuple[int, int | None], list[str]] = {}
    for path, matrix in coded.items():
        group_size = None if matrix.in_features <= matrix.scheme.group_size else matrix.scheme.group_size
        # A task model has a prefix before what the base model has, or the other way round.
        by_scheme.setdefault((matrix.scheme.bits, group_size), []).append(f"re:^(.+[.])?{re.escape(targets[path])}$")
    groups = {
        f"group_{number}": {
            "targets": names,
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": True,
                "strategy": "channel" if group_size is None else "group",
                "group_size": group_size,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
        for number, ((bits, group_size), names) in enumerate(sorted(by_scheme.items(), key=str))
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [],
    }
