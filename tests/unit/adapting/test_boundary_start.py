"""Training from kept hidden states is training without them, and runs the frozen blocks once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layerlens.adapting.attach import attached
from layerlens.adapting.boundary_start import BOUNDARY_FILE, BoundaryStart
from layerlens.adapting.boundary_store import BoundaryShelf
from layerlens.adapting.lora import trainable_state
from layerlens.adapting.optimizer import build_optimizer, build_schedule
from layerlens.adapting.training import train
from layerlens.artifacts.plan import Plan
from layerlens.config import Precision, TrainingConfig
from layerlens.data import training_batches
from layerlens.data.dataset import LoadedData
from layerlens.data.example import Example
from layerlens.data.tasks import build_task
from layerlens.models.load import TaskModel
from layerlens.models.processor import load_processor
from layerlens.models.roles import describe_layers
from layerlens.words import TaskKind
from tests.unit.adapting.plans import EVERY_FAMILY, info_of, kind_of, made_data, make_plan, tiny_task_model

CONFIG = TrainingConfig(learning_rate=3e-3, precision=Precision.FP32)
WITH_DROPOUT = CONFIG.model_copy(update={"dropout": True})
NOTHING_KEPT = CONFIG.model_copy(update={"keep_at_most": 0})
NUM, SIZE, EPOCHS = 24, 8, 3

Trained = tuple[list[float], dict[str, Tensor]]


def shuffled_batches(num: int = NUM, epochs: int = EPOCHS) -> list[list[int]]:
    """Every sample once per epoch, in other company each time."""
    generator = np.random.default_rng(5)
    return [
        order[start : start + SIZE]
        for order in (generator.permutation(num).tolist() for _ in range(epochs))
        for start in range(0, num, SIZE)
    ]


def of_one_length(data: LoadedData) -> LoadedData:
    """The same samples, each cut or repeated to six tokens; images are as they are."""

    def made(example: Example) -> Example:
        if "input_ids" not in example:
            return example
        tokens = (example["input_ids"] * 3)[:6]
        labels = tokens if isinstance(example["labels"], list) else example["labels"]
        return {"input_ids": tokens, "attention_mask": [1] * 6, "labels": labels}

    examples = [made(data.examples[number]) for number in range(len(data.examples))]
    return LoadedData(id=data.id, task=data.task, examples=examples, splits=None, columns={})


def upper_plan(task_model: TaskModel, kind: TaskKind) -> Plan:
    """LoRA in every layer of the second block."""
    return make_plan(task_model, kind, {spec.layer: 2 for spec in describe_layers(task_model.model).layers if spec.block == 1})


def result(losses: list[float], adapted: nn.Module) -> Trained:
    return losses, {name: tensor.clone() for name, tensor in trainable_state(adapted).items()}


def trained(
    task_model: TaskModel, plan: Plan, data: LoadedData, batches: list[list[int]], config: TrainingConfig = CONFIG
) -> Trained:
    with attached(task_model.model, plan, seed=0) as adapted:
        return result(train(adapted, data.task, data.examples, batches, config, seed=3), adapted)


def trained_plainly(
    task_model: TaskModel, plan: Plan, data: LoadedData, batches: list[list[int]], config: TrainingConfig = CONFIG
) -> Trained:
    """Every step runs the whole model; what is not above the first block is in evaluation mode, so that it has no dropout."""
    first = describe_layers(task_model.model).blocks[0].path
    with attached(task_model.model, plan, seed=0) as adapted:
        optimizer = build_optimizer(adapted, config)
        schedule = build_schedule(optimizer, num_steps=len(batches), warmup_ratio=config.warmup_ratio)
        parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        adapted.train(config.dropout)
        task_model.model.get_submodule(first).eval()
        for path, module in task_model.model.named_modules():
            if "embed" in path or path in ("transformer.drop", "transformer.wte", "transformer.wpe"):
                module.eval()
        losses = []
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for samples in batches:
                batch = data.task.collate([data.examples[sample] for sample in samples], multiple_of=training_batches.TOKENS)
                loss = data.task.per_sample_loss(adapted(**data.task.model_inputs(batch)), batch).mean()
                losses.append(loss.item())
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return result(losses, adapted)


def assert_equal(one: Trained, other: Trained) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


def assert_close(one: Trained, other: Trained) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-6)
    for name, tensor in one[1].items():
        torch.testing.assert_close(tensor, other[1][name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, WITH_DROPOUT], ids=["without-dropout", "dropout"])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_training_from_kept_states_is_training_without_them(
    family: str, config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = kind_of(family)
    task_model = tiny_task_model(family, tmp_path, kind)
    data, plan, batches = made_data(task_model, kind, NUM), upper_plan(task_model, kind), shuffled_batches()
    alike = of_one_length(data)
    # Batches that are padded alike have products of one shape, which add in one order.
    assert_equal(trained(task_model, plan, alike, batches, config), trained_plainly(task_model, plan, alike, batches, config))
    # These short samples would all be padded to the same length else.
    monkeypatch.setattr(training_batches, "TOKENS", 1)
    assert_close(trained(task_model, plan, data, batches, config), trained_plainly(task_model, plan, data, batches, config))


class Rows:
    """Counts the rows that a layer of the first block computes; a stubbed block computes none."""

    def __init__(self, task_model: TaskModel) -> None:
        self.num = 0
        layer = next(spec.layer for spec in describe_layers(task_model.model).layers if spec.block == 0)
        task_model.model.get_submodule(layer).register_forward_hook(self._count)

    def _count(self, _: nn.Module, args: tuple[Tensor, ...], __: object) -> None:
        self.num += len(args[0])


#: Samples that run through the whole model once, and through its lower half twice, before training starts.
TRIED = 2 + 2


def test_each_sample_runs_through_the_frozen_blocks_once(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    rows = Rows(task_model)
    trained(task_model, plan, data, shuffled_batches())
    assert rows.num == NUM + TRIED
    rows.num = 0
    trained(task_model, plan, data, shuffled_batches(), NOTHING_KEPT)
    assert rows.num == EPOCHS * NUM + TRIED


def start_of(
    adapted: nn.Module, data: LoadedData, batches: Sequence[Sequence[int]], config: TrainingConfig, folder: Path | None
) -> BoundaryStart:
    return BoundaryStart(adapted, data.task, data.examples, batches, config, folder=folder)


def hidden_of(start: BoundaryStart, adapted: nn.Module, data: LoadedData, samples: list[int]) -> Tensor:
    """The logits of a step's forward pass, which hold all that the hidden states say."""
    batch = data.task.collate([data.examples[sample] for sample in samples])
    adapted.eval()
    with torch.no_grad(), start.step(samples, batch):
        logits: Tensor = adapted(**data.task.model_inputs(batch)).logits
    return logits


