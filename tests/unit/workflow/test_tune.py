"""What tuning foresees of its arms, and which it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers

from layerlens.adapting.load import load_adapted
from layerlens.artifacts.evaluation import Evaluation
from layerlens.artifacts.plan import Budget, Plan, candidates_folder, load_plan, save_plan
from layerlens.config import Precision, TuneConfig
from layerlens.errors import ConfigError, DataError
from layerlens.models.checkpoint import open_checkpoint
from layerlens.models.load import load_task_model
from layerlens.progress import Silent
from layerlens.words import BudgetName, TaskKind
from layerlens.workflow import tune as tunes
from layerlens.workflow.evaluate import evaluate
from layerlens.workflow.merge import merge
from layerlens.workflow.tune import predicted_times, tune
from tests.tiny_models import WORDS, save_tokenizer
from tests.unit.adapting.plans import info_of, make_plan, tiny_task_model
from tests.unit.reporting import artifacts

QUICK = TuneConfig(max_steps=2, batch_size=4, max_length=16, precision=Precision.FP32, fit_head=False)


def timed(name: str, spent: float, **changes: object) -> Plan:
    plan = artifacts.plan(name)
    return plan.model_copy(update={"budgets": {BudgetName.TIME_RATIO: Budget(limit=0.5, spent=spent)}, **changes})


@pytest.mark.parametrize(("reach", "expected"), [(0, {"layerlens": 0.4, "uniform": 0.5}), (2, {"layerlens": 0.4})])
def test_the_arm_uniform_has_no_price_where_the_planner_s_own_is_cut_short(
    tmp_path: Path, reach: int, expected: dict[str, float]
) -> None:
    plan, uniform = timed("optimum-whitened", 0.4, reach=reach), timed("uniform", 0.5, reach=reach)
    path = tmp_path / "plan.json"
    save_plan(path, plan)
    save_plan(candidates_folder(path) / "uniform.json", uniform)
    assert predicted_times(plan, path, TuneConfig(compare=["uniform"])) == {**expected, "full": 1.0}


def test_an_arm_takes_no_price_from_a_candidate_of_its_name(tmp_path: Path) -> None:
    plan, path = timed("optimum-whitened", 0.4), tmp_path / "plan.json"
    save_plan(path, plan)
    for number, name in enumerate(("uniform", "query+value", "mlp", "mlp-top")):
        save_plan(candidates_folder(path) / f"{name}.json", timed(name, 0.1 * number))
    expected = {"layerlens": 0.4, "uniform": 0.0, "mlp-top": 0.1 * 3, "full": 1.0}
    assert predicted_times(plan, path, TuneConfig(compare=["uniform"])) == expected


def test_arms_that_cannot_be_run_are_refused_together_before_the_data_are_opened(tmp_path: Path) -> None:
    kind = TaskKind.CAUSAL_LM
    plan, path = make_plan(tiny_task_model("gpt2", tmp_path / "model", kind), kind, 2), tmp_path / "plan.json"
    save_plan(path, plan)
    config = TuneConfig(compare=["uniform", "head", "adalora"], base="compressed")
    with pytest.raises(ConfigError, match=r"^--compare head: .*; leave head out; --compare adalora: .*; leave adalora out"):
        tune(path, "no such data", tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def written_plan(folder: Path, kind: TaskKind = TaskKind.CLASSIFICATION, family: str = "bert", **task: object) -> Path:
    """A plan of a tiny model with three classes, the model beside it."""
    plan = make_plan(tiny_task_model(family, folder / "model", kind), kind, 2)
    save_plan(folder / "plan.json", plan.model_copy(update={"task": plan.task.model_copy(update=task)}))
    return folder / "plan.json"


def table(path: Path, rows: int) -> Path:
    """Texts of those three classes."""
    words = np.random.default_rng(0).choice(WORDS, (rows, 6))
    path.write_text("\n".join(["text,label", *(f"{' '.join(row)},c{number % 3}" for number, row in enumerate(words))]))
    return path


@pytest.mark.parametrize(
    ("names", "rate", "expected"),
    [(["full"], "unifrom", "no arm unifrom is run here; there are layerlens, full"), ([], "full", "no arm full is run here")],
)
def test_the_rate_of_an_arm_that_is_not_run_is_refused(names: list[str], rate: str, expected: str, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"compare": names, "learning_rates": {rate: 1e-9}})
    with pytest.raises(ConfigError, match=expected):
        tune(written_plan(tmp_path), "no such data", tmp_path / "out", config)


@pytest.mark.parametrize("name", ["adapter", "evaluation.json", "arms/layerlens-seed1/adapter", "plan.json"])
def test_what_another_run_or_a_person_has_put_in_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    path, out = written_plan(tmp_path), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    config = QUICK.model_copy(update={"seeds": [0, 1]})
    with pytest.raises(ConfigError, match=rf"{name} is (not of this run|another plan than .*); choose another output folder"):
        tune(path, "no such data", out, config, no_race=True)
    assert [found.read_text() for found in out.rglob("*") if found.is_file()] == ["mine"]


def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="out is a file, not a folder"):
        tune(written_plan(tmp_path), "no such data", tmp_path / "out", QUICK)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_tracker_that_is_not_there_is_named_before_anything_is_opened(tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"report_to": ["no-such-tracker"]})
    with pytest.raises(ConfigError, match="cannot report to no-such-tracker"):
        tune(written_plan(tmp_path), "no such data", tmp_path / "out", config)


def test_a_run_is_taken_up_again_and_grows_in_its_folder_and_every_adapter_of_it_opens(tmp_path: Path) -> None:
    path, out, data = written_plan(tmp_path), tmp_path / "out", str(table(tmp_path / "data.csv", rows=40))
    shutil.copy(path, tmp_path / "given.json")
    grown = QUICK.model_copy(update={"seeds": [0, 1]})
    for config in (QUICK, QUICK, grown):
        result = tune(tmp_path / "given.json", data, out, config, no_race=True)
        assert result.evaluation is not None
    assert [arm.seed for arm in result.evaluation.arms] == [0, 1]
    assert load_adapted(out / "arms" / "layerlens-seed1").peft_config["default"].r == 2
    assert merge(out / "arms" / "layerlens-seed1", tmp_path / "merged").size_bytes > 0
    # The folder holds another plan than what is to be trained now.
    assert tune(out / "plan.json", data, out, QUICK, no_race=True).evaluation is not None
    shutil.rmtree(out / "arms")
    plan = make_plan(tiny_task_model("bert", tmp_path / "model", TaskKind.CLASSIFICATION), TaskKind.CLASSIFICATION, 3)
    save_plan(path, plan)
    with pytest.raises(ConfigError, match=r"out/plan\.json is another plan than"):
        tune(path, data, out, QUICK, no_race=True)


def test_an_arm_s_folder_of_another_run_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, data = written_plan(tmp_path), tmp_path / "out", str(table(tmp_path / "data.csv", rows=40))
    save_plan(candidates_folder(path) / "uniform.json", load_plan(path))
    config = QUICK.model_copy(update={"compare": ["head"]})
    tune(path, data, out, config, no_race=True)
    monkeypatch.setattr(tunes, "run_arm", lambda name, *parts, **options: pytest.fail(f"{name} is trained"))
    changed = config.model_copy(update={"seeds": [1, 0], "learning_rates": {"head": 0.5}})
    words = (
        r"arms/head-seed0/arm\.json belongs to another run \(config\.learning_rate was 0\.\d+, now 0\.5\); choose another output"
    )
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=words):
            tune(path, data, out, changed, no_race=True, dry_run=dry_run)


def test_gradient_checkpointing_that_a_model_does_not_know_is_refused_and_nothing_is_claimed(tmp_path: Path) -> None:
    config = transformers.OpenAIGPTConfig(vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    transformers.OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model", is_decoder=True)
    kind, text = TaskKind.CAUSAL_LM, tmp_path / "text.txt"
    task_model = load_task_model(open_checkpoint(str(tmp_path / "model")), info_of(kind), seed=0)
    save_plan(tmp_path / "plan.json", make_plan(task_model, kind, 2))
    text.write_text(" ".join(np.random.default_rng(0).choice(WORDS, 1200)))
    asked = QUICK.model_copy(update={"gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="--gradient-checkpointing: a OpenAIGPTLMHeadModel does not support it"):
        tune(tmp_path / "plan.json", str(text), tmp_path / "out", asked, no_race=True)
    assert not (tmp_path / "out").exists()


def test_data_without_a_test_split_do_not_evaluate_what_they_have_trained(tmp_path: Path) -> None:
    path, data = written_plan(tmp_path), table(tmp_path / "data.csv", rows=40)
    (tmp_path / "same.csv").symlink_to(data)
    shutil.copy(data, tmp_path / "copy.csv")
    for other in (data, tmp_path / "same.csv", tmp_path / "copy.csv"):
        config = QUICK.model_copy(update={"eval_data": str(other)})
        with pytest.raises(DataError, match="is what is trained on and has no test split; leave --eval-data out"):
            tune(path, str(data), tmp_path / "out", config, no_race=True)
    config = QUICK.model_copy(update={"eval_data": str(table(tmp_path / "other.csv", rows=24))})
    assert tune(path, str(data), tmp_path / "out", config, dry_run=True).facts["evaluate"].startswith("24 samples")
    few = config.model_copy(update={"max_eval_samples": 5, "max_train_samples": 7})
    facts = tune(path, str(data), tmp_path / "out", few, dry_run=True).facts
    assert facts["evaluate"].startswith("5 samples of ")
    assert " on 7 samples" in facts["train"]


def test_of_evaluation_data_with_splits_the_test_split_is_taken(tmp_path: Path) -> None:
    generator, parts = np.random.default_rng(0), {"train": 20, "validation": 6, "test": 9}
    images = {f"{name}_x": generator.integers(0, 255, (num, 16, 16, 3), dtype=np.uint8) for name, num in parts.items()}
    np.savez(tmp_path / "img.npz", **images, **{f"{name}_y": np.arange(num) % 3 for name, num in parts.items()})
    path, data = written_plan(tmp_path, TaskKind.IMAGE_CLASSIFICATION, "vit", label_names=[*"012"]), str(tmp_path / "img.npz")
    config = QUICK.model_copy(update={"eval_data": data})
    facts = tune(path, data, tmp_path / "out", config, no_race=True, dry_run=True).facts
    assert facts["race"] == "left out"
    assert facts["evaluate"] == f"9 samples of {data}"
    assert facts["train"].endswith("on 20 samples, 1 × 1 runs")


def test_of_saved_splits_one_trains_and_the_test_split_evaluates(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path, saved = written_plan(tmp_path), tmp_path / "saved"
    rows = {
        name: datasets.Dataset.from_dict({"text": ["w1 w2"] * num, "label": [f"c{row % 3}" for row in range(num)]})
        for name, num in (("train", 40), ("test", 9))
    }
    datasets.DatasetDict(rows).save_to_disk(str(saved))
    config = QUICK.model_copy(update={"eval_data": str(saved)})
    facts = tune(path, str(saved), tmp_path / "out", config, no_race=True, dry_run=True).facts
    assert facts["evaluate"] == f"9 samples of {saved}"
    with pytest.raises(DataError, match="is what is trained on"):
        tune(path, str(saved), tmp_path / "out", config.model_copy(update={"split": "test"}), no_race=True, dry_run=True)


def test_what_of_the_data_is_left_out_is_told_and_arms_named_twice_count_once(tmp_path: Path) -> None:
    path, told = written_plan(tmp_path), Told()
    data, other = table(tmp_path / "data.csv", rows=200), table(tmp_path / "other.csv", rows=120)
    for file in (data, other):
        file.write_text(f"{file.read_text()}\nno label")
    config = QUICK.model_copy(update={"eval_data": str(other), "compare": ["head", "head"]})
    facts = tune(path, str(data), tmp_path / "out", config, no_race=True, dry_run=True, progress=told).facts
    assert [note.partition(" ")[0] for note in told.notes] == [f"{data}:", f"{other}:"]
    assert facts["train"].endswith("1 × 2 runs")


def test_a_run_is_scored_on_what_was_kept_for_its_test_wherever_its_data_have_moved(tmp_path: Path) -> None:
    path = written_plan(tmp_path, text_columns=["text"], label_column="label")
    data, out = table(tmp_path / "data.csv", rows=40), tmp_path / "out"
    tune(path, str(data), out, QUICK, no_race=True)
    moved = data.rename(tmp_path / "moved.csv")
    told, untold = Told(), Told()
    alone, other = shutil.copytree(out / "adapter", tmp_path / "alone"), table(tmp_path / "other.csv", rows=24)
    for model, given, progress, samples in ((out, moved, untold, 8), (alone, moved, told, 40), (out, other, told, 24)):
        found = evaluate(str(model), str(given), out=tmp_path / "evaluation.json", progress=progress)
        assert isinstance(found, Evaluation)
        assert found.eval_samples == samples
    table(data, rows=44)
    with pytest.raises(ConfigError, match=r"data\.csv has changed since .*out was tuned on it, .*; give it as it was"):
        evaluate(str(out), str(data), out=tmp_path / "evaluation.json")
    assert any(f"was tuned on {data}, which is not there any more: if {moved} holds" in note for note in told.notes)
    assert not any("not there any more" in note for note in untold.notes)


class Told(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)
