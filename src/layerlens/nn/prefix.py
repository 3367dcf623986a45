"""A prefix: keys and values that every query of one attention may attend to, before those of the tokens.

    softmax(scale · q [P_k; K]ᵀ + [0; mask]) [P_v; V]

Source: Li and Liang (2021), arXiv 2101.00190, section 4, without the network that produces the prefix there. One prefix belongs
to one block; its keys stand behind any rotation of positions and never enter a cache, so both stay the tokens' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from layerlens.errors import LayerLensError, UnsupportedModelError

#: The name it bears as a child of the attention.
PREFIX = "layerlens_prefix"
#: Learning rate as a multiple of LoRA's. stories260k moved to Shakespeare (100 steps of 8 × 64 tokens), 8 tokens in every block,
#: ended at 3.73, 3.585, 3.585, 3.60 nats with rates of 0.03, 0.1, 0.3, 0.9, LoRA's best being 0.03; MiniLM on SST-2 (60 steps of
#: 8) at 0.677, 0.671, 0.654, 0.695 with 3, 10, 30 and 100 times LoRA's best, 0.003.
PREFIX_RATE = 30.0
#: Half the width of the uniform distribution that the keys start from. At a rate of 0.1 the first of these runs ended at 3.66,
#: 3.64, 3.585, 3.70 nats from 0.02, 0.1, 1, 3.
KEY_BOUND = 1.0


class Prefix(nn.Module):
    """`tokens` keys and values over all key/value heads: 2 · tokens · kv_features parameters.

    Values start at zero: at its start a prefix takes a little weight from the tokens and adds nothing. Keys start apart from each
    other, since equal ones would stay equal.

    Args:
        kv_features: Key/value heads × head size.
        tokens: Keys and values.
        generator: Draws the start, on the processor. A smaller prefix's start is the first tokens of a larger one's.
        device: Where the parameters live.
    """

    def __init__(
        self, kv_features: int, tokens: int, *, generator: torch.Generator, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        keys = torch.empty(tokens, kv_features).uniform_(-KEY_BOUND, KEY_BOUND, generator=generator)
        self.keys = nn.Parameter(keys.to(device))
        self.values = nn.Parameter(torch.zeros(tokens, kv_features, device=device))
        self.is_on = True
        self.num_uses = 0

    def forward(
        self, key: Float[Tensor, "batch kv_heads positions head_size"], value: Float[Tensor, "batch kv_heads positions head_size"]
    ) -> tuple[
        Float[Tensor, "batch kv_heads positions_and_tokens head_size"],
        Float[Tensor, "batch kv_heads positions_and_tokens head_size"],
    ]:
        """Keys and values with the prefix before them.

        Raises:
            UnsupportedModelError: the attention's keys are not as wide as the plan says.
        """
        self.num_uses += 1
        return self._before(key, self.keys), self._before(value, self.values)

    def _before(
        self, given: Float[Tensor, "batch kv_heads positions head_size"], own: Float[Tensor, "tokens kv_features"]
    ) -> Float[Tensor, "batch kv_heads positions_and_tokens head_size"]:
        batch, heads, _, size = given.shape
        tokens, features = own.shape
        if heads * size != features:
            raise UnsupportedModelError(
                f"an attention with {heads} key/value heads of size {size} got a prefix of width {features}; "
                "plan again with a profile of this model, or leave prefix out of --methods"
            )
        own = own.view(tokens, heads, size).transpose(0, 1).expand(batch, -1, -1, -1)
        return torch.cat([own.to(given.dtype), given], dim=2)

    @property
    def num_tokens(self) -> int:
        return len(self.keys)

    def place_before_(self, attention: nn.Module) -> Callable[[], None]:
        """Make this the prefix of `attention`, its child; calling what is returned takes it off.

        `prefix_attention.attend_prefixes_` makes the model use it. An attention that runs without its prefix, because its
        implementation was switched meanwhile, is an error.
        """
        attention.add_module(PREFIX, self)
        hooks = [attention.register_forward_pre_hook(_count_none), attention.register_forward_hook(_check_used)]

        def take_off() -> None:
            for hook in hooks:
                hook.remove()
            delattr(attention, PREFIX)

        return take_off


def prefix_of(attention: nn.Module) -> Prefix | None:
    """The prefix of an attention; none where it has none, or one that is switched off."""
    found = attention._modules.get(PREFIX)
    return found if isinstance(found, Prefix) and found.is_on else None


def with_prefix_columns(
    mask: Tensor | None, num_tokens: int, num_queries: int, num_keys: int, *, is_causal: bool, device: torch.device
) -> Tensor | None:
    """A mask over keys, with a column that no query is barred from for each token of a prefix before them.

    Args:
        mask: [batch or 1, heads or 1, queries, keys]: boolean, true where a query may look, or floating, added to the scores.
            None bars nothing, unless `is_causal`.
        num_tokens: Tokens of the prefix.
        num_queries: Queries.
        num_keys: Keys without the prefix.
        is_causal: None stands for a mask where query i sees key i and those before, counted from the first of each.
        device: Of a mask that is made here.

    Returns:
        The wider mask; none where still nothing is barred.
    """
    if mask is None:
        if not is_causal or num_queries == 1:
            return None
        mask = _lower_triangle(num_queries, num_keys, device)
    free = mask.new_full((*mask.shape[:-1], num_tokens), 1 if mask.dtype == torch.bool else 0)
    return torch.cat([free, mask], dim=-1)


def _lower_triangle(num_queries: int, num_keys: int, device: torch.device) -> Bool[Tensor, "1 1 queries keys"]:
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril()[None, None]


def _count_none(attention: nn.Module, _: tuple[Any, ...]) -> None:
    if (prefix := prefix_of(attention)) is not None:
        prefix.num_uses = 0


def _check_used(attention: nn.Module, _: tuple[Any, ...], __: Any) -> None:
    prefix = prefix_of(attention)
    if prefix is not None and not prefix.num_uses:
        raise LayerLensError(
            f"a {type(attention).__name__} ran without its prefix: the model's attention implementation was changed after the "
            "prefix was put on; choose it before"
        )
