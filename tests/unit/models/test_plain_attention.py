"""Plain products are for short batches in bfloat16 on a processor, and compute what the fused kernel does."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from layerlens.models.plain_attention import tokens_of, training_attention

CPU = torch.device("cpu")
TEXT, VISION = nn.Module(), nn.Module()
VISION.config = SimpleNamespace(patch_size=16)


def _is_plain(num_tokens: float, device: torch.device = CPU) -> bool:
    with training_attention(device, num_tokens):
        found = not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() is found
    assert torch.backends.cuda.flash_sdp_enabled()
    assert not torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    return found


def test_short_samples_are_plain_and_longer_ones_and_other_devices_are_not() -> None:
    assert _is_plain(256)
    assert not _is_plain(257)
    assert not _is_plain(16, torch.device("meta"))


def test_tokens_are_those_of_the_mask_or_the_patches_of_an_image() -> None:
    assert tokens_of(TEXT, {"attention_mask": torch.ones(2, 11)}) == 11
    pixels = {"pixel_values": torch.zeros(1, 3, 224, 224)}
    assert tokens_of(VISION, pixels) == 14 * 14
    assert tokens_of(TEXT, pixels) == float("inf")


def test_plain_products_in_bfloat16_are_as_near_to_the_truth_as_the_fused_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 32, 16, generator=generator) for _ in range(3))
    truth = scaled_dot_product_attention(query, key, value)

    def error() -> float:
        found = scaled_dot_product_attention(query.bfloat16(), key.bfloat16(), value.bfloat16())
        assert found.dtype == torch.bfloat16
        return float((found.float() - truth).norm() / truth.norm())

    fused = error()
    with training_attention(CPU, 32):
        plain = error()
    assert 0 < plain < 1.5 * fused
