"""Prefixes in whole models of every family: against softmax written out, against a filled cache, and in generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from layerlens.errors import LayerLensError, UnsupportedModelError
from layerlens.models.load import TaskModel
from layerlens.models.roles import describe_layers
from layerlens.models.weights import weight_matrix
from layerlens.nn.attention_interface import uses_interface
from layerlens.nn.prefix import Prefix
from layerlens.nn.prefix_attention import attend_prefixes_, prefix_fault
from layerlens.words import Role, TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, kind_of, tiny_task_model

DECODERS = ("gpt2", "llama", "mistral", "qwen2")
ENCODERS = ("bert", "roberta", "distilbert", "vit")
TOKENS = 3


@contextmanager
def prefixed(model: nn.Module, *, blocks: tuple[int, ...] = (0, 1)) -> Iterator[dict[int, Prefix]]:
    """Put a random prefix on some blocks."""
    with ExitStack() as stack:
        found = {}
        for spec in describe_layers(model).blocks:
            if spec.block in blocks:
                attention = model.get_submodule(spec.attention or "")
                prefix = Prefix(spec.kv_features, TOKENS, generator=torch.Generator().manual_seed(spec.block))
                for parameter in prefix.parameters():
                    nn.init.normal_(parameter)
                stack.callback(attend_prefixes_(attention))
                stack.callback(prefix.place_before_(attention))
                found[spec.block] = prefix
        yield found


def loaded(family: str, folder: Path, implementation: str = "sdpa", **overrides: object) -> nn.Module:
    model = tiny_task_model(family, folder, kind_of(family), **overrides).model
    model.set_attn_implementation(implementation)
    return model


def padded_text(*, is_left: bool) -> dict[str, Tensor]:
    tokens = torch.arange(21).reshape(3, 7) % 17 + 5
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    mask[2, :1] = 0
    return {"input_ids": tokens, "attention_mask": mask if is_left else mask.flip(1)}


def inputs_of(family: str) -> dict[str, Tensor]:
    if family == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    return padded_text(is_left=False)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ENCODERS)
def test_an_encoders_attention_is_softmax_over_prefix_and_tokens_written_out(
    family: str, implementation: str, tmp_path: Path
) -> None:
    model = loaded(family, tmp_path, implementation)
    inputs, layout = inputs_of(family), describe_layers(model)
    seen: dict[Role, Tensor] = {}

    def keep(role: Role) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, arguments: seen.update({role: arguments[0].detach()})

    layers = {spec.role: model.get_submodule(spec.layer) for spec in layout.layers if spec.block == 0}
    handles = [layers[role].register_forward_pre_hook(keep(role)) for role in (Role.ATTENTION_QUERY, Role.ATTENTION_OUTPUT)]
    with prefixed(model) as prefixes, torch.no_grad():
        model(**inputs)
        hidden, prefix = seen[Role.ATTENTION_QUERY], prefixes[0]
        query, key, value = (
            hidden @ weight_matrix(layers[role]).T + layers[role].bias
            for role in (Role.ATTENTION_QUERY, Role.ATTENTION_KEY, Role.ATTENTION_VALUE)
        )
        mask = inputs.get("attention_mask", torch.ones(hidden.shape[:2]))
        expected = torch.empty_like(hidden)
        for sample in range(len(hidden)):
            kept = mask[sample].bool()
            for head in range(4):
                part = slice(8 * head, 8 * head + 8)
                keys = torch.cat([prefix.keys[:, part], key[sample, kept, part]])
                values = torch.cat([prefix.values[:, part], value[sample, kept, part]])
                expected[sample, :, part] = (query[sample, :, part] @ keys.T / 8**0.5).softmax(-1) @ values
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen[Role.ATTENTION_OUTPUT], expected, rtol=1e-4, atol=1e-5)


def cache_of(prefixes: dict[int, Prefix], model: nn.Module, batch: int) -> DynamicCache:
    """A cache that holds the prefixes as if they were the keys and values of earlier tokens."""
    cache = DynamicCache(config=model.config)
    for block, prefix in prefixes.items():
        size = model.config.hidden_size // model.config.num_attention_heads
        pair = (part.detach().view(TOKENS, -1, size).transpose(0, 1) for part in (prefix.keys, prefix.values))
        cache.update(*(part.expand(batch, -1, -1, -1).clone() for part in pair), block)
    return cache


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_decoders_prefix_is_a_cache_that_was_filled_before_at_no_position(
    family: str, implementation: str, is_padded: bool, tmp_path: Path
) -> None:
    model = loaded(family, tmp_path, implementation)
    inputs = padded_text(is_left=False)
    if not is_padded:
        # Then transformers leaves the causal mask out, and sdpa is told `is_causal`.
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        plain = model(**inputs).logits
        with prefixed(model) as prefixes:
            got = model(**inputs).logits
        mask = torch.cat([torch.ones(3, TOKENS, dtype=torch.int64), inputs["attention_mask"]], dim=1)
        expected = model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=torch.arange(7).expand(3, -1),
            past_key_values=cache_of(prefixes, model, 3),
        ).logits
        after = model(**inputs).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, plain, atol=1e-2)
    assert torch.equal(after, plain)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generation_with_a_cache_sees_the_prefix_once_at_every_step(family: str, tmp_path: Path) -> None:
    model = loaded(family, tmp_path)
    inputs, options = padded_text(is_left=True), {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with prefixed(model) as prefixes, torch.no_grad():
        cached = model.generate(**inputs, **options, use_cache=True, output_scores=True, return_dict_in_generate=True)
        plain = model.generate(**inputs, **options, use_cache=False, output_scores=True, return_dict_in_generate=True)
        assert torch.equal(cached.sequences, plain.sequences)
        torch.testing.assert_close(torch.stack(cached.scores), torch.stack(plain.scores), rtol=1e-3, atol=1e-3)
        assert cached.past_key_values.get_seq_length() == cached.sequences.shape[1] - 1
        moved = model(**inputs).logits
        for prefix in prefixes.values():
            prefix.values.add_(1.0)
        assert not torch.allclose(model(**inputs).logits, moved)


def test_a_static_cache_longer_than_the_text_gives_the_same(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path)
    tokens = torch.arange(14).reshape(2, 7) + 5
    with prefixed(model), torch.no_grad():
        cache = StaticCache(config=model.config, max_cache_len=16)
        got = model(input_ids=tokens, past_key_values=cache).logits
        torch.testing.assert_close(got, model(input_ids=tokens, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def test_a_sliding_window_never_slides_past_the_prefix(tmp_path: Path) -> None:
    model = loaded("mistral", tmp_path, sliding_window=3)
    tokens = torch.arange(20).reshape(2, 10) + 5
    with prefixed(model, blocks=(0,)) as prefixes, torch.no_grad():
        first = model(input_ids=tokens).logits
        prefixes[0].values.add_(1.0)
        moved = (model(input_ids=tokens).logits - first).abs().amax(dim=(0, 2))
    assert moved.min() > 1e-3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_recomputing_activations_gives_the_same_gradients(family: str, tmp_path: Path) -> None:
    model, inputs = loaded(family, tmp_path), inputs_of(family)
    model.requires_grad_(False).train()
    gradients = []
    with prefixed(model) as prefixes:
        for recomputes in (False, True):
            if recomputes:
                model.activation_checkpointing_enable({"use_reentrant": False})
            torch.manual_seed(0)
            model(**inputs).logits.square().sum().backward()
            gradients.append([parameter.grad for prefix in prefixes.values() for parameter in prefix.parameters()])
            for prefix in prefixes.values():
                prefix.zero_grad()
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[0])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_dropout_acts_on_the_weights_of_the_prefix_too(tmp_path: Path) -> None:
    model = loaded("bert", tmp_path, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    model.eval()
    with prefixed(model), torch.no_grad():
        still = model(**inputs_of("bert")).logits
        assert torch.equal(model(**inputs_of("bert")).logits, still)
        model.train()
        assert not torch.allclose(model(**inputs_of("bert")).logits, still)


def test_an_attention_outside_the_interface_is_told(tmp_path: Path) -> None:
    model = loaded("gpt_neo", tmp_path, "eager")
    attention = model.get_submodule(describe_layers(model).blocks[0].attention or "")
    assert not uses_interface(attention)
    with pytest.raises(UnsupportedModelError, match=r"GPTNeoSelfAttention does not compute.*leave prefix out of --methods"):
        attend_prefixes_(attention)


@pytest.mark.parametrize("family", [family for family in EVERY_FAMILY if family != "gpt_neo"])
def test_every_other_family_can_have_prefixes(family: str, tmp_path: Path) -> None:
    model = loaded(family, tmp_path)
    assert [prefix_fault(model.get_submodule(spec.attention or "")) for spec in describe_layers(model).blocks] == [None, None]


def test_an_implementation_that_prefixes_cannot_join_is_told(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path)
    attention: Any = model.model.layers[0].self_attn
    attention.config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedModelError, match=r"eager and sdpa, not flex_attention: load the model with attn_impl"):
        attend_prefixes_(attention)


def test_a_model_whose_implementation_was_switched_does_not_run_without_its_prefix(tmp_path: Path) -> None:
    task_model: TaskModel = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    model = task_model.model
    with prefixed(model), torch.no_grad():
        model(**inputs_of("bert"))
        model.set_attn_implementation("eager")
        with pytest.raises(LayerLensError, match="ran without its prefix"):
            model(**inputs_of("bert"))
