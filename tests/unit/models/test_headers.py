"""Headers are compared with what the safetensors library itself reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from layerlens.errors import CheckpointError
from layerlens.models.headers import read_headers

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.ones(2, 5, dtype=torch.bfloat16),
    "c": torch.zeros((), dtype=torch.int64),
    "d": torch.zeros(0, 3, dtype=torch.float16),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def write_raw(path: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_names_types_and_shapes_are_those_that_safetensors_reads(file: Path) -> None:
    headers = read_headers(file)
    with safe_open(file, framework="pt") as oracle:
        slices = {name: oracle.get_slice(name) for name in TENSORS}
        assert sorted(oracle.keys()) == sorted(TENSORS)
        expected = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    assert {name: (header.dtype, header.shape) for name, header in headers.items()} == expected
    assert {header.file for header in headers.values()} == {file}


def test_a_file_cut_anywhere_is_an_error_that_names_it(file: Path) -> None:
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="cut short") as caught:
            read_headers(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_with_bytes_too_many_is_an_error(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="longer than its header says"):
        read_headers(file)


def test_a_git_lfs_pointer_is_told_apart_from_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_headers(path)


@pytest.mark.parametrize(
    "header",
    [
        [1, 2],
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}},
        {"a": "nothing"},
    ],
)
def test_a_header_that_makes_no_sense_is_an_error(tmp_path: Path, header: object) -> None:
    with pytest.raises(CheckpointError, match="no readable safetensors header"):
        read_headers(write_raw(tmp_path / "model.safetensors", header, b"\0" * 8))


def test_a_header_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((4).to_bytes(8, "little") + b"\xff\xfe{{")
    with pytest.raises(CheckpointError, match="no readable safetensors header"):
        read_headers(path)


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        read_headers(tmp_path / "absent.safetensors")
