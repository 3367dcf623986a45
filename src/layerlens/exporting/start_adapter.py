"""A PEFT folder with an untrained adapter, for tools that hold one rank but go on from an adapter: it brings its own ranks.

A LoRA's start is the identity: down is uniform in ±1/√in_features, PEFT's own distribution (Hu et al. 2021, arXiv 2106.09685,
section 4.1, with the bound of PEFT's Kaiming start), up is zero. float32.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from layerlens.exporting.lora_settings import LoraSettings
from layerlens.exporting.peft import CONFIG_FILE, peft_config

WEIGHTS_FILE = "adapter_model.safetensors"


def start_adapter(settings: LoraSettings) -> dict[str, bytes]:
    """The files of the folder; equal plans give equal bytes.

    Args:
        settings: Of a plan without a trained head.
    """
    tensors: dict[str, NDArray[np.float32]] = {}
    for entry in sorted(settings.plan.adapted, key=lambda entry: entry.layer):
        digest = hashlib.sha256(f"{settings.plan.metadata.seed}:{entry.layer}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        bound = entry.in_features**-0.5
        down = generator.uniform(-bound, bound, (entry.size, entry.in_features)).astype(np.float32)
        tensors[f"base_model.model.{entry.layer}.lora_A.weight"] = down
        tensors[f"base_model.model.{entry.layer}.lora_B.weight"] = np.zeros((entry.out_features, entry.size), np.float32)
    config = json.dumps(peft_config(settings), indent=2, sort_keys=True) + "\n"
    return {CONFIG_FILE: config.encode(), WEIGHTS_FILE: save(tensors, metadata={"format": "pt"})}
