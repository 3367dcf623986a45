"""A merged LoRA is the adapted model in an ordinary checkpoint; what no weight can take is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import layerlens
from layerlens import cli
from layerlens.adapting.attach import attached
from layerlens.adapting.save import save_adapter
from layerlens.artifacts.plan import save_plan
from layerlens.errors import CheckpointError, ConfigError, ManifestError
from layerlens.models.load import AUTO_CLASSES
from layerlens.words import Method, TaskKind
from layerlens.workflow.merge import _check_whole, merge
from tests.unit.adapting.mixed_plans import inputs_of, logits_of, mixed_plan, randomise_
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, make_plan, tiny_task_model
from tests.unit.adapting.test_sidecar import base_of, saved
from tests.unit.workflow.compressions import tensor_bytes


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_merged_model_loads_without_any_adapter_and_has_the_same_logits(family: str, tmp_path: Path) -> None:
    kind = kind_of(family)
    folder, logits = saved(tmp_path, family, (Method.LORA,))
    base = logits_of(base_of(tmp_path / "base", kind), kind)
    save_plan(folder.parent / "plan.json", mixed_plan(tiny_task_model(family, tmp_path / "base", kind), kind, (Method.LORA,)))
    out = layerlens.merge(folder, tmp_path / "merged").folder
    merged = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(out)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(logits_of(merged, kind), logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, base, atol=1e-2)
    assert {"config.json", "model.safetensors"} <= {path.name for path in out.iterdir()}
    assert (out / "tokenizer.json").exists() or (out / "preprocessor_config.json").exists()


def test_a_model_that_makes_its_positions_after_its_pad_token_is_merged_with_its_own(tmp_path: Path) -> None:
    kind = TaskKind.CAUSAL_LM
    task_model = tiny_task_model("xglm", tmp_path / "base", kind)
    plan = make_plan(task_model, kind, 2)
    with attached(task_model.model, plan, seed=0) as adapted:
        randomise_(adapted)
        save_adapter(tmp_path / "adapter", adapted, plan, task_model)
        logits = logits_of(adapted, kind)
    merged = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "adapter", tmp_path / "merged").folder)
    torch.testing.assert_close(logits_of(merged, kind), logits, rtol=1e-4, atol=1e-4)


def test_a_body_that_was_renamed_on_loading_is_found_again(tmp_path: Path) -> None:
    kind = TaskKind.QUESTION_ANSWERING
    task_model = tiny_task_model("llama", tmp_path / "base", kind)
    plan = make_plan(task_model, kind, 2)
    with attached(task_model.model, plan, seed=0) as adapted, torch.no_grad():
        randomise_(adapted)
        save_adapter(tmp_path / "adapter", adapted, plan, task_model)
        expected = adapted.eval()(**inputs_of(kind))
    merged = transformers.AutoModelForQuestionAnswering.from_pretrained(merge(tmp_path / "adapter", tmp_path / "merged").folder)
    with torch.no_grad():
        found = merged.eval()(**inputs_of(kind))
    torch.testing.assert_close(found.start_logits, expected.start_logits, rtol=1e-4, atol=1e-4)
    # Had a part been lost, it would have been told.
    weights = tmp_path / "merged" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp.down" not in name}, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not find transformer\.layers\.1\.mlp\.down_proj\.weight of the merged Llama"):
        _check_whole(merged, tmp_path / "merged")


def test_bottlenecks_and_prefixes_are_not_merged_away(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    with pytest.raises(ConfigError, match="holds 4 bottleneck adapters and 2 prefixes, which no weight of the base can take"):
        merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_faults_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no adapter"):
        merge(tmp_path, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_folder_that_is_taken_is_told_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = saved(tmp_path, "bert", (Method.LORA,))
    monkeypatch.delattr("layerlens.workflow.merge.load_adapted")
    with pytest.raises(ConfigError, match="already holds files"):
        merge(folder, folder)


def test_the_command_writes_the_type_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = EVERY_FAMILY[0]
    kind = kind_of(family)
    folder, logits = saved(tmp_path, family, (Method.LORA,))
    base_of(tmp_path / "base", kind)
    save_plan(folder.parent / "plan.json", mixed_plan(tiny_task_model(family, tmp_path / "base", kind), kind, (Method.LORA,)))
    out = tmp_path / "merged"
    foretold = merge(folder, out, dtype="bfloat16", dry_run=True)
    assert not out.exists()
    assert cli.main(["merge", str(folder), "--out", str(out), "--dtype", "bfloat16"]) == cli.EXIT_DONE
    assert foretold.size_bytes == tensor_bytes(out)
    assert f"{tensor_bytes(out):,} bytes of bfloat16" in " ".join(capsys.readouterr().out.split())
    merged = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(out)
    assert merged.dtype is torch.bfloat16
    torch.testing.assert_close(logits_of(merged.float(), kind), logits, rtol=0.05, atol=0.05)


def test_an_unknown_type_is_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = saved(tmp_path, EVERY_FAMILY[0], (Method.LORA,))
    command = ["merge", str(folder), "--out", str(tmp_path / "merged"), "--dtype", "int8"]
    capsys.readouterr()
    assert cli.main(command) == cli.EXIT_BAD_INPUT
    assert capsys.readouterr().err.splitlines() == ["layerlens: --dtype: unknown type int8; there are float32, bfloat16, float16"]
    assert not (tmp_path / "merged").exists()
