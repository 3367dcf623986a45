"""What the processor can do, as torch tells it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def processor_capabilities() -> Mapping[str, Any]:
    """Instruction sets by name; empty where torch does not tell, as before 2.10: plain float32 is the safe choice then."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def processor_multiplies_bfloat16() -> bool:
    """Whether it has instructions for products in bfloat16; without them they are slower than in float32."""
    capabilities = processor_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
