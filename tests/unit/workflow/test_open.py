"""What a model is opened for; a plan's samples stay apart: text is cut as it was, and what decided the race tests nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerlens.adapting.race import race
from layerlens.artifacts.plan import Plan
from layerlens.config import CompressConfig, ProfilingConfig, RaceConfig, TrainingConfig
from layerlens.errors import ConfigError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.progress import Silent
from layerlens.words import TaskKind
from layerlens.workflow.open import check_race, open_data, open_plan_model, open_profile_model, open_streamed
from tests.tiny_models import save_tiny
from tests.unit.adapting.plans import make_plan, tiny_task_model
from tests.unit.workflow.compressions import write_text


def test_running_text_of_a_plan_is_cut_as_the_plan_was(tmp_path: Path) -> None:
    data = str(write_text(tmp_path / "text.txt", words=400))
    task_model = tiny_task_model("llama", tmp_path / "base", TaskKind.CAUSAL_LM)
    plan = make_plan(task_model, TaskKind.CAUSAL_LM, 2)
    assert plan.task.max_length == 16
    for asked in (None, 16):
        opened = open_plan_model(plan, data, TrainingConfig(max_length=asked))
        assert {len(example["input_ids"]) for example in opened.data.examples} == {16}
    with pytest.raises(ConfigError, match=r"--max-length 32: the plan shares out .*text.txt in windows of 16 tokens"):
        open_plan_model(plan, data, TrainingConfig(max_length=32))


def test_a_plan_on_rows_takes_another_length(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(f'{{"text": "w1 w2 w{row}", "label": "c{row % 3}"}}' for row in range(30)))
    task_model = tiny_task_model("bert", tmp_path / "base", TaskKind.CLASSIFICATION)
    opened = open_plan_model(make_plan(task_model, TaskKind.CLASSIFICATION, 2), str(path), TrainingConfig(max_length=4))
    assert opened.data.task.info.max_length == 4


def test_what_decided_the_race_does_not_test_the_plan(tmp_path: Path) -> None:
    task_model = tiny_task_model("llama", tmp_path / "base", TaskKind.CAUSAL_LM)
    plan, text = make_plan(task_model, TaskKind.CAUSAL_LM, 2), str(write_text(tmp_path / "text.txt", words=1600))

    def raced(eval_data: str | None) -> Plan:
        """Nothing runs where there is but one plan."""
        opened = open_plan_model(plan, text, TrainingConfig(), has_eval_data=eval_data is not None)
        config = RaceConfig(eval_data=eval_data)
        return race(plan, {}, task_model, opened.data, opened.part, config, state_path=None)

    data = open_data(task_model.checkpoint, text, TrainingConfig(), plan.task)
    check_race(raced(None), data, has_eval_data=False)
    with_data = raced("test.txt")
    check_race(with_data, data, has_eval_data=True)
    with pytest.raises(ConfigError, match=r"has raced with --eval-data test.txt, so samples of .* have decided its race"):
        check_race(with_data, data, has_eval_data=False)


@pytest.mark.parametrize(
    ("family", "kind", "told"),
    [("llama", TaskKind.CAUSAL_LM, "next-token loss"), ("bert", TaskKind.EMBEDDING, "embeddings")],
)
@pytest.mark.parametrize("texts", [("text",), ("sentence1", "sentence2")], ids=["one column", "two columns"])
def test_without_a_head_for_the_labels_a_model_is_opened_for_what_it_was_trained_for(
    tmp_path: Path, family: str, kind: TaskKind, told: str, texts: tuple[str, ...]
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ({**dict.fromkeys(texts, f"w1 w2 w{row}"), "label": f"c{row % 3}"} for row in range(30))
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    checkpoint, progress = open_checkpoint(str(save_tiny(family, tmp_path / "model"))), _Notes()
    loaded, model = open_streamed(checkpoint, str(path), CompressConfig(bits_per_weight=4, max_length=16), progress)
    assert (loaded.task.info.kind, tuple(loaded.task.info.text_columns)) == (kind, texts)
    assert model.new_parameters == ()
    assert told in progress.notes[0]
    model.state.reader.close()


def test_a_split_of_what_is_read_whole_is_refused_wherever_it_is_opened(tmp_path: Path) -> None:
    data = str(write_text(tmp_path / "text.txt", words=400))
    task_model = tiny_task_model("llama", tmp_path / "base", TaskKind.CAUSAL_LM)
    plan, base = make_plan(task_model, TaskKind.CAUSAL_LM, 2), task_model.checkpoint
    for open_it in (
        lambda: open_plan_model(plan, data, TrainingConfig(split="test")),
        lambda: open_profile_model(base.id, data, ProfilingConfig(split="test")),
        lambda: open_streamed(base, data, CompressConfig(bits_per_weight=4, split="test")),
    ):
        with pytest.raises(ConfigError, match=r"^--split test: .*text\.txt is read whole"):
            open_it()


class _Notes(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
