"""A parameter without numbers, by which a model whose every matrix is stored still has a type and a device.

transformers asks a model's first parameter for both: to generate, to save, to place inputs. Stored matrices are buffers, and a
family without biases whose norms have no weights (OLMo, NanoChat) has nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TypeMark(nn.Module):
    """Holds an empty frozen parameter that is cast and moved with the model and stands in no file.

    Args:
        dtype: What the model computes in.
        device: Where it is.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.empty = nn.Parameter(torch.empty(0, dtype=dtype, device=device), requires_grad=False)

    def _save_to_state_dict(self, *_: Any) -> None:
        pass

    def _load_from_state_dict(self, *_: Any) -> None:
        pass
