"""A merged LoRA is the adapted model in an ordinary checkpoint; what no weight can take is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import layerlens
from layerlens.artifacts.plan import save_plan
from layerlens.errors import ConfigError, ManifestError
from layerlens.models.load import AUTO_CLASSES
from layerlens.words import Method
from layerlens.workflow.merge import merge
from tests.unit.adapting.mixed_plans import logits_of, mixed_plan
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, tiny_task_model
from tests.unit.adapting.test_sidecar import base_of, saved


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_merged_model_loads_without_any_adapter_and_has_the_same_logits(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    folder, logits = saved(tmp_path, family, (Method.LORA,))
    base = logits_of(base_of(tmp_path / "base", kind), kind)
    save_plan(folder.parent / "plan.json", mixed_plan(tiny_task_model(family, tmp_path / "base", kind), kind, (Method.LORA,)))
    out = layerlens.merge(folder, tmp_path / "merged")
    merged = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(out)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits_of(merged, kind), logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, base, atol=1e-2)
    assert {"config.json", "model.safetensors"} <= {path.name for path in out.iterdir()}
    assert (out / "tokenizer.json").exists() or (out / "preprocessor_config.json").exists()


def test_bottlenecks_and_prefixes_are_not_merged_away(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    with pytest.raises(ConfigError, match="holds 4 bottleneck adapters and 2 prefixes, which no weight of the base can take"):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_faults_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no adapter"):
        merge(tmp_path, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
