"""A plan's LoRA in PEFT's words: what PEFT is given when a plan is tuned, and what exports write for it.

PEFT looks a layer's rank up by `re.match(r"(.*\\.)?(KEY)$", module_path)` and takes the first key that fits, so a key is
"^" + the escaped full path: nothing else can fit it. Its scaling is alpha / r; with ranks that differ, alpha is
written per layer so that alpha / r stays the plan's constant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from layerlens.words import TaskKind

#: Values of PEFT's `TaskType`. It has none for images and embeddings; its plain model class serves them.
TASK_TYPES: Mapping[TaskKind, str | None] = {
    TaskKind.CLASSIFICATION: "SEQ_CLS",
    TaskKind.PAIR_CLASSIFICATION: "SEQ_CLS",
    TaskKind.REGRESSION: "SEQ_CLS",
    TaskKind.CAUSAL_LM: "CAUSAL_LM",
    TaskKind.IMAGE_CLASSIFICATION: None,
    TaskKind.QUESTION_ANSWERING: "QUESTION_ANS",
    TaskKind.EMBEDDING: None,
}


def pattern_key(layer: str) -> str:
    """The key of `rank_pattern` and `alpha_pattern` that fits this full module path and no other."""
    return "^" + re.escape(layer)


def alpha_of_rank(alpha_over_rank: float, rank: int) -> float:
    """The alpha of a layer of this rank. Whole numbers stay whole: other programs read `lora_alpha` as an integer."""
    alpha = alpha_over_rank * rank
    return int(alpha) if alpha == int(alpha) else alpha
