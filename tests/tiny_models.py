"""Tiny Hugging Face folders of every family, built locally with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(190)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}

_COMMON = {"vocab_size": 200, "hidden_size": 32, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_ROTARY = {**_COMMON, **_HEADS, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": True}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", {**_COMMON, **_HEADS, "max_position_embeddings": 64}),
    "roberta": ("RobertaConfig", "RobertaModel", {**_COMMON, **_HEADS, "max_position_embeddings": 66}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {
            "vocab_size": 200,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": 200,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
            "window_size": 16,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _ROTARY),
    "mistral": ("MistralConfig", "MistralForCausalLM", _ROTARY),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _ROTARY),
    "vit": (
        "ViTConfig",
        "ViTModel",
        {"hidden_size": 32, **_HEADS, "image_size": 16, "patch_size": 8, "num_channels": 3},
    ),
}

#: Families that single tests ask for by name; what holds for every family of the table above is not tried on them.
RARE: dict[str, tuple[str, str, dict[str, Any]]] = {
    # Its word embedding, which its head is tied to, multiplies the rows by √hidden on their way out.
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_ROTARY, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}),
    # Its blocks mix all tokens of a batch, padding among them.
    "fnet": ("FNetConfig", "FNetModel", {**_COMMON, **_HEADS, "max_position_embeddings": 64, "tpu_short_seq_length": 64}),
    # PEFT puts no LoRA on its `out_proj`.
    "mamba": ("MambaConfig", "MambaForCausalLM", {**_COMMON, "state_size": 4, "num_hidden_layers": 2}),
    # Dense in every block; PEFT takes the MLPs of its family for experts.
    "deepseek_v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            **_COMMON,
            **_HEADS,
            "first_k_dense_replace": 2,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    # It takes texts of 64 tokens alone.
    "nystromformer": (
        "NystromformerConfig",
        "NystromformerModel",
        {**_COMMON, **_HEADS, "max_position_embeddings": 64, "num_landmarks": 16, "segment_means_seq_len": 64},
    ),
    # The position of its pad token is a row of zeros.
    "xglm": (
        "XGLMConfig",
        "XGLMForCausalLM",
        {
            "vocab_size": 200,
            "d_model": 32,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    ),
    # A decoder alone: the attention to an encoder stands in its blocks and is never run.
    "bart_decoder": (
        "BartConfig",
        "BartForCausalLM",
        {
            "vocab_size": 200,
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "is_decoder": True,
            "is_encoder_decoder": False,
            "pad_token_id": 0,
        },
    ),
    # Its blocks differ in width, and transformers finds no input embedding in it.
    "convnext": (
        "ConvNextConfig",
        "ConvNextModel",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "image_size": 16},
    ),
    # It scales what its word embedding gives in place.
    "ctrl": (
        "CTRLConfig",
        "CTRLLMHeadModel",
        {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "dff": 64},
    ),
    # It has neither biases nor weights in its norms: every parameter is a matrix.
    "olmo": ("OlmoConfig", "OlmoForCausalLM", _ROTARY),
    # Its padding looks at every token alike, so what stands there depends on how far the batch is padded.
    "deberta_v2": (
        "DebertaV2Config",
        "DebertaV2Model",
        {**_COMMON, **_HEADS, "max_position_embeddings": 64, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    # transformers has two classes of it for one task.
    "deit": (
        "DeiTConfig",
        "DeiTModel",
        {"hidden_size": 32, **_HEADS, "image_size": 16, "patch_size": 8, "num_channels": 3},
    ),
}

_DECODERS = {
    "bart_decoder",
    "ctrl",
    "deepseek_v3",
    "gemma2",
    "gpt2",
    "gpt_neo",
    "llama",
    "mamba",
    "mistral",
    "olmo",
    "qwen2",
    "xglm",
}


def save_tiny(family: str, folder: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny model of `family` with its tokenizer (or image processor) to `folder`."""
    config_class, model_class, settings = {**FAMILIES, **RARE}[family]
    config = getattr(transformers, config_class)(**{**settings, **overrides})
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wider than the library's 0.02, so that tiny models react to their input.
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    if family in {"vit", "deit", "convnext"}:
        transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    else:
        save_tokenizer(folder, is_decoder=family in _DECODERS)
    return folder


def save_tokenizer(folder: Path, *, is_decoder: bool) -> None:
    """Write a word-level tokenizer; decoders get no pad token, as their published ones have none."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    if not is_decoder:
        from tokenizers.processors import TemplateProcessing

        names |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
