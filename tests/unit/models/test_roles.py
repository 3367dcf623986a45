"""Layouts are compared with what a forward pass does: which layers run, in which order, on which inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from layerlens.artifacts.layers import ModelLayout
from layerlens.errors import UnsupportedModelError
from layerlens.models.roles import describe_layers
from layerlens.models.weights import is_planned_module, weight_matrix
from layerlens.words import Role
from tests.tiny_models import FAMILIES, save_tiny

ATTENTION = [Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE, Role.ATTENTION_OUTPUT]
FUSED = [Role.ATTENTION_QKV, Role.ATTENTION_OUTPUT]
MLP = [Role.MLP_UP, Role.MLP_DOWN]
GATED = [Role.MLP_GATE, Role.MLP_UP, Role.MLP_DOWN]

_BERT = (
    "attention.self.query attention.self.key attention.self.value attention.output.dense intermediate.dense output.dense",
    ATTENTION + MLP,
)
_LLAMA = (
    "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj",
    ATTENTION + GATED,
)
#: Tiny family -> path of its blocks, paths of a block's layers in it, their roles; written down by hand.
BLOCKS = {
    "bert": ("bert.encoder.layer", *_BERT),
    "roberta": ("roberta.encoder.layer", *_BERT),
    "distilbert": (
        "distilbert.transformer.layer",
        "attention.q_lin attention.k_lin attention.v_lin attention.out_lin ffn.lin1 ffn.lin2",
        ATTENTION + MLP,
    ),
    "gpt2": ("transformer.h", "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj", FUSED + MLP),
    "gpt_neo": (
        "transformer.h",
        "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj mlp.c_fc mlp.c_proj",
        ATTENTION + MLP,
    ),
    "llama": ("model.layers", *_LLAMA),
    "mistral": ("model.layers", *_LLAMA),
    "qwen2": ("model.layers", *_LLAMA),
    "vit": ("vit.layers", "attention.q_proj attention.k_proj attention.v_proj attention.o_proj mlp.fc1 mlp.fc2", ATTENTION + MLP),
}
KNOWN_DECODERS = ("gpt2", "gpt_neo", "llama", "mistral", "qwen2")
HEADS = {
    "bert": ["bert.pooler", "classifier"],
    "roberta": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "vit": ["classifier"],
    **{family: ["score"] for family in KNOWN_DECODERS},
}

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HALF_NAMED = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
T5 = {"vocab_size": 64, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8}
KEY_FIRST = [Role.ATTENTION_KEY, Role.ATTENTION_VALUE, Role.ATTENTION_QUERY, Role.ATTENTION_OUTPUT]
#: Families outside the table: class, settings, roles of a block's layers in the order of the tree.
UNKNOWN: dict[str, tuple[str, dict[str, Any], list[Role]]] = {
    "electra": ("ElectraForSequenceClassification", {**SMALL, "embedding_size": 16}, ATTENTION + MLP),
    "opt": ("OPTForCausalLM", {**HALF_NAMED, **TOKENS, "ffn_dim": 64, "word_embed_proj_dim": 32}, KEY_FIRST + MLP),
    "falcon": ("FalconForCausalLM", {**HALF_NAMED, **TOKENS}, FUSED + MLP),
    "phi": ("PhiForCausalLM", {**SMALL, **TOKENS}, ATTENTION + MLP),
    "phi3": ("Phi3ForCausalLM", {**SMALL, **TOKENS, "num_key_value_heads": 2}, [*FUSED[::-1], Role.MLP_GATE_UP, Role.MLP_DOWN]),
    "gpt_neox": ("GPTNeoXForCausalLM", {**SMALL, **TOKENS}, FUSED + MLP),
    "bloom": ("BloomForCausalLM", {**TOKENS, "vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4}, FUSED + MLP),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {**SMALL, **TOKENS, "cls_token_id": 1, "sep_token_id": 2},
        [*FUSED, Role.MLP_GATE_UP, Role.MLP_DOWN],
    ),
    "deberta-v2": ("DebertaV2ForSequenceClassification", SMALL, ATTENTION + MLP),
    "t5": ("T5EncoderModel", T5, ATTENTION + MLP),
    "t5-gated": ("T5EncoderModel", {**T5, "feed_forward_proj": "gated-gelu"}, ATTENTION + GATED),
}


def build(class_name: str, settings: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    return model_class(model_class.config_class(**settings)).eval()


def task_model(family: str) -> nn.Module:
    """A classifier of a tiny family, straight from its settings."""
    config_class, _, settings = FAMILIES[family]
    kind = "Image" if family == "vit" else "Sequence"
    return getattr(transformers, f"{config_class.removesuffix('Config')}For{kind}Classification")(
        getattr(transformers, config_class)(**{**settings, "pad_token_id": 0})
    ).eval()


def inputs_of(model: nn.Module) -> dict[str, torch.Tensor]:
    if hasattr(model.config, "image_size"):
        return {"pixel_values": torch.randn(2, 3, model.config.image_size, model.config.image_size)}
    return {"input_ids": torch.arange(3, 13).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}


def watch(model: nn.Module, layout: ModelLayout) -> dict[str, int]:
    """Run the model; return the identity of the input tensor of each linear layer, in the order of the calls."""
    seen: dict[str, int] = {}
    kept = []
    for name, module in model.named_modules():
        if is_planned_module(module):

            def hook(_: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                kept.append(args[0])
                seen[name] = args[0].data_ptr()

            module.register_forward_pre_hook(hook)
    with torch.no_grad():
        model(**inputs_of(model))
    return {name: pointer for name, pointer in seen.items() if name in {layer.layer for layer in layout.layers}}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_family_has_its_layers_roles_and_head(family: str) -> None:
    layout = describe_layers(task_model(family))
    blocks_path, names, roles = BLOCKS[family]
    named = list(zip(names.split(), roles, strict=True))
    expected = [(f"{blocks_path}.{block}.{name}", block, role) for block in (0, 1) for name, role in named]
    assert [(layer.layer, layer.block, layer.role) for layer in layout.layers] == expected
    assert [block.path for block in layout.blocks] == [f"{blocks_path}.0", f"{blocks_path}.1"]
    assert layout.head == HEADS[family]
    assert not layout.is_guessed


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_stand_in_the_order_in_which_the_forward_pass_calls_them(family: str) -> None:
    model = task_model(family)
    layout = describe_layers(model)
    assert [layer.layer for layer in layout.layers] == list(watch(model, layout))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_share_a_group_exactly_where_they_read_the_same_tensor(family: str) -> None:
    model = task_model(family)
    layout = describe_layers(model)
    pointers = watch(model, layout)
    first_reader: dict[int, str] = {}
    for name, pointer in pointers.items():
        first_reader.setdefault(pointer, name)
    expected = {name: first_reader[pointer] for name, pointer in pointers.items()}
    assert {layer.layer: layer.input_group for layer in layout.layers} == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_features_biases_and_block_sizes_are_those_of_the_modules(family: str) -> None:
    model = task_model(family)
    layout = describe_layers(model)
    state = model.state_dict()
    for layer in layout.layers:
        module = model.get_submodule(layer.layer)
        assert (layer.out_features, layer.in_features) == tuple(weight_matrix(module).shape)
        assert layer.has_bias == (f"{layer.layer}.bias" in state)
        assert layer.is_transposed == (family == "gpt2")
    for block in layout.blocks:
        assert block.hidden_size == 32
        assert block.num_params == sum(tensor.numel() for name, tensor in state.items() if name.startswith(f"{block.path}."))


@pytest.mark.parametrize("family", [*KNOWN_DECODERS, "falcon", "phi", "phi3", "gpt_neox", "bloom", "opt"])
def test_key_value_features_are_what_the_cache_keeps_of_one_token(family: str, tmp_path: Path) -> None:
    if family in UNKNOWN:
        model = build(*UNKNOWN[family][:2])
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(save_tiny(family, tmp_path))
    layout = describe_layers(model)
    with torch.no_grad():
        cache = model(**inputs_of(model), use_cache=True).past_key_values
    for block, kept in zip(layout.blocks, cache.layers, strict=True):
        assert block.kv_features == kept.keys.shape[1] * kept.keys.shape[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_of_a_block_is_a_module_that_runs_once_per_pass(family: str) -> None:
    model = task_model(family)
    calls: list[str] = []
    for block in describe_layers(model).blocks:
        assert block.attention is not None
        assert block.attention.startswith(f"{block.path}.")
        model.get_submodule(block.attention).register_forward_hook(lambda *_, path=block.attention: calls.append(path))
    with torch.no_grad():
        model(**inputs_of(model))
    assert calls == [block.attention for block in describe_layers(model).blocks]


@pytest.mark.parametrize("family", KNOWN_DECODERS)
def test_a_language_model_has_no_head_and_its_output_layer_is_frozen(family: str, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(save_tiny(family, tmp_path))
    layout = describe_layers(model)
    assert layout.head == []
    assert not any("lm_head" in layer.layer for layer in layout.layers)


@pytest.mark.parametrize("family", UNKNOWN)
def test_an_unknown_family_has_all_linear_layers_of_its_blocks_with_guessed_roles(family: str) -> None:
    class_name, settings, roles = UNKNOWN[family]
    model = build(class_name, settings)
    layout = describe_layers(model)
    assert layout.is_guessed
    assert len(layout.blocks) == 2
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inside = [name for name in linear if any(name.startswith(f"{block.path}.") for block in layout.blocks)]
    assert [layer.layer for layer in layout.layers] == inside
    assert [layer.role for layer in layout.layers] == roles * 2
    assert all(layer.input_group == layer.layer for layer in layout.layers)


def test_an_encoder_and_a_decoder_give_their_blocks_one_after_the_other() -> None:
    encoder = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64}
    settings = {"vocab_size": 64, "d_model": 32, **encoder, **decoder}
    layout = describe_layers(build("BartForSequenceClassification", settings))
    assert [block.path for block in layout.blocks] == [
        "model.encoder.layers.0",
        "model.encoder.layers.1",
        "model.decoder.layers.0",
    ]
    assert layout.blocks[2].attention == "model.decoder.layers.0.self_attn"
    assert layout.head == ["classification_head"]


def test_a_known_family_with_a_layer_the_table_lacks_is_guessed_and_loses_none() -> None:
    config_class, _, settings = FAMILIES["bert"]
    config = getattr(transformers, config_class)(**settings, is_decoder=True, add_cross_attention=True)
    model = transformers.BertLMHeadModel(config)
    layout = describe_layers(model)
    assert layout.is_guessed
    assert len(layout.layers) == 2 * 10


def test_fused_experts_are_an_error_that_names_them() -> None:
    model = build("MixtralForCausalLM", {**SMALL, **TOKENS, "num_key_value_heads": 2, "num_local_experts": 4})
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj.* and 1 more"):
        describe_layers(model)


def test_fused_experts_in_one_matrix_are_an_error_that_names_them() -> None:
    attention = transformers.models.dbrx.configuration_dbrx.DbrxAttentionConfig(kv_n_heads=2, rope_theta=1e4)
    experts = transformers.models.dbrx.configuration_dbrx.DbrxFFNConfig(ffn_hidden_size=48, moe_num_experts=4, hidden_size=32)
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 16, "vocab_size": 64}
    config = transformers.DbrxConfig(**sizes, attn_config=attention, ffn_config=experts)
    with pytest.raises(UnsupportedModelError, match=r"transformer\.blocks\.0\.ffn\.experts\.mlp\.w1.* and 3 more"):
        describe_layers(transformers.DbrxForCausalLM(config))


def test_the_vision_checkpoint_has_its_72_layers(shared: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(shared / "models" / "deit-tiny")
    layout = describe_layers(model)
    assert len(layout.layers) == 72
    assert not layout.is_guessed
    assert layout.head == ["classifier"]
