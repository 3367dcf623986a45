"""from_pretrained on a compressed folder, against the same folder written out as an ordinary checkpoint."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from layerlens.artifacts.formats import HALF, KEEP, Scheme, integer, integer_low_rank, low_rank, size_bytes
from layerlens.compressing.dense import write_dense
from layerlens.compressing.write_folder import ChosenMatrix, write_folder
from layerlens.errors import CheckpointError, ConfigError, ManifestError, UnsupportedModelError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.foreign import quiet
from layerlens.nn.quantised_embedding import QuantisedEmbedding
from layerlens.nn.stored_module import StoredModule
from layerlens.nn.tied_modules import TiedEmbedding, TiedLinear
from tests.tiny_models import save_tiny
from tests.unit.compressing.folders import Compressed, compress, compress_tiny, stored_matrices


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def _inputs(family: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(5, 200, (2, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _load(auto: str, folder: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_pretrained(folder, **options)
    model.config.pad_token_id = 0
    return model


def _output(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(**_inputs(family))[0]
    return output


def _bytes_of(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted([*folder.glob("*.safetensors"), folder / "config.json"])]


CASES = [
    ("llama", "AutoModelForCausalLM"),
    ("llama", "AutoModel"),
    ("llama", "AutoModelForSequenceClassification"),
    ("gpt2", "AutoModelForCausalLM"),
    ("gpt2", "AutoModel"),
    ("gpt_neo", "AutoModelForCausalLM"),
    ("qwen2", "AutoModelForCausalLM"),
    ("gemma2", "AutoModelForCausalLM"),
    ("bert", "AutoModel"),
    ("bert", "AutoModelForSequenceClassification"),
    ("bert", "AutoModelForMaskedLM"),
    ("roberta", "AutoModelForSequenceClassification"),
    ("distilbert", "AutoModelForSequenceClassification"),
    ("vit", "AutoModelForImageClassification"),
    ("vit", "AutoModel"),
]


@pytest.mark.parametrize(("family", "auto"), CASES, ids=[f"{family} {auto}" for family, auto in CASES])
def test_a_folder_loads_as_its_dense_checkpoint_does_and_saves_the_same_bytes_again(
    family: str, auto: str, tmp_path: Path
) -> None:
    compressed = compress_tiny(family, tmp_path)
    write_dense(compressed.folder, tmp_path / "dense")
    dense = _load(auto, tmp_path / "dense")
    model, report = getattr(transformers, auto).from_pretrained(compressed.folder, output_loading_info=True)
    model.config.pad_token_id = 0
    for name in report["missing_keys"]:
        # A new head is random.
        model.get_parameter(name).data.copy_(dense.get_parameter(name))
    assert sum(isinstance(module, StoredModule) for module in model.modules()) > 6
    torch.testing.assert_close(_output(model, family), _output(dense, family), rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "first")
    again = _load(auto, tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    assert _bytes_of(tmp_path / "first") == _bytes_of(tmp_path / "second")
    assert torch.equal(_output(again, family), _output(model, family))


def test_saving_a_loaded_folder_gives_its_very_tensors_even_after_use_in_bfloat16(tmp_path: Path) -> None:
    original = save_tiny("llama", tmp_path / "float32")
    _load("AutoModelForCausalLM", original, dtype="bfloat16").save_pretrained(tmp_path / "original")
    compressed = compress(open_checkpoint(str(tmp_path / "original")), tmp_path / "compressed")
    config = json.loads((compressed.folder / "config.json").read_text(encoding="utf-8"))
    model = _load("AutoModelForCausalLM", compressed.folder)
    assert config["dtype"] == "bfloat16"
    assert model.dtype == torch.bfloat16
    _output(model, "llama")
    before_saving = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
    assert any(name.endswith("_kernel") for name, _ in model.named_buffers())
    model.save_pretrained(tmp_path / "again")
    assert not any(name.endswith("_kernel") for name, _ in model.named_buffers()), "the file's form was made beside the kernel's"
    assert torch.equal(model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False), before_saving)
    before, after = load_file(compressed.folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    saved = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert saved["quantization_config"] == config["quantization_config"]
    assert saved["transformers_weights"] == config["transformers_weights"]


def test_stored_matrices_take_their_planned_bytes_in_memory(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    model = _load("AutoModelForCausalLM", compressed.folder)
    held = [*model.named_parameters(), *model.named_buffers()]
    # Frequencies of the rotation are computed, not stored.
    assert sum(tensor.nbytes for name, tensor in held if "inv_freq" not in name) == compressed.size_bytes


@pytest.mark.parametrize(
    "scheme",
    [integer(4, 32), integer(3, 32), low_rank(16, 8, 32), integer_low_rank(3, 16, 16, 32), HALF],
    ids=lambda one: one.name,
)
def test_a_tied_head_and_its_table_share_one_stored_matrix(scheme: Any, tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path, [scheme])
    write_dense(compressed.folder, tmp_path / "dense")
    model, dense = (_load("AutoModelForCausalLM", folder) for folder in (compressed.folder, tmp_path / "dense"))
    assert isinstance(model.get_output_embeddings(), TiedLinear)
    torch.testing.assert_close(_output(model, "llama"), _output(dense, "llama"), rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(model)
    twin.tie_weights()
    assert twin.get_output_embeddings()._holder[0] is twin.get_input_embeddings()


def test_an_untied_head_and_its_table_are_two_matrices(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path, [integer(4, 32)], tie_word_embeddings=False)
    model = _load("AutoModelForCausalLM", compressed.folder)
    assert isinstance(model.get_input_embeddings(), QuantisedEmbedding)
    assert isinstance(model.get_output_embeddings(), StoredModule)
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_a_table_can_be_tied_to_a_stored_head(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "original")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source = open_checkpoint(str(folder))
    head = ChosenMatrix("head", "lm_head.weight", integer(4, 32), 200, 32)
    write_folder(tmp_path / "compressed", source, [head], stored_matrices(source, [head]))
    model = _load("AutoModelForCausalLM", tmp_path / "compressed")
    assert isinstance(model.get_input_embeddings(), TiedEmbedding)
    write_dense(tmp_path / "compressed", tmp_path / "dense")
    expected = _output(_load("AutoModelForCausalLM", tmp_path / "dense"), "llama")
    torch.testing.assert_close(_output(model, "llama"), expected, rtol=1e-4, atol=1e-5)


def test_a_loaded_model_can_be_copied_and_pickled(tmp_path: Path) -> None:
    model = _load("AutoModelForCausalLM", compress_tiny("llama", tmp_path).folder)
    expected = _output(model, "llama")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_output(twin, "llama"), expected)
        twin.save_pretrained(tmp_path / f"twin {id(twin)}")
        assert "import layerlens" in (tmp_path / f"twin {id(twin)}" / "config.json").read_text(encoding="utf-8")


def test_shards_load_as_one_file_does(tmp_path: Path) -> None:
    source = open_checkpoint(str(save_tiny("gpt2", tmp_path / "original")))
    one, many = compress(source, tmp_path / "one"), compress(source, tmp_path / "many", shard_bytes=6000)
    models = [_load("AutoModelForCausalLM", compressed.folder) for compressed in (one, many)]
    assert torch.equal(_output(models[0], "gpt2"), _output(models[1], "gpt2"))


def test_a_model_computes_in_the_type_that_is_asked_for(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    exact = _output(_load("AutoModelForCausalLM", compressed.folder), "llama")
    half = _output(_load("AutoModelForCausalLM", compressed.folder, dtype="bfloat16"), "llama")
    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < float((half.float() - exact).norm() / exact.norm()) < 0.05


def _edited(compressed: Compressed, **changes: Any) -> Path:
    path = compressed.folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"].update(changes)
    path.write_text(json.dumps(config), encoding="utf-8")
    return compressed.folder


def test_a_folder_that_lacks_stored_tensors_is_refused(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    path = compressed.folder / "model.safetensors"
    tensors = load_file(path)
    gone = [next(name for name in tensors if name.endswith(end)) for end in (".up", ".scales")]
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks tensors of compressed matrices") as caught:
        _load("AutoModelForCausalLM", compressed.folder)
    assert all(name in str(caught.value) for name in gone)


def test_a_folder_of_another_version_or_model_is_refused(tmp_path: Path) -> None:
    compressed = compress_tiny("bert", tmp_path)
    entry = {"scheme": integer(4, 32).model_dump(mode="json"), "out_features": 32, "in_features": 32}
    with pytest.raises(UnsupportedModelError, match="none of the folder's compressed matrices"):
        _load("AutoModel", _edited(compressed, matrices={"elsewhere": entry}))
    with pytest.raises(UnsupportedModelError, match="LayerNorm, and the folder has a compressed matrix for it"):
        _load("AutoModel", _edited(compressed, matrices={"embeddings.LayerNorm": entry}))
    with pytest.raises(UnsupportedModelError, match=r"is \[32, 32\], the model's config asks for \[64, 32\]"):
        _load("AutoModel", _edited(compressed, matrices={"encoder.layer.0.intermediate.dense": entry}))
    with pytest.raises(ManifestError, match="version 9"):
        _load("AutoModel", _edited(compressed, version=9))


def test_a_folder_that_lacks_stored_tensors_is_refused_over_several_devices_too(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path)
    spread = {"device_map": {"model": "cpu", "lm_head": "disk"}, "offload_folder": str(tmp_path / "offloaded")}
    expected = _output(_load("AutoModelForCausalLM", compressed.folder), "llama")
    assert torch.equal(_output(_load("AutoModelForCausalLM", compressed.folder, **spread), "llama"), expected)
    path = compressed.folder / "model.safetensors"
    tensors = load_file(path)
    short = next(name for name in tensors if name.endswith(".down"))
    save_file({**tensors, short: tensors[short][1:].contiguous()}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks tensors of compressed matrices") as caught:
        _load("AutoModelForCausalLM", compressed.folder, **spread)
    assert short in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "bert", "vit"])
def test_loaded_tensors_lie_in_memory_of_their_own_and_not_in_a_map_of_the_file(family: str, tmp_path: Path) -> None:
    compressed = compress_tiny(family, tmp_path)
    with torch.inference_mode():
        model = _load("AutoModel", compressed.folder)
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(compressed.folder) not in maps.read_text(encoding="utf-8")


def test_a_model_saved_without_its_head_is_exported_as_it_was_saved(tmp_path: Path) -> None:
    model = _load("AutoModel", compress_tiny("llama", tmp_path, tie_word_embeddings=False).folder)
    model.save_pretrained(tmp_path / "base")
    write_dense(tmp_path / "base", tmp_path / "dense")
    dense = _load("AutoModel", tmp_path / "dense")
    torch.testing.assert_close(_output(dense, "llama"), _output(model, "llama"), rtol=1e-4, atol=1e-5)
    named = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))["quantization_config"]["matrices"]
    assert named
    saved = load_file(tmp_path / "base" / "model.safetensors")
    assert all(any(name.startswith(f"{path}.") for name in saved) for path in named)


def test_a_config_that_one_model_was_loaded_with_loads_another(tmp_path: Path) -> None:
    compressed = compress_tiny("llama", tmp_path, tie_word_embeddings=False)
    config = transformers.AutoConfig.from_pretrained(compressed.folder)
    expected = _output(_load("AutoModelForCausalLM", compressed.folder), "llama")
    _load("AutoModel", compressed.folder, config=config)
    assert torch.equal(_output(_load("AutoModelForCausalLM", compressed.folder, config=config), "llama"), expected)


def test_saving_on_every_process_leaves_the_config_to_the_main_one(tmp_path: Path) -> None:
    model = _load("AutoModel", compress_tiny("bert", tmp_path).folder)
    model.save_pretrained(tmp_path / "out", is_main_process=False)
    assert not (tmp_path / "out" / "config.json").exists()
    model.save_pretrained(tmp_path / "out")
    saved = (tmp_path / "out" / "config.json").stat()
    model.save_pretrained(tmp_path / "out", is_main_process=False)
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == saved.st_mtime_ns


def test_the_type_of_the_original_is_kept_where_its_config_names_none(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "original")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    compressed = compress(open_checkpoint(str(folder)), tmp_path / "compressed")
    assert [_load("AutoModelForCausalLM", one).dtype for one in (folder, compressed.folder)] == [torch.float32] * 2


def test_saving_and_uploading_at_once_is_refused_since_the_upload_would_lack_the_hint(tmp_path: Path) -> None:
    model = _load("AutoModel", compress_tiny("bert", tmp_path).folder)
    with pytest.raises(ConfigError, match="push_to_hub"):
        model.save_pretrained(tmp_path / "out", push_to_hub=True)
    assert not (tmp_path / "out").exists()


def test_biases_and_norms_are_parameters_as_before_and_stored_matrices_are_none(tmp_path: Path) -> None:
    model = _load("AutoModelForCausalLM", compress_tiny("gpt2", tmp_path, [integer(5, 32)]).folder)
    layer = model.get_submodule("transformer.h.0.attn.c_attn")
    assert isinstance(layer.bias, nn.Parameter)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    size = size_bytes(integer(5, 32), 96, 32, 4)
    assert sum(buffer.nbytes for buffer in layer.buffers()) == size


def test_a_model_of_which_every_parameter_is_a_stored_matrix_generates_and_saves(tmp_path: Path) -> None:
    original = save_tiny("olmo", tmp_path / "original")
    compressed = compress(open_checkpoint(str(original)), tmp_path / "compressed", [integer(4, 32), HALF])
    write_dense(compressed.folder, tmp_path / "dense")
    model = _load("AutoModelForCausalLM", compressed.folder)
    assert (model.dtype, model.model.dtype, model.device) == (torch.float32, torch.float32, torch.device("cpu"))
    ids = torch.arange(5, 12)[None]
    made = [
        one.generate(ids, max_new_tokens=4, do_sample=False) for one in (model, _load("AutoModelForCausalLM", tmp_path / "dense"))
    ]
    assert torch.equal(*made)
    model.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == model.state_dict().keys()
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(_output(again, "olmo"), _output(model, "olmo"))
    assert model.to(torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("schemes", [[integer(4, 32)], [KEEP]], ids=["compressed", "all kept"])
def test_a_class_that_calls_its_body_by_another_name_is_refused_and_not_drawn_at_random(
    schemes: list[Scheme], tmp_path: Path
) -> None:
    """Every Llama has its body under `model.`, this class of the family under `transformer.`."""
    compressed = compress_tiny("llama", tmp_path, schemes)
    with pytest.raises(UnsupportedModelError, match=r"none of the folder's .* belongs to a LlamaForQuestionAnswering; load"):
        _load("AutoModelForQuestionAnswering", compressed.folder)
