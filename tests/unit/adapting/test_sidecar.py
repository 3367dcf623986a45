"""A mixed adapter comes back with the very logits it was saved with, on its own base alone, and plain PEFT stops at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaForQuestionAnswering, PreTrainedModel

import layerlens
from layerlens.adapting.attach import attached
from layerlens.adapting.load import load_adapted
from layerlens.adapting.lora import peft_warnings_hidden
from layerlens.adapting.save import save_adapter
from layerlens.adapting.sidecar import read_sidecar
from layerlens.artifacts.plan import save_plan
from layerlens.errors import CheckpointError, ConfigError, ManifestError
from layerlens.models.load import AUTO_CLASSES
from layerlens.words import Method, TaskKind
from tests.unit.adapting.mixed_plans import PREFIX_FAMILIES, inputs_of, logits_of, mixed_plan, randomise_
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, make_plan, tiny_task_model

KIND = TaskKind.CLASSIFICATION
ALL = (Method.LORA, Method.ADAPTER, Method.PREFIX)


def saved(folder: Path, family: str = "bert", methods: tuple[Method, ...] = ALL) -> tuple[Path, Tensor]:
    """An adapter folder with moved parameters, and the logits that it was saved with."""
    kind = kind_of(family)
    if family not in PREFIX_FAMILIES:
        methods = tuple(method for method in methods if method is not Method.PREFIX)
    task_model = tiny_task_model(family, folder / "base", kind)
    plan = mixed_plan(task_model, kind, methods)
    with attached(task_model.model, plan, seed=0) as adapted:
        randomise_(adapted)
        save_adapter(folder / "run" / "adapter", adapted, plan, task_model)
        return folder / "run" / "adapter", logits_of(adapted, kind)


def base_of(folder: Path, kind: TaskKind = KIND) -> PreTrainedModel:
    labels = {} if kind is TaskKind.CAUSAL_LM else {"num_labels": 3}
    return getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(folder, **labels)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_mixed_adapter_comes_back_with_identical_logits(family: str, tmp_path: Path) -> None:
    folder, logits = saved(tmp_path, family)
    assert torch.equal(logits_of(load_adapted(folder), kind_of(family)), logits)


@pytest.mark.parametrize("methods", [(Method.ADAPTER,), (Method.PREFIX,), (Method.LORA, Method.PREFIX)])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_mix_comes_back_with_identical_logits(family: str, methods: tuple[Method, ...], tmp_path: Path) -> None:
    folder, logits = saved(tmp_path, family, methods)
    # The folder that `tune` wrote stands for the adapter in it.
    assert torch.equal(logits_of(load_adapted(folder.parent), kind_of(family)), logits)


def test_it_loads_on_a_model_in_memory_and_on_a_base_that_was_moved(tmp_path: Path) -> None:
    folder, logits = saved(tmp_path)
    assert torch.equal(logits_of(load_adapted(folder, base_of(tmp_path / "base")), KIND), logits)
    (tmp_path / "base").rename(tmp_path / "moved")
    assert torch.equal(logits_of(layerlens.load_adapted(folder, tmp_path / "moved"), KIND), logits)
    with pytest.raises(CheckpointError, match=r"names it as its base: give the base's new place"):
        load_adapted(folder)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_mixed_adapter_switched_off_leaves_the_base_alone(family: str, tmp_path: Path) -> None:
    (folder, logits), kind = saved(tmp_path, family), kind_of(family)
    model = base_of(tmp_path / "base", kind)
    alone = logits_of(model, kind)
    adapted = load_adapted(folder, model)
    with adapted.disable_adapter():
        assert torch.equal(logits_of(adapted, kind), alone)
    assert torch.equal(logits_of(adapted, kind), logits)


@pytest.mark.parametrize("methods", [ALL, (Method.LORA,), ()])
def test_a_loaded_adapter_trains_nothing_and_loads_once(methods: tuple[Method, ...], tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, methods=methods)
    model = base_of(tmp_path / "base")
    adapted = load_adapted(folder, model)
    assert not any(parameter.requires_grad for name, parameter in adapted.named_parameters() if "layerlens" in name)
    assert not adapted.training
    with pytest.raises(ManifestError, match="already carries an adapter; load it anew"):
        load_adapted(folder, model)
    with pytest.raises(ConfigError, match=r"a PeftModel\w* is no base model"):
        load_adapted(folder, adapted)


@pytest.mark.parametrize("methods", [ALL, (Method.LORA,)])
def test_another_base_is_refused_by_its_hash_in_one_line(methods: tuple[Method, ...], tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, methods=methods)
    # The same shapes and the same place, but other weights.
    tiny_task_model("bert", tmp_path / "other", KIND, seed=9)
    with pytest.raises(ManifestError, match="was trained on another base model") as error:
        load_adapted(folder, base_of(tmp_path / "other"))
    assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "other").rename(tmp_path / "base")
    if methods == ALL:
        with pytest.raises(ManifestError, match="was trained on another base model"):
            load_adapted(folder)


def test_plain_peft_stops_at_a_mixed_adapter_and_says_what_to_call(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    sentence = r"4 bottleneck adapters and 2 prefixes that plain PEFT would drop: load this folder with layerlens\.load_adapted"
    with pytest.raises(KeyError, match=sentence):
        PeftModel.from_pretrained(base_of(tmp_path / "base"), folder)
    with pytest.raises(KeyError, match=sentence):
        base_of(tmp_path / "base").load_adapter(str(folder))
    with pytest.raises(KeyError, match=sentence):
        AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", ["save_pretrained", "merge_and_unload", "unload"])
def test_what_would_drop_parts_of_a_loaded_mix_in_silence_is_refused(name: str, tmp_path: Path) -> None:
    folder, logits = saved(tmp_path)
    adapted = load_adapted(folder)
    with pytest.raises(ConfigError, match=f"{name}: PEFT knows LoRA alone and would drop 4 bottleneck adapters and 2 prefixes"):
        getattr(adapted, name)(*([tmp_path / "lost"] if name == "save_pretrained" else []))
    assert not (tmp_path / "lost").exists()
    assert torch.equal(logits_of(adapted, KIND), logits)


def test_an_adapter_of_lora_alone_is_a_plain_peft_folder(tmp_path: Path) -> None:
    folder, logits = saved(tmp_path, methods=(Method.LORA,))
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    with peft_warnings_hidden():
        plain = PeftModel.from_pretrained(base_of(tmp_path / "base"), folder)
    assert torch.equal(logits_of(plain, KIND), logits)
    weights = folder / "adapter_model.safetensors"
    with safe_open(weights, framework="pt") as file:
        assert len(file.metadata()["base_model_sha256"]) == 64
    # It tells its task, wherever it lies.
    assert torch.equal(logits_of(load_adapted(shutil.copytree(folder, tmp_path / "elsewhere")), KIND), logits)
    # What PEFT itself has written tells none, so the model or the plan must.
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    assert torch.equal(logits_of(load_adapted(folder, base_of(tmp_path / "base")), KIND), logits)
    with pytest.raises(ConfigError, match="tells its task; load the base model for it"):
        load_adapted(folder)
    task_model = tiny_task_model("bert", tmp_path / "base", KIND)
    save_plan(folder.parent / "plan.json", mixed_plan(task_model, KIND, (Method.LORA,)))
    assert torch.equal(logits_of(load_adapted(folder.parent), KIND), logits)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    first, _ = saved(tmp_path)
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    again, _ = saved(tmp_path)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == before


def test_half_a_sidecar_is_an_error_and_not_a_smaller_adapter(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    description, weights = folder / "layerlens_sites.json", folder / "layerlens_sites.safetensors"
    weights.rename(tmp_path / "kept")
    with pytest.raises(ManifestError, match=r"holds layerlens_sites\.json without layerlens_sites\.safetensors"):
        load_adapted(folder)
    (tmp_path / "kept").rename(weights)
    text = description.read_text()
    description.unlink()
    with pytest.raises(ManifestError, match=r"without layerlens_sites\.json"):
        load_adapted(folder)
    weights.unlink()
    with pytest.raises(ManifestError, match="lacks its bottlenecks and prefixes"):
        load_adapted(folder)
    description.write_text(text)
    assert read_sidecar(tmp_path) is None


def test_weights_that_are_not_those_described_are_refused_and_nothing_is_left_on_the_model(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    weights = folder / "layerlens_sites.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("prefix.keys"))
    save_file({**tensors, name: tensors[name][:1].contiguous()}, weights)
    model = base_of(tmp_path / "base")
    with pytest.raises(ManifestError, match=r"does not hold what layerlens_sites\.json names: .*prefix\.keys"):
        load_adapted(folder, model)
    assert not any("layerlens" in name for name, _ in model.named_modules())
    weights.write_bytes(b"damaged")
    with pytest.raises(ManifestError, match="cannot read"):
        load_adapted(folder)


def test_a_model_that_was_never_loaded_from_anywhere_is_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path)
    config = base_of(tmp_path / "base").config
    # It names the right folder, but its weights are drawn.
    with pytest.raises(ManifestError, match=r"is not the model in .* any more"):
        load_adapted(folder, AutoModelForSequenceClassification.from_config(config))
    config.name_or_path = ""
    with pytest.raises(CheckpointError, match="cannot tell which base model this BertForSequenceClassification is"):
        load_adapted(folder, AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(ManifestError, match="holds no adapter"):
        load_adapted(tmp_path)


def test_a_base_that_was_changed_in_memory_is_refused_and_one_that_was_cast_is_not(tmp_path: Path) -> None:
    folder, logits = saved(tmp_path)
    model = base_of(tmp_path / "base")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[3, 5] += 1e-3
    with pytest.raises(ManifestError, match=r"encoder\.layer\.1\.output\.dense\.weight differs"):
        load_adapted(folder, model)
    half = load_adapted(folder, base_of(tmp_path / "base").to(torch.bfloat16))
    torch.testing.assert_close(logits_of(half, KIND).float(), logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("family", "change", "expected"),
    [
        # The files of this family call their tensors otherwise than the model does.
        ("vit", lambda model: model.vit.layers[1].mlp.fc1.weight[3].add_(1e-3), r"any more, vit\.layers\.1\.\S+ differs"),
        (
            "bert",
            lambda model: model.resize_token_embeddings(210),
            r"holds nothing that this Bert\S+ could have bert\.embeddings",
        ),
    ],
)
def test_a_matrix_without_a_counterpart_of_its_name_is_compared_all_the_same(
    family: str, change: Callable[[PreTrainedModel], object], expected: str, tmp_path: Path
) -> None:
    folder, _ = saved(tmp_path, family, (Method.LORA,))
    model = base_of(tmp_path / "base", kind_of(family))
    with torch.no_grad():
        change(model)
    with pytest.raises(ManifestError, match=expected):
        load_adapted(folder, model)


def test_a_body_that_transformers_has_drawn_is_refused(tmp_path: Path) -> None:
    task_model = tiny_task_model("llama", tmp_path / "base", TaskKind.QUESTION_ANSWERING)
    plan = make_plan(task_model, TaskKind.QUESTION_ANSWERING, 2)
    with attached(task_model.model, plan, seed=0) as adapted:
        save_adapter(tmp_path / "adapter", adapted, plan, task_model)
    # Left to itself, transformers looks for the body under another name than it is stored, and draws it.
    drawn = LlamaForQuestionAnswering.from_pretrained(tmp_path / "base")
    with pytest.raises(ManifestError, match=r"embed_tokens\.weight differs; load it anew, or give that place instead"):
        load_adapted(tmp_path / "adapter", drawn)
    assert load_adapted(tmp_path / "adapter", tmp_path / "base") is not None
    renamed = LlamaForQuestionAnswering.from_pretrained(tmp_path / "base", key_mapping={r"^model\.": "transformer."})
    assert load_adapted(tmp_path / "adapter", renamed) is not None


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_loaded_mix_generates_the_same_with_and_without_a_cache(family: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, family)
    adapted = load_adapted(folder)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    first = {name: values[:1] for name, values in inputs_of(TaskKind.CAUSAL_LM).items()}
    cached = adapted.generate(**first, **options, use_cache=True)
    assert cached.shape == (1, 11)
    assert torch.equal(cached, adapted.generate(**first, **options, use_cache=False))
