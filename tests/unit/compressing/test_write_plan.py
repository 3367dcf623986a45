"""What a plan says of its bytes and its matrices, against the folder that is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from layerlens.artifacts.compression import load_curves, save_curves
from layerlens.artifacts.formats import Format
from layerlens.errors import ConfigError, InfeasibleBudgetError
from layerlens.models.foreign import quiet
from tests.unit.workflow.compressions import LARGE_VOCABULARY, Place, place, tensor_bytes


def test_a_head_that_the_config_ties_and_the_checkpoint_does_not_stays_itself(tmp_path: Path) -> None:
    mine = place(tmp_path, "llama", **LARGE_VOCABULARY)
    tensors = load_file(mine.model / "model.safetensors")
    head = torch.randn(tensors["model.embed_tokens.weight"].shape)
    save_file({**tensors, "lm_head.weight": head}, mine.model / "model.safetensors", {"format": "pt"})
    plan = mine.compress(tmp_path / "out", bits_per_weight=24, keep=["head"], formats=["integer"], probes="off").plan
    assert plan is not None
    formats = {entry.layer: entry.scheme.format for entry in plan.layers}
    assert (formats["model.embed_tokens"], formats["lm_head"]) == (Format.INTEGER, Format.KEEP)
    inputs = torch.randint(5, 190, (2, 12), generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():
        before, after = (
            transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            for folder in (mine.model, tmp_path / "out")
        )
        assert torch.equal(after.lm_head.weight, head)
        found = [model(input_ids=inputs).logits.log_softmax(-1) for model in (after, before)]
    divergence = torch.nn.functional.kl_div(*found, log_target=True, reduction="none").sum(-1).mean()
    assert float(divergence) == pytest.approx(plan.measured[0].kl_nats, rel=1, abs=1e-4)


def encoder_with_dense(folder: Path) -> tuple[Place, int]:
    """A sentence encoder with a module behind its transformer, and the bytes of that module."""
    mine = place(folder, "bert", hidden_size=128)
    dense = {"linear.weight": torch.randn(256, 128), "linear.bias": torch.zeros(256)}
    (mine.model / "2_Dense").mkdir()
    save_file(dense, mine.model / "2_Dense" / "model.safetensors")
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "2_Dense"}]
    (mine.model / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    return mine, sum(tensor.nbytes for tensor in dense.values())


def test_what_a_sentence_encoder_has_behind_its_transformer_counts(tmp_path: Path) -> None:
    mine, behind = encoder_with_dense(tmp_path)
    out = tmp_path / "out"
    limit = behind + int(0.6 * mine.size_bytes)
    plan = mine.compress(out, size=limit, probes="off").plan
    assert plan is not None
    assert tensor_bytes(out) + tensor_bytes(out / "2_Dense") == plan.size_bytes <= limit
    assert tensor_bytes(out / "2_Dense") == behind
    assert plan.model.size_bytes == mine.size_bytes + behind
    assert plan.model.num_parameters == plan.model.size_bytes // 4
    with pytest.raises(InfeasibleBudgetError, match="below the smallest possible"):
        mine.compress(tmp_path / "smaller", size=behind, dry_run=True)


def test_the_smallest_size_told_before_measuring_is_that_of_the_curves(tmp_path: Path) -> None:
    """The pooler is large, and no embedding passes through it."""
    mine = place(tmp_path, "bert", hidden_size=128, intermediate_size=32)
    policies: dict[str, Any] = {"widths": [4], "formats": ["integer"], "probes": "off"}
    told = mine.compress(tmp_path / "out", dry_run=True, bits_per_weight=32, **policies).facts["smallest"]
    smallest = told.split(" bytes")[0]
    size = int(smallest.replace(",", ""))
    plan = mine.compress(tmp_path / "out", size=size, **policies).plan
    assert plan is not None
    assert plan.size_bytes == tensor_bytes(tmp_path / "out") == size
    with pytest.raises(InfeasibleBudgetError, match=f"below the smallest possible, {smallest} bytes"):
        mine.compress(tmp_path / "out", dry_run=True, size=size - 1, **policies)


def test_curves_of_a_version_that_did_not_count_them_are_planned_from_to_the_byte(tmp_path: Path) -> None:
    mine, behind = encoder_with_dense(tmp_path)
    asked: dict[str, Any] = {"size": behind + int(0.6 * mine.size_bytes), "probes": "off", "widths": [8], "formats": ["integer"]}
    plan = mine.compress(tmp_path / "out", **asked).plan
    curves = load_curves(tmp_path / "out.curves")
    older = {
        "num_parameters": mine.size_bytes // 4,
        "size_bytes": mine.size_bytes,
        "other_bytes": curves.model.other_bytes - behind,
    }
    save_curves(tmp_path / "out.curves", curves.model_copy(update={"model": curves.model.model_copy(update=older)}))
    shutil.rmtree(tmp_path / "out")
    assert mine.compress(tmp_path / "out", **asked).plan == plan
    shutil.rmtree(tmp_path / "out")
    save_curves(tmp_path / "out.curves", curves)
    save_file({"linear.weight": torch.ones(8, 128)}, mine.model / "2_Dense" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"the modules behind the transformer of .* have changed since .*out\.curves was"):
        mine.compress(tmp_path / "out", **asked)