def test_where_they_are_kept_makes_no_difference_and_the_file_goes_with_the_run(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path / "base", TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    batches, in_file = shuffled_batches(), CONFIG.model_copy(update={"keep_in_memory": 0})
    with attached(task_model.model, plan, seed=0) as adapted:
        with start_of(adapted, data, batches, CONFIG, tmp_path) as start:
            in_memory = [hidden_of(start, adapted, data, samples) for samples in batches]
            assert not (tmp_path / BOUNDARY_FILE).exists()
            assert start.kept_bytes == 4 * 32 * sum(len(data.examples[sample]["input_ids"]) for sample in range(NUM))
        with start_of(adapted, data, batches, in_file, tmp_path) as start:
            from_file = [hidden_of(start, adapted, data, samples) for samples in batches]
            assert (tmp_path / BOUNDARY_FILE).stat().st_size == start.kept_bytes
        assert not (tmp_path / BOUNDARY_FILE).exists()
    assert all(torch.equal(one, other) for one, other in zip(in_memory, from_file, strict=True))


def test_one_epoch_keeps_nothing(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    with attached(task_model.model, plan, seed=0) as adapted:
        for epochs, is_kept in ((1, False), (2, True)):
            batches = shuffled_batches(epochs=epochs)
            with start_of(adapted, data, batches, CONFIG, None) as start:
                hidden_of(start, adapted, data, batches[0])
                assert start.cut == 1
                assert (start.kept_bytes > 0) is is_kept


def test_a_run_that_starts_late_finds_the_states_that_a_whole_run_has(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    batches = shuffled_batches()
    with attached(task_model.model, plan, seed=0) as adapted:
        with start_of(adapted, data, batches, CONFIG, None) as start:
            whole = [hidden_of(start, adapted, data, samples) for samples in batches]
        with start_of(adapted, data, batches, CONFIG, None) as start:
            late = [hidden_of(start, adapted, data, samples) for samples in batches[4:]]
    assert all(torch.equal(one, other) for one, other in zip(whole[4:], late, strict=True))


def answers_in(task_model: TaskModel) -> LoadedData:
    """Questions of many lengths, each answered by one token."""
    generator = np.random.default_rng(0)
    examples: list[Example] = []
    for _ in range(NUM):
        tokens = [2, *generator.integers(20, 60, size=int(generator.integers(3, 12))).tolist(), 3]
        place = int(generator.integers(1, len(tokens) - 1))
        examples.append(
            {"input_ids": tokens, "attention_mask": [1] * len(tokens), "start_positions": place, "end_positions": place}
        )
    kind = TaskKind.QUESTION_ANSWERING
    task = build_task(info_of(kind), load_processor(task_model.checkpoint, kind))
    return LoadedData(id="made", task=task, examples=examples, splits=None, columns={})


@pytest.mark.parametrize("family", ["bert", "deberta_v2"])
def test_spans_learn_the_same_whatever_the_base_makes_of_padding(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A padding token of DeBERTa looks at every token alike, so what stands there depends on how far the batch is padded."""
    monkeypatch.setattr(training_batches, "TOKENS", 1)
    kind = TaskKind.QUESTION_ANSWERING
    task_model = tiny_task_model(family, tmp_path, kind)
    with torch.no_grad():
        for name, parameter in task_model.model.named_parameters():
            if name.endswith("bias"):
                # Where all are zero, the norm behind an attention takes out all that the batch's length does.
                parameter.copy_(torch.linspace(-0.5, 0.5, len(parameter)))
    data = answers_in(task_model)
    plan, batches = upper_plan(task_model, kind), shuffled_batches()
    with attached(task_model.model, plan, seed=0) as adapted:
        start = start_of(adapted, data, batches, CONFIG, None)
        batch = data.task.collate([data.examples[sample] for sample in batches[0]])
        with start.step(batches[0], batch):
            adapted(**data.task.model_inputs(batch))
        assert start.cut == 1
        assert start.kept_bytes > 0
    kept, plain = trained(task_model, plan, data, batches), trained_plainly(task_model, plan, data, batches)
    for _, state in (kept, plain):
        # A bias on all of a softmax's logits has no gradient but rounding, which Adam blows up.
        state.pop(next(name for name in state if name.endswith("qa_outputs.modules_to_save.default.bias")))
    assert_close(kept, plain)


def test_runs_that_share_a_shelf_share_the_work_and_end_as_if_alone(tmp_path: Path) -> None:
    task_model = tiny_task_model("bert", tmp_path, TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    batches, shelf = shuffled_batches(epochs=1), BoundaryShelf(1 << 20)
    alone = trained(task_model, plan, data, batches)
    rows = Rows(task_model)

    def shared(num_steps: int) -> Trained:
        with attached(task_model.model, plan, seed=0) as adapted:
            return result(train(adapted, data.task, data.examples, batches[:num_steps], CONFIG, seed=3, shelf=shelf), adapted)

    shared(2)
    assert rows.num == 2 * SIZE + TRIED
    assert_equal(shared(3), alone)
    assert rows.num == 3 * SIZE + 2 * TRIED
    assert_equal(shared(3), alone)
    assert rows.num == 3 * SIZE + 3 * TRIED


def test_blocks_that_see_padding_run_in_every_step_though_the_first_batch_has_none(tmp_path: Path) -> None:
    task_model = tiny_task_model("fnet", tmp_path, TaskKind.CLASSIFICATION)
    data, plan = made_data(task_model, TaskKind.CLASSIFICATION, NUM), upper_plan(task_model, TaskKind.CLASSIFICATION)
    whole = [{**example, "input_ids": (example["input_ids"] * 8)[:16], "attention_mask": [1] * 16} for example in data.examples]
    mixed = LoadedData(id="made", task=data.task, examples=[*whole[:SIZE], *data.examples[SIZE:]], splits=None, columns={})
    with attached(task_model.model, plan, seed=0) as adapted, start_of(adapted, mixed, shuffled_batches(), CONFIG, None) as start:
        hidden_of(start, adapted, mixed, list(range(SIZE)))
        assert (start.cut, start.kept_bytes) == (0, 0)
