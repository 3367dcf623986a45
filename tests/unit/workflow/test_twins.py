"""The commands' twins take a path wherever a command takes a file, a folder or another name."""

from __future__ import annotations

from pathlib import Path

import layerlens
from layerlens.artifacts.plan import candidates_folder, load_plan, save_plan
from layerlens.config.bench import BenchModel, BenchTask
from tests.unit.workflow.compressions import SMALL, Place
from tests.unit.workflow.test_evaluate import NAMES, classifier, table
from tests.unit.workflow.test_tune import QUICK, written_plan
from tests.unit.workflow.test_tune import table as rows


def test_models_data_and_plans_may_be_paths(small_llama: Place, first: Path, tmp_path: Path) -> None:
    model, data, out = small_llama.model, small_llama.data, tmp_path / "out"
    config = layerlens.ProfilingConfig(num_samples=4, max_length=16)
    facts = layerlens.profile(model, data, out, config, dry_run=True).facts
    assert facts["model"].startswith(str(model))
    compressing = layerlens.CompressConfig(bits_per_weight=9, **SMALL)
    assert layerlens.compress(model, data, out, compressing, dry_run=True).facts["task"] == f"causal-lm on {data}"
    assert layerlens.export(first, out, dense=True, dry_run=True).folder == out
    plan, text = written_plan(tmp_path), rows(tmp_path / "data.csv", rows=120)
    save_plan(candidates_folder(plan) / "uniform.json", load_plan(plan))
    assert layerlens.tune(plan, text, out, QUICK, dry_run=True).facts["evaluate"].endswith(str(text))
    assert layerlens.race(plan, text, layerlens.RaceConfig(max_length=16), dry_run=True).runners
    assert not out.exists()


def test_two_models_to_score_may_be_paths(tmp_path: Path) -> None:
    model, data = classifier(tmp_path / "model", [0, 1, 2], NAMES), table(tmp_path / "data.csv", NAMES, rows=9)
    made = layerlens.evaluate(model, data, model, tmp_path / "evaluation.json")
    assert (made.model, len(made.arms)) == (str(model), 2)


def test_options_that_name_a_place_may_be_paths(tmp_path: Path) -> None:
    tuning = layerlens.TuneConfig(eval_data=tmp_path / "test.csv", base=tmp_path / "small")
    assert (tuning.eval_data, tuning.base) == (f"{tmp_path}/test.csv", f"{tmp_path}/small")
    assert layerlens.EvaluateConfig(second_text=tmp_path).second_text == str(tmp_path)
    assert BenchTask(data=tmp_path).data == str(tmp_path)
    assert BenchModel(id=tmp_path).id == str(tmp_path)


def test_a_suite_may_be_a_path(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "name: mine\nmodels: {m: demo}\ntasks: {t: {data: stdlib-docs}}\narms: [uniform]\nseeds: [0]\n"
        "budget: {max_trainable_params: 5000}\n"
    )
    assert layerlens.bench(suite, tmp_path / "out", dry_run=True).planned
