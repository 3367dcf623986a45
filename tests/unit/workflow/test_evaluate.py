"""What plain models and adapters are scored on: their own labels, the same samples for both, a seeded choice of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from layerlens.adapting.attach import attached
from layerlens.adapting.save import save_adapter
from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import save_plan
from layerlens.config import EvaluateConfig
from layerlens.data.partition import partition
from layerlens.data.source_name import whole_name
from layerlens.errors import CheckpointError, ConfigError
from layerlens.models.foreign import quiet
from layerlens.words import Method, TaskKind
from layerlens.workflow import evaluate as module
from layerlens.workflow.evaluate import evaluate
from tests.tiny_models import WORDS, save_tiny, save_tokenizer
from tests.unit.adapting.mixed_plans import mixed_plan
from tests.unit.adapting.plans import kind_of, tiny_task_model
from tests.unit.workflow.compressions import write_text

NAMES = ["early", "late", "never"]


class Notes:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(self, items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        yield from items

    def note(self, text: str) -> None:
        self.notes.append(text)


def classifier(folder: Path, order: list[int], names: list[str]) -> Path:
    """The same trained classifier whatever the order of its outputs, with the names that these have."""
    save_tiny("bert", folder, num_hidden_layers=1)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    torch.manual_seed(3)
    with quiet():
        config = transformers.AutoConfig.from_pretrained(folder, **labels)
        model = transformers.BertForSequenceClassification(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(5.0)
            model.classifier.weight.copy_(20.0 * model.classifier.weight[order])
        model.save_pretrained(folder)
    save_tokenizer(folder, is_decoder=False)
    return folder


def table(path: Path, labels: list[str], rows: int = 60) -> Path:
    generator = random.Random(0)
    lines = [f"{' '.join(generator.choices(WORDS, k=5))},{labels[row % len(labels)]}" for row in range(rows)]
    path.write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    return path


def scores(model: Path, data: Path, against: Path | None = None, progress: Any = None, **options: Any) -> Evaluation:
    found = evaluate(
        str(model),
        str(data),
        None if against is None else str(against),
        model.parent / "evaluation.json",
        EvaluateConfig(**options),
        progress=progress or Notes(),
    )
    assert isinstance(found, Evaluation)
    return found


def test_a_head_is_scored_by_its_own_names_in_whatever_order(tmp_path: Path) -> None:
    plain = classifier(tmp_path / "plain", [0, 1, 2], NAMES)
    turned = classifier(tmp_path / "turned", [2, 0, 1], [NAMES[index] for index in (2, 0, 1)])
    data = table(tmp_path / "data.csv", NAMES)
    alone = scores(plain, data).arms[0].metrics
    assert 0 < alone["accuracy"] < 1
    assert scores(turned, data).arms[0].metrics == pytest.approx(alone)
    # Beside another model each has its own order.
    assert [arm.metrics["loss"] for arm in scores(plain, data, turned).arms] == pytest.approx([alone["loss"]] * 2)


def test_data_may_lack_a_class_that_the_head_has(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model", [0, 1, 2], NAMES)
    both = scores(model, table(tmp_path / "two.csv", ["late", "never"])).arms[0].metrics["loss"]
    ends = [scores(model, table(tmp_path / "one.csv", [label])).arms[0].metrics["loss"] for label in ("late", "never")]
    assert both == pytest.approx(sum(ends) / 2, rel=0.5)
    assert ends[0] != pytest.approx(ends[1], rel=0.01)


def test_names_that_are_not_the_data_s_are_told(tmp_path: Path) -> None:
    data = table(tmp_path / "data.csv", ["0", "1", "2"])
    told, untold = Notes(), Notes()
    scores(classifier(tmp_path / "named", [0, 1, 2], NAMES), data, progress=told)
    scores(classifier(tmp_path / "nameless", [0, 1, 2], [f"LABEL_{index}" for index in range(3)]), data, progress=untold)
    assert any("calls its classes early, late, never, the data call theirs 0, 1, 2" in note for note in told.notes)
    assert not any("calls its classes" in note for note in untold.notes)


def test_data_may_call_outputs_by_their_numbers_and_lack_some(tmp_path: Path) -> None:
    model, names = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "names.csv", NAMES[:2])
    numbers, told = table(tmp_path / "numbers.csv", ["0", "1"]), Notes()
    assert scores(model, numbers, progress=told).arms[0].metrics == scores(model, names).arms[0].metrics
    assert any("calls its classes early, late, never, the data call theirs 0, 1, 2" in note for note in told.notes)


def test_a_head_of_another_size_is_not_called_none(tmp_path: Path) -> None:
    model = classifier(tmp_path / "model", [0, 1, 2], NAMES)
    with pytest.raises(CheckpointError, match=r"head of .*model has 3 outputs, but classification on .* needs 4 \(a, b, c"):
        scores(model, table(tmp_path / "data.csv", ["a", "b", "c", "d"]))


def test_a_second_model_that_cannot_be_scored_is_told_before_the_first_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "data.csv", NAMES)
    headless = save_tiny("bert", tmp_path / "headless", num_hidden_layers=1)
    monkeypatch.setattr(module, "evaluate_model", lambda *args, **options: pytest.fail("a model is scored"))
    with pytest.raises(CheckpointError, match="headless has no trained head for classification"):
        scores(model, data, headless)


def test_what_of_the_data_is_left_out_is_told_once(tmp_path: Path) -> None:
    model, data, told = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "data.csv", NAMES, rows=200), Notes()
    data.write_text(f"{data.read_text()}\nno label\n")
    scores(model, data, model, progress=told, max_eval_samples=8)
    assert [note for note in told.notes if "left out" in note] == [
        f"{data}: 1 of 201 lines do not have 2 fields (first: line 202 has 1); they are left out"
    ]


def test_options_do_what_they_say_or_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "data.csv", NAMES, rows=9)
    seen, score, before = [], module.evaluate_model, torch.get_num_threads()

    def watched(*parts: Any, **options: Any) -> Any:
        seen.append(torch.get_num_threads())
        return score(*parts, **options)

    monkeypatch.setattr(module, "evaluate_model", watched)
    scores(model, data, threads=before + 1)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
    with pytest.raises(ConfigError, match=r"^--window, --new-tokens: only a folder that `layerlens compress` wrote"):
        scores(model, data, window=64, new_tokens=3)
    with pytest.raises(ConfigError, match=r"^--split test: .*data\.csv is read whole"):
        scores(model, data, split="test")


def test_only_an_evaluation_of_this_command_is_replaced(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "data.csv", NAMES, rows=9)
    own, path = scores(model, data), tmp_path / "evaluation.json"
    assert scores(model, data, batch_size=3).arms[0].metrics == pytest.approx(own.arms[0].metrics)
    trained = own.model_copy(update={"arms": [own.arms[0].model_copy(update={"steps": 3})]})
    for content in (trained.model_dump_json(), '{"text": "a row of mine"}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"evaluation\.json is there, and is not what this command writes"):
            evaluate("no model", "no data", out=path)
        assert path.read_text() == content


def adapter(folder: Path, family: str, seed: int, **trained_on: Any) -> Path:
    """A folder as `tune` leaves it, of a plan whose profile had this seed; of older versions without `trained_on`."""
    kind = kind_of(family)
    task_model = tiny_task_model(family, folder / "base", kind)
    plan = mixed_plan(task_model, kind, (Method.LORA,))
    plan = plan.model_copy(update={"metadata": plan.metadata.model_copy(update={"seed": seed})})
    with attached(task_model.model, plan, seed=0) as adapted:
        save_adapter(folder / "run" / "adapter", adapted, plan, task_model, **trained_on)
    save_plan(folder / "run" / "plan.json", plan)
    return folder / "run"


def image_folder(folder: Path, *splits: str) -> Path:
    for number, split in enumerate(splits):
        for label in range(3):
            for row in range(6):
                path = folder / split / f"c{label}" / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (80 * label, 40 * row, 100 * number)).save(path)
    return folder


def seen_indices(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Sample numbers that each model is scored on."""
    seen: list[list[int]] = []
    score = module.evaluate_model

    def watched(model: Any, data: Any, indices: Any, **options: Any) -> Any:
        seen.append(list(indices))
        return score(model, data, indices, **options)

    monkeypatch.setattr(module, "evaluate_model", watched)
    return seen


