"""A compressed folder in a process of its own: loaded with LayerLens, refused in words without it; trained models stay good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from layerlens.artifacts.formats import integer
from layerlens.compressing.folder_config import LOADING_HINT
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.foreign import quiet
from tests.unit.compressing.folders import Compressed, compress, compress_tiny

#: Loads with each class and prints what came of it: a line for each.
_LOAD = """
import sys, transformers
for auto in sys.argv[2:]:
    try:
        model = getattr(transformers, auto).from_pretrained(sys.argv[1], **OPTIONS)
        print(auto, "loaded", sum(type(module).__module__.startswith("layerlens.") for module in model.modules()))
    except Exception as error:
        print(auto, type(error).__name__, error)
"""
_CLASSES = ("AutoModelForCausalLM", "AutoModel", "AutoModelForSequenceClassification", "LlamaForCausalLM")


def _run(folder: Path, *, before: str = "", options: str = "{}", verbosity: str = "error") -> list[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": verbosity, "OMP_NUM_THREADS": "1"}
    code = before + _LOAD.replace("OPTIONS", options)
    command = [sys.executable, "-c", code, str(folder), *_CLASSES]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress_tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("before", ["import layerlens\n", "import transformers, layerlens\n"], ids=["before", "after"])
def test_after_the_import_every_class_loads_the_folder(compressed: Compressed, before: str) -> None:
    lines = _run(compressed.folder, before=before)
    assert [line.split()[:2] for line in lines] == [[auto, "loaded"] for auto in _CLASSES]
    assert all(int(line.split()[2]) >= 10 for line in lines)


@pytest.mark.parametrize("options", ["{}", "{'ignore_mismatched_sizes': True, 'dtype': 'bfloat16'}"], ids=["plain", "lenient"])
@pytest.mark.parametrize("is_saved_again", [False, True], ids=["as written", "saved by transformers"])
def test_without_the_import_the_load_fails_and_says_what_to_install_and_import(
    compressed: Compressed, tmp_path: Path, options: str, is_saved_again: bool
) -> None:
    folder = compressed.folder
    if is_saved_again:
        with quiet():
            transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
        folder = tmp_path / "again"
    lines = _run(folder, options=options)
    assert len(lines) == len(_CLASSES)
    assert all("ValueError" in line and LOADING_HINT in line for line in lines)


@pytest.mark.parametrize("name", ["stdlib-llama", "stories260k"])
def test_a_trained_language_model_in_eight_bits_goes_on_as_the_original_does(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "models" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/models/{name} is not here")
    compressed = compress(open_checkpoint(str(folder)), tmp_path / "int8", [integer(8)])
    with quiet(), torch.no_grad():
        original, model = (
            transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, compressed.folder)
        )
        tokens = torch.arange(3, 67).view(1, -1)
        expected, found = (one(tokens).logits.log_softmax(-1) for one in (original, model))
    divergence = float((expected.exp() * (expected - found)).sum(-1).mean())
    assert 0 <= divergence < 1e-3
    assert float((expected.argmax(-1) == found.argmax(-1)).float().mean()) > 0.9
    assert compressed.size_bytes == compressed.planned_bytes


def test_a_trained_image_classifier_in_eight_bits_sees_what_the_original_sees(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "deit-tiny"
    if not folder.is_dir():
        pytest.skip("../shared/models/deit-tiny is not here")
    compressed = compress(open_checkpoint(str(folder)), tmp_path / "int8", [integer(8)])
    pixels = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        logits = [
            transformers.AutoModelForImageClassification.from_pretrained(path, dtype=torch.float32)(pixels).logits
            for path in (folder, compressed.folder)
        ]
    cosine = torch.nn.functional.cosine_similarity(logits[0] - logits[0].mean(), logits[1] - logits[1].mean())
    assert float(cosine.min()) > 0.98
