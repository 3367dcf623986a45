"""A streamed model against the same checkpoint in memory, in every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerlens.artifacts.profile import TaskInfo
from layerlens.errors import CheckpointError, UnsupportedModelError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.models.roles import describe_layers
from layerlens.models.streamed import load
from layerlens.models.streamed.load import load_streamed_model
from layerlens.models.streamed.row_embedding import RowEmbedding
from layerlens.models.streamed.streamed_linear import StreamedLinear
from layerlens.words import TaskKind
from tests.tiny_models import FAMILIES, save_tiny

DECODERS = {"gpt2", "gpt_neo", "llama", "mistral", "qwen2", "gemma2"}


#: More blocks than a hidden state has axes: whatever is taken apart once too often shows.
DEEPER = {
    "gpt2": {"n_layer": 5},
    "gpt_neo": {"num_layers": 6, "attention_types": [[["global", "local"], 3]]},
    "distilbert": {"n_layers": 5},
}


def task_for(family: str) -> TaskInfo:
    if family in DECODERS:
        return TaskInfo(kind=TaskKind.CAUSAL_LM)
    kind = TaskKind.IMAGE_CLASSIFICATION if family == "vit" else TaskKind.CLASSIFICATION
    return TaskInfo(kind=kind, num_labels=3, label_names=["a", "b", "c"])


def inputs_for(family: str) -> dict[str, torch.Tensor]:
    if family == "vit":
        return {"pixel_values": torch.randn(3, 3, 16, 16)}
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": torch.randint(5, 190, (3, 7)), "attention_mask": mask}


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
@pytest.mark.parametrize("keeps_tables", [True, False])
def test_blocks_one_by_one_give_the_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, keeps_tables: bool
) -> None:
    monkeypatch.setattr(load, "_LARGE_TABLE", 1 << 20 if keeps_tables else 100)
    checkpoint = open_checkpoint(str(save_tiny(family, tmp_path / "model", **DEEPER.get(family, {"num_hidden_layers": 5}))))
    oracle = load_task_model(checkpoint, task_for(family), seed=3)
    streamed = load_streamed_model(checkpoint, task_for(family), seed=3)
    torch.manual_seed(0)
    inputs = inputs_for(family)
    skeleton = streamed.skeleton
    with torch.no_grad():
        expected = oracle.model(**inputs, use_cache=False) if family in DECODERS else oracle.model(**inputs)
        entry = skeleton.entry(inputs)
        hidden = entry.hidden
        for block in range(len(entry.calls)):
            hidden = skeleton.call(block, hidden, skeleton.entry(inputs, is_blank=True).calls[block])
        found = skeleton.finish(inputs, hidden)
        whole = streamed.model(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(whole.logits, expected.logits)
    assert streamed.new_parameters == oracle.new_parameters
    assert streamed.layout == describe_layers(oracle.model)
    assert streamed.info.num_parameters == sum(parameter.numel() for parameter in oracle.model.parameters())
    tables = [module for module in streamed.model.modules() if isinstance(module, RowEmbedding)]
    assert bool(tables) == (not keeps_tables and family != "vit")
    planned = {spec.layer for spec in streamed.layout.layers}
    assert planned <= {name for name, module in streamed.model.named_modules() if isinstance(module, StreamedLinear)}


@pytest.mark.parametrize("family", ["bert", "gpt2", "vit"])
def test_gradients_flow_through_a_block_as_in_the_model(tmp_path: Path, family: str) -> None:
    checkpoint = open_checkpoint(str(save_tiny(family, tmp_path / "model")))
    oracle = load_task_model(checkpoint, task_for(family), seed=0).model
    streamed = load_streamed_model(checkpoint, task_for(family), seed=0)
    inputs = inputs_for(family)
    kept: list[torch.Tensor] = []
    path = streamed.layout.blocks[0].path

    def keep(_: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden.requires_grad_()
        hidden.retain_grad()
        kept.append(hidden)

    handle = oracle.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
    for parameter in oracle.parameters():
        parameter.requires_grad_(False)
    oracle(**inputs).logits.square().sum().backward()
    handle.remove()
    skeleton = streamed.skeleton
    skeleton.probe(inputs)
    entry = skeleton.entry(inputs)
    first = hidden = entry.hidden.clone().requires_grad_()
    for block, call in enumerate(entry.calls):
        hidden = skeleton.call(block, hidden, call)
    skeleton.finish(inputs, hidden).logits.square().sum().backward()
    assert first.grad is not None
    assert kept[0].grad is not None
    largest = float(kept[0].grad.abs().max())
    torch.testing.assert_close(first.grad, kept[0].grad, rtol=1e-5, atol=1e-6 * max(1.0, largest))


def test_tensors_under_the_names_of_older_releases_are_found(tmp_path: Path) -> None:
    folder = save_tiny("vit", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    published = {
        name.replace("layers.", "encoder.layer.").replace("attention.q_proj", "attention.attention.query"): tensor
        for name, tensor in tensors.items()
    }
    renamed = published != tensors
    save_file(published if renamed else tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    try:
        oracle = load_task_model(checkpoint, task_for("vit"), seed=0).model
    except CheckpointError:
        pytest.skip("this release of transformers does not know the older names either")
    streamed = load_streamed_model(checkpoint, task_for("vit"), seed=0)
    inputs = inputs_for("vit")
    with torch.no_grad():
        assert torch.equal(streamed.model(**inputs).logits, oracle(**inputs).logits)


def test_an_encoder_is_refused_as_a_language_model(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model", is_decoder=False)
    tensors = load_file(folder / "model.safetensors")
    extra = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    extra |= {
        "cls.predictions.bias": torch.zeros(200),
        "cls.predictions.transform.dense.weight": torch.eye(32),
        "cls.predictions.transform.dense.bias": torch.zeros(32),
        "cls.predictions.transform.LayerNorm.weight": torch.ones(32),
        "cls.predictions.transform.LayerNorm.bias": torch.zeros(32),
        "cls.predictions.decoder.weight": tensors["embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": torch.zeros(200),
    }
    save_file(extra, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="sees the tokens it should predict"):
        load_streamed_model(open_checkpoint(str(folder)), TaskInfo(kind=TaskKind.CAUSAL_LM), seed=0)


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_a_head_that_differs_from_the_table_it_is_tied_to_stays_itself(tmp_path: Path, change: float) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"] + change * torch.eye(200, 32)
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    oracle = load_task_model(checkpoint, task_for("llama"), seed=0).model
    streamed = load_streamed_model(checkpoint, task_for("llama"), seed=0)
    with torch.no_grad():
        inputs = inputs_for("llama")
        assert torch.equal(streamed.model(**inputs).logits, oracle(**inputs).logits)
    assert streamed.is_untied == bool(change)
    own, tied = "lm_head.weight", "model.embed_tokens.weight"
    assert streamed.stored_names["lm_head.weight"] == (own if change else tied)
    assert streamed.model.all_tied_weights_keys == oracle.all_tied_weights_keys
    assert streamed.info.num_parameters == sum(parameter.numel() for parameter in oracle.parameters())


def test_a_model_of_which_only_some_ties_hold_is_sent_to_memory(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny("bert", folder, is_decoder=True)
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= {
        "cls.predictions.bias": torch.ones(200),
        "cls.predictions.transform.dense.weight": torch.eye(32),
        "cls.predictions.transform.dense.bias": torch.zeros(32),
        "cls.predictions.transform.LayerNorm.weight": torch.ones(32),
        "cls.predictions.transform.LayerNorm.bias": torch.zeros(32),
        "cls.predictions.decoder.weight": torch.ones(200, 32),
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"only the second has values of its own.*--execution memory"):
        load_streamed_model(open_checkpoint(str(folder)), task_for("llama"), seed=0)


def test_an_encoder_with_a_decoder_is_sent_to_memory(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_encoder_decoder": True}))
    with pytest.raises(UnsupportedModelError, match="--execution memory"):
        load_streamed_model(open_checkpoint(str(folder)), task_for("bert"), seed=0)