def test_two_plans_are_scored_on_what_neither_has_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [adapter(tmp_path / str(number), "vit", seed) for number, seed in enumerate((0, 0, 1))]
    drawn = image_folder(tmp_path / "drawn", "train", "validation")
    seen = seen_indices(monkeypatch)
    scores(models[0], drawn, models[1])
    assert seen[0] == seen[1]
    # An arm's folder has no plan; its adapter knows the seed itself.
    (models[2] / "plan.json").unlink()
    with pytest.raises(ConfigError, match=r"drawn was shared out differently \(.* with seed 0, .* with seed 1\)"):
        scores(models[0], drawn, models[2])
    # A test split of the source's own is nobody's to train on, whatever the seed.
    fixed = image_folder(tmp_path / "fixed", "train", "validation", "test")
    scores(models[0], fixed, models[2])
    assert seen[-2] == seen[-1]
    scores(models[2], drawn)
    assert seen[0] != seen[-1]


def test_of_what_it_was_tuned_on_only_the_test_part_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, other = (image_folder(tmp_path / name, ".") for name in ("trained", "other"))
    monkeypatch.chdir(tmp_path)
    model = adapter(tmp_path / "kept", "vit", 3, data=whole_name("trained"))
    seen = seen_indices(monkeypatch)
    total = len(list(trained.rglob("*.png")))
    for data in (Path("trained"), trained, other):
        scores(model, data)
    kept = sorted(partition(total, None, seed=3, has_eval_data=False).test)
    assert seen == [kept, kept, list(range(total))]
    spent = adapter(tmp_path / "spent", "vit", 3, data=whole_name("trained"), keeps_test=False)
    with pytest.raises(
        ConfigError, match=r"spent/run was tuned on trained with test data of their own, .* give data that it was"
    ):
        scores(spent, Path("trained"))
    scores(spent, other)
    # A test split of the source's own was never trained on.
    fixed = image_folder(tmp_path / "fixed", "train", "test")
    scores(adapter(tmp_path / "whole", "vit", 3, data=whole_name("fixed"), keeps_test=False), fixed)
    assert len(seen[-1]) == len(list((fixed / "test").rglob("*.png")))


