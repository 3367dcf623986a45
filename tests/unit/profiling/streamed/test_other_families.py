"""Families that no table knows: streamed to the numbers of the profile in memory, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from layerlens.errors import UnsupportedModelError
from layerlens.models import arithmetic
from layerlens.streaming.boundaries import fewest_slots
from tests.functional.test_main_job import write_data
from tests.tiny_models import save_tokenizer
from tests.unit.profiling.streamed.test_run import LEAN, WHOLE, Case, assert_same_numbers, in_memory, opened, run_streamed

OTHER = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def other_case(folder: Path, class_name: str, settings: dict[str, object], **options: object) -> Case:
    """A case of a family that has no row in the table of architectures."""
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**OTHER, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder / "model")
    is_decoder = "CausalLM" in class_name
    save_tokenizer(folder / "model", is_decoder=is_decoder)
    return opened(folder / "model", write_data(folder, "gpt2" if is_decoder else "bert"), **options)


def test_in_several_sweeps_a_guessed_family_has_the_input_groups_of_the_profile_in_memory(tmp_path: Path) -> None:
    measured = other_case(tmp_path, "OPTForCausalLM", {"ffn_dim": 64, "word_embed_proj_dim": 32})
    streamed, arrays = run_streamed(measured, tmp_path / "work", fewest_slots, **LEAN)
    assert_same_numbers((streamed, arrays), in_memory(measured))
    groups = {layer.layer: layer.input_group for layer in streamed.layers}
    attention = "model.decoder.layers.1.self_attn"
    assert groups[f"{attention}.k_proj"] == groups[f"{attention}.v_proj"] == f"{attention}.q_proj"
    assert groups[f"{attention}.out_proj"] == f"{attention}.out_proj"


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        # Adds its attention to what its MLP gave, in place.
        ("FalconModel", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        # Its first block has no norm before its attention.
        ("ModernBertModel", {"intermediate_size": 64, "cls_token_id": 2, "sep_token_id": 3}),
    ],
)
def test_blocks_that_are_built_unusually_are_measured_as_in_memory(
    tmp_path: Path, class_name: str, settings: dict[str, object]
) -> None:
    measured = other_case(tmp_path, class_name, settings)
    found, expected = run_streamed(measured, tmp_path / "work", **WHOLE), in_memory(measured)
    assert_same_numbers(found, expected)
    assert all(layer.metrics["fisher"] > 0.0 for layer in found[0].layers)
    assert found[0].blocks == expected[0].blocks


@pytest.mark.parametrize("class_name", ["DebertaModel", "DebertaV2Model"])
def test_blocks_that_give_back_a_pair_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, class_name: str) -> None:
    # DeBERTa's own mask overflows in bfloat16, in which blocks are timed where that is fast.
    monkeypatch.setattr(arithmetic, "processor_multiplies_bfloat16", lambda: False)
    measured = other_case(tmp_path, class_name, {"intermediate_size": 64, "relative_attention": False})
    assert_same_numbers(run_streamed(measured, tmp_path / "work", fewest_slots, **LEAN), in_memory(measured))


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("DebertaModel", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
        ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
        ("DebertaV2Model", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}),
    ],
)
def test_layers_that_read_positions_are_refused_by_name_in_both_ways(
    tmp_path: Path, class_name: str, settings: dict[str, object]
) -> None:
    # A number of positions that divides by the samples of a batch, so that they would pass for samples.
    measured = other_case(tmp_path, class_name, {"intermediate_size": 64, "max_relative_positions": 8, **settings})
    with pytest.raises(UnsupportedModelError, match=r"layer deberta\.encoder\.layer\.\d\.attention\.self\.\w+ "):
        in_memory(measured)
    with pytest.raises(UnsupportedModelError, match=r"layer deberta\.encoder\.layer\.\d\.attention\.self\.\w+ "):
        run_streamed(measured, tmp_path / "work", **WHOLE)


def test_a_convolution_between_two_blocks_is_refused_by_name(tmp_path: Path) -> None:
    measured = other_case(tmp_path, "DebertaV2Model", {"relative_attention": False, "conv_kernel_size": 3})
    with pytest.raises(UnsupportedModelError, match=r"DebertaV2ForSequenceClassification .* changes the hidden state between"):
        run_streamed(measured, tmp_path / "work", **WHOLE)
