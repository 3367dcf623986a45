"""The config of a compressed folder, and its faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from layerlens.artifacts.formats import HALF, integer, integer_low_rank
from layerlens.compressing.folder_config import (
    LOADING_HINT,
    StoredMatrix,
    folder_config,
    original_config,
    read_matrices,
    restore_hint,
)
from layerlens.errors import ManifestError
from layerlens.models.checkpoint import is_compressed

MATRICES = {
    "h.0.c_attn": StoredMatrix(scheme=integer_low_rank(3, 16, 8, 32), out_features=96, in_features=32, is_transposed=True),
    "h.0.c_proj": StoredMatrix(scheme=HALF, out_features=32, in_features=32),
}


def test_matrices_are_read_as_they_were_written_and_the_original_config_comes_back() -> None:
    original = {"model_type": "gpt2", "n_embd": 32, "dtype": "bfloat16"}
    config = json.loads(json.dumps(folder_config(original, MATRICES, "float32")))
    assert is_compressed(config)
    quantization = config["quantization_config"]
    assert quantization["quant_method"] == "layerlens"
    assert read_matrices(quantization["version"], quantization["matrices"]) == MATRICES
    assert original_config(config) == original
    assert not is_compressed(original)
    assert not is_compressed({"quantization_config": {"quant_method": "gptq"}})


def test_the_hint_says_what_to_install_and_what_to_import_and_is_no_weight_file() -> None:
    assert "pip install layerlens" in LOADING_HINT
    assert "import layerlens" in LOADING_HINT
    assert not LOADING_HINT.endswith((".safetensors", ".json", ".bin"))


@pytest.mark.parametrize(
    ("named", "expected"), [({"torch_dtype": "float16"}, "float16"), ({"torch_dtype": None}, "float32"), ({}, "float32")]
)
def test_older_transformers_take_the_sentence_for_a_type_and_later_ones_find_the_type_beside_it(
    named: dict[str, str | None], expected: str
) -> None:
    config = folder_config({"model_type": "gpt2", **named}, MATRICES, "float32")
    # What transformers before 4.56 does with the key.
    with pytest.raises(AttributeError, match="import layerlens"):
        getattr(torch, config["torch_dtype"])
    assert config["dtype"] == expected
    assert AutoConfig.for_model(**config).dtype is getattr(torch, expected)
    assert original_config(config) == {"model_type": "gpt2", "dtype": expected}


def test_what_transformers_left_out_is_put_back_under_the_names_that_were_saved(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    quantization = {"quant_method": "layerlens", "version": 1, "matrices": {"transformer.h.0": {"in_features": 4}, "head": {}}}
    path.write_text(json.dumps({"model_type": "gpt2", "quantization_config": quantization}), encoding="utf-8")
    restore_hint(path, {"transformer.h.0": "h.0"})
    quantization["matrices"] = {"h.0": {"in_features": 4}, "head": {}}
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "model_type": "gpt2",
        "quantization_config": quantization,
        "transformers_weights": LOADING_HINT,
        "torch_dtype": LOADING_HINT,
    }
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_another_version_and_damaged_entries_are_named() -> None:
    with pytest.raises(ManifestError, match="version 2 of the format, this LayerLens reads 1"):
        read_matrices(2, {})
    with pytest.raises(ManifestError, match=r"quantization_config, a\.b: out_features"):
        read_matrices(1, {"a.b": {"scheme": integer(4).model_dump(), "in_features": 4}})
