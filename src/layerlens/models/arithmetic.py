"""In what arithmetic a device is fast."""

from __future__ import annotations

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 here: a GPU that supports it, or a processor with its instructions."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # torch has told this since 2.10; before, float32 is the safe choice.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