def test_a_folder_of_test_images_alone_is_scored(tmp_path: Path) -> None:
    tests = image_folder(tmp_path / "images", "test")
    assert scores(adapter(tmp_path / "tuned", "vit", 0), tests).eval_samples == len(list(tests.rglob("*.png")))


def test_where_a_moved_base_s_new_place_is_given_is_told(tmp_path: Path) -> None:
    model, images = adapter(tmp_path / "tuned", "vit", 0), image_folder(tmp_path / "images", "test")
    moved = (tmp_path / "tuned" / "base").rename(tmp_path / "moved")
    path = model / "adapter" / "adapter_config.json"
    with pytest.raises(CheckpointError, match=rf"give the base's new place, as base_model_name_or_path in {path}"):
        scores(model, images)
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(moved)}))
    assert scores(model, images).arms


def test_windows_of_two_lengths_are_not_the_same_samples(tmp_path: Path) -> None:
    model = adapter(tmp_path / "tuned", "llama", 0)
    data, plain = write_text(tmp_path / "text.txt", words=200), tmp_path / "tuned" / "base"
    with pytest.raises(ConfigError, match=r"not give both models the same samples \(4 for .*, 13 for .*; give --max-length"):
        scores(plain, data, model, max_length=None)
    assert len(scores(plain, data, model, max_length=16).arms) == 2


def test_so_many_samples_are_a_seeded_choice_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier(tmp_path / "model", [0, 1, 2], NAMES)
    data, seen = table(tmp_path / "data.csv", NAMES), seen_indices(monkeypatch)
    for _ in range(2):
        assert scores(model, data, max_eval_samples=12).eval_samples == 12
    assert seen[0] == seen[1] == sorted(seen[0]) != list(range(12))
    assert json.loads((tmp_path / "evaluation.json").read_text())["eval_samples"] == 12
    assert TaskKind(json.loads((tmp_path / "evaluation.json").read_text())["task"]) is TaskKind.CLASSIFICATION


def test_a_folder_in_place_of_the_file_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder; name the file to write"):
        evaluate(str(tmp_path / "no model"), "no data", out=tmp_path)
