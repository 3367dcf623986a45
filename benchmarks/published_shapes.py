"""The published configs that `shapes.py` writes: numbers by hand, no weights, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

#: Tokens of a sample with its special tokens; samples and images of a data file, enough for calibration, head and splits.
LENGTH = 128
NUM_SAMPLES = 640
NUM_IMAGES = 320


class Kind(StrEnum):
    """What a model is profiled on."""

    CLASSIFICATION = "classification"
    CAUSAL_LM = "causal_lm"
    IMAGES = "images"


@dataclass(frozen=True)
class Shape:
    """One published model.

    Attributes:
        published: Its hub id and the dtype its files are in.
        config_class: Config class of transformers.
        model_class: Class whose parameter names are those of the published files.
        architectures: As in the published config.
        settings: The published numbers.
        kind: What it is profiled on.
        special_ids: Special tokens and their published ids.
        special_tokens: What each is for, as the tokenizer class names it.
        max_length: Tokens at most.
        dtype: The dtype written here.
        scales_residual: Whether the init shrinks `c_proj` by depth.
    """

    published: str
    config_class: str
    model_class: str
    architectures: tuple[str, ...]
    settings: dict[str, Any]
    kind: Kind
    special_ids: dict[str, int] = field(default_factory=dict)
    special_tokens: dict[str, str] = field(default_factory=dict)
    max_length: int = 512
    dtype: str = "float32"
    scales_residual: bool = False


_BERT_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 50264}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_ENCODER = {"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_BERT = {
    **_ENCODER,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_VIT = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "num_labels": 1000,
}
_END_OF_TEXT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}


def _bert(size: dict[str, int], name: str) -> Shape:
    return Shape(
        published=f"{name}, float32",
        config_class="BertConfig",
        model_class="BertForPreTraining",
        architectures=("BertForMaskedLM",),
        settings={**_BERT, **size},
        kind=Kind.CLASSIFICATION,
        special_ids=_BERT_IDS,
        special_tokens=_BERT_TOKENS,
    )


def _vit(size: dict[str, int], name: str) -> Shape:
    return Shape(
        published=f"{name}, float32",
        config_class="ViTConfig",
        model_class="ViTForImageClassification",
        architectures=("ViTForImageClassification",),
        settings={**_VIT, **size},
        kind=Kind.IMAGES,
    )


SHAPES: dict[str, Shape] = {
    "bert-base": _bert(_BASE, "google-bert/bert-base-uncased"),
    "bert-large": _bert(_LARGE, "google-bert/bert-large-uncased"),
    "roberta-base": Shape(
        published="FacebookAI/roberta-base, float32",
        config_class="RobertaConfig",
        model_class="RobertaForMaskedLM",
        architectures=("RobertaForMaskedLM",),
        settings={
            **_ENCODER,
            **_BASE,
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        kind=Kind.CLASSIFICATION,
        special_ids=_ROBERTA_IDS,
        special_tokens=_ROBERTA_TOKENS,
    ),
    "gpt2": Shape(
        published="openai-community/gpt2, float32",
        config_class="GPT2Config",
        model_class="GPT2Model",
        architectures=("GPT2LMHeadModel",),
        settings={
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "activation_function": "gelu_new",
            "resid_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "attn_pdrop": 0.1,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        kind=Kind.CAUSAL_LM,
        special_ids={"<|endoftext|>": 50256},
        special_tokens=_END_OF_TEXT,
        max_length=1024,
        scales_residual=True,
    ),
    "gpt-neo-1.3b": Shape(
        published="EleutherAI/gpt-neo-1.3B, float32",
        config_class="GPTNeoConfig",
        model_class="GPTNeoForCausalLM",
        architectures=("GPTNeoForCausalLM",),
        settings={
            "vocab_size": 50257,
            "max_position_embeddings": 2048,
            "hidden_size": 2048,
            "num_layers": 24,
            "num_heads": 16,
            "attention_types": [[["global", "local"], 12]],
            "window_size": 256,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "resid_dropout": 0.0,
            "embed_dropout": 0.0,
            "attention_dropout": 0.0,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        kind=Kind.CAUSAL_LM,
        special_ids={"<|endoftext|>": 50256},
        special_tokens=_END_OF_TEXT,
        max_length=2048,
    ),
    "vit-base": _vit(_BASE, "google/vit-base-patch16-224"),
    "vit-large": _vit(_LARGE, "google/vit-large-patch16-224"),
    "llama-2-7b": Shape(
        published="meta-llama/Llama-2-7b-hf, float16 (here bfloat16)",
        config_class="LlamaConfig",
        model_class="LlamaForCausalLM",
        architectures=("LlamaForCausalLM",),
        settings={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        kind=Kind.CAUSAL_LM,
        special_ids={"<unk>": 0, "<s>": 1, "</s>": 2},
        special_tokens={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        max_length=4096,
        dtype="bfloat16",
    ),
    "llama-3.2-1b": Shape(
        published="meta-llama/Llama-3.2-1B, bfloat16",
        config_class="LlamaConfig",
        model_class="LlamaForCausalLM",
        architectures=("LlamaForCausalLM",),
        settings={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "initializer_range": 0.02,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "tie_word_embeddings": True,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
        kind=Kind.CAUSAL_LM,
        special_ids={"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001},
        special_tokens={
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "unk_token": "<|end_of_text|>",
        },
        max_length=131072,
        dtype="bfloat16",
    ),
    "qwen2.5-0.5b": Shape(
        published="Qwen/Qwen2.5-0.5B, bfloat16",
        config_class="Qwen2Config",
        model_class="Qwen2ForCausalLM",
        architectures=("Qwen2ForCausalLM",),
        settings={
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "max_window_layers": 24,
            "use_sliding_window": False,
            "sliding_window": 32768,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "initializer_range": 0.02,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
            "bos_token_id": 151643,
            "eos_token_id": 151643,
        },
        kind=Kind.CAUSAL_LM,
        special_ids={"<|endoftext|>": 151643},
        special_tokens=_END_OF_TEXT,
        max_length=32768,
        dtype="bfloat16",
    ),
}


def shape_of(name: str) -> Shape:
    """A published shape, or with `@N` behind its name the same with N blocks.

    Raises:
        SystemExit: there is no such shape, or its config does not count blocks as most do.
    """
    whole, at, blocks = name.partition("@")
    shape = SHAPES.get(whole)
    if shape is None or (at and ("num_hidden_layers" not in shape.settings or not blocks.isdecimal() or int(blocks) < 1)):
        raise SystemExit(f"unknown shape {name}; there are {', '.join(SHAPES)}, and NAME@N for N blocks of most")
    if not blocks:
        return shape
    settings = shape.settings | {"num_hidden_layers": int(blocks)}
    return replace(shape, settings=settings, published=f"{shape.published}, {blocks} of its blocks")
