"""A streamed model's training step is counted as that of the model in memory is, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerlens.data.tasks import build_task
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.processor import load_processor
from layerlens.models.streamed.load import load_streamed_model
from layerlens.models.streamed.tensor_reader import TensorReader
from layerlens.profiling.activation_memory import count_step
from layerlens.profiling.counted_samples import counted_samples
from layerlens.profiling.sample_lengths import sample_lengths
from layerlens.profiling.streamed.activation_memory import count_streamed_step
from layerlens.words import TaskKind
from tests.unit.profiling.cases import open_case

CASES = [
    ("bert", TaskKind.QUESTION_ANSWERING),
    ("gpt2", TaskKind.CAUSAL_LM),
    ("llama", TaskKind.CLASSIFICATION),
    ("vit", TaskKind.IMAGE_CLASSIFICATION),
]


@pytest.mark.parametrize(("family", "kind"), CASES, ids=lambda value: str(value))
def test_it_is_the_same_count_and_reads_no_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kind: TaskKind
) -> None:
    case = open_case(tmp_path, family, kind)
    checkpoint = open_checkpoint(str(tmp_path / family))
    model = load_streamed_model(checkpoint, case.task.info, seed=0)
    task = build_task(case.task.info, load_processor(checkpoint, kind))
    modes = [module.training for module in model.model.modules()]
    lengths = sample_lengths(case.model, case.layout.layers, case.task, case.examples)
    samples = counted_samples(case.task, case.examples, lengths)
    expected = [count_step(case.model, case.layout, case.task, one) for one in samples]

    assert [count_streamed_step(model, task, one) for one in samples] == expected

    def read(*_: object) -> None:
        raise AssertionError

    # What a block gives back was learned from a real one; counting itself reads nothing.
    monkeypatch.setattr(TensorReader, "read", read)
    assert [count_streamed_step(model, task, one) for one in samples] == expected
    assert modes == [module.training for module in model.model.modules()]
