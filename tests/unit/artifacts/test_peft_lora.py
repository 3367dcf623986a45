"""PEFT's words mean to PEFT what they say."""

from __future__ import annotations

import pytest
from peft import TaskType
from peft.utils.other import get_pattern_key

from layerlens.artifacts.peft_lora import TASK_TYPES, alpha_of_rank, pattern_key
from layerlens.words import TaskKind


def test_a_pattern_key_fits_its_own_layer_and_no_other() -> None:
    keys = [pattern_key("encoder.layer.1.output.dense"), pattern_key("encoder.layer.11.output.dense")]
    assert get_pattern_key(keys, "encoder.layer.11.output.dense") == keys[1]
    assert get_pattern_key(keys, "encoder.layer.1.output.dense") == keys[0]
    for other in ("encoder.layer.1.attention.output.dense", "bert.encoder.layer.1.output.dense", "encoderxlayer.1.output.dense"):
        assert get_pattern_key(keys, other) == other


def test_every_task_is_one_that_peft_knows_or_none() -> None:
    assert set(TASK_TYPES) == set(TaskKind)
    assert {name for name in TASK_TYPES.values() if name} <= {kind.value for kind in TaskType}


@pytest.mark.parametrize(("alpha_over_rank", "rank", "alpha"), [(2.0, 3, 6), (1.5, 2, 3), (1.5, 3, 4.5), (0.25, 1, 0.25)])
def test_alpha_is_whole_where_it_can_be(alpha_over_rank: float, rank: int, alpha: float) -> None:
    found = alpha_of_rank(alpha_over_rank, rank)
    assert (found, type(found)) == (alpha, type(alpha))
