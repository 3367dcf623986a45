"""One attention function that lets every model attend its prefixes: it prepends them and calls the model's own function.

A model that uses transformers' attention interface looks its attention up by the name in its config, and its masks by the
same name. Registered here is a name beside `eager` and beside `sdpa`; masks under it are made as under the original,
and an attention without a prefix is passed on untouched, down to the fast causal path of sdpa.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from layerlens.errors import UnsupportedModelError
from layerlens.nn.attention_interface import AttentionFunction, attention_function, uses_interface
from layerlens.nn.prefix import prefix_of, with_prefix_columns

#: Implementation of the model -> name of the same one with prefixes.
WITH_PREFIXES = {"eager": "layerlens_prefix_eager", "sdpa": "layerlens_prefix_sdpa"}


def attend_prefixes_(attention: nn.Module) -> Callable[[], None]:
    """Let `attention`, and whatever shares its config, attend prefixes; calling what is returned puts the config back.

    Raises:
        UnsupportedModelError: its attention is computed in a way that prefixes cannot join.
    """
    if (fault := prefix_fault(attention)) is not None:
        raise UnsupportedModelError(f"{fault}; leave prefix out of --methods")
    config: Any = attention.config
    before = config._attn_implementation
    # The public setter would also change the configs of a composite model's other parts.
    config._attn_implementation_internal = WITH_PREFIXES.get(before, before)

    def put_back() -> None:
        config._attn_implementation_internal = before

    return put_back


def prefix_fault(attention: nn.Module) -> str | None:
    """Why a module cannot have a prefix; none where it can."""
    if not uses_interface(attention):
        return f"a {type(attention).__name__} does not compute its attention through transformers' attention interface"
    config: Any = attention.config
    if config._attn_implementation not in {*WITH_PREFIXES, *WITH_PREFIXES.values()}:
        return (
            f"prefixes join the attention implementations {' and '.join(WITH_PREFIXES)}, not {config._attn_implementation}: load "
            'the model with attn_implementation="sdpa"'
        )
    return None


def _attending_prefixes(implementation: str) -> AttentionFunction:
    def attend(
        attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        function = attention_function(attention, implementation)
        prefix = prefix_of(attention)
        if prefix is None:
            return function(attention, query, key, value, attention_mask, **options)
        if options.get("cache") is not None:
            raise UnsupportedModelError("prefixes cannot be served with a paged cache; generate with an ordinary one")
        asked = options.get("is_causal")
        is_causal = getattr(attention, "is_causal", True) if asked is None else asked
        attention_mask = with_prefix_columns(
            attention_mask,
            prefix.num_tokens,
            query.shape[2],
            key.shape[2],
            # Only sdpa leaves a causal mask out; under eager no mask bars nothing.
            is_causal=implementation == "sdpa" and bool(is_causal),
            device=query.device,
        )
        if (bias := options.get("position_bias")) is not None:
            options["position_bias"] = torch.cat([bias.new_zeros(*bias.shape[:-1], prefix.num_tokens), bias], dim=-1)
        key, value = prefix(key, value)
        return function(attention, query, key, value, attention_mask, **options)

    return attend


for _implementation, _name in WITH_PREFIXES.items():
    AttentionInterface.register(_name, _attending_prefixes(_implementation))
    AttentionMaskInterface.register(_name, ALL_MASK_ATTENTION_FUNCTIONS[_implementation])
