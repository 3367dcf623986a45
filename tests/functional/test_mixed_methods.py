"""The whole job with every method allowed, through the command line: profile, plan, race, tune, evaluate, load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import layerlens
from tests.functional.conftest import Run, Workplace
from tests.functional.test_main_job import write_data
from tests.tiny_models import save_tiny

METHODS = ("--methods", "lora,adapter,prefix,none")


def test_a_mixed_plan_races_trains_and_comes_back(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    planned = run("plan", workplace.profile, "--max-trainable-params", 2500, *METHODS, "--out", plan)
    assert planned.code == 0, planned.err
    names = {path.stem for path in (tmp_path / "plan.candidates").iterdir()}
    assert {"uniform", "adapter", "prefix", "attention+adapter.mlp"} <= names
    common = ("--data", workplace.data, "--max-length", 16, "--batch-size", 8, "--precision", "fp32", "--learning-rate", "5e-3")
    quick = ("--share", 8, "--tuning-steps", 4, "--min-steps", 4, "--held-out-samples", 16)
    raced = run("race", plan, *common, *quick, "--only", "adapter,prefix+mlp")
    assert raced.code == 0, raced.err
    race = json.loads(plan.read_text())["race"]
    assert {candidate["name"] for candidate in race["candidates"]} == {"uniform", "adapter", "prefix+mlp"}
    # The race may well choose LoRA alone; what is trained here is a mix.
    shutil.copy(tmp_path / "plan.candidates" / "prefix+adapter.mlp.json", plan)
    tuned = run("tune", plan, *common, "--out", tmp_path / "run", "--max-steps", 8, "--no-race")
    assert tuned.code == 0, tuned.err
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (arm,) = evaluation["arms"]
    layers = [layer for layer in json.loads(plan.read_text())["layers"] if layer["size"]]
    assert {layer["method"] for layer in layers} == {"adapter", "prefix"}
    assert arm["trainable_params"] == sum(layer["params"] for layer in layers) <= 2500
    # Evaluated without the plan beside it, the folder still tells its base, its task and its parts.
    shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "alone")
    losses = []
    for folder in (tmp_path / "run", tmp_path / "alone"):
        out = tmp_path / f"{folder.name}.json"
        again = run("evaluate", folder, "--data", workplace.data, "--max-length", 16, "--out", out)
        assert again.code == 0, again.err
        losses.append(json.loads(out.read_text())["arms"][0]["metrics"]["loss"])
    assert losses[0] == losses[1]
    assert run("validate", plan).code == 0
    shutil.copy(plan, tmp_path / "run" / "plan.json")
    assert run("report", tmp_path / "run").code == 0
    assert sum("layerlens_bottleneck" in name for name, _ in layerlens.load_adapted(tmp_path / "run").named_modules()) == 2


def test_an_adapter_of_another_base_is_refused_in_one_line(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    plan, base = tmp_path / "plan.json", tmp_path / "model"
    shutil.copytree(workplace.model, base)
    profiled = run(
        "profile", base, "--data", workplace.data, "--out", tmp_path / "profile", "--num-samples", 24, "--max-length", 16
    )
    assert profiled.code == 0, profiled.err
    asked = ("--max-trainable-params", 900, "--methods", "adapter,none", "--out", plan)
    assert run("plan", tmp_path / "profile", *asked).code == 0
    common = ("--data", workplace.data, "--max-length", 16, "--batch-size", 8, "--precision", "fp32")
    tuned = run("tune", plan, *common, "--out", tmp_path / "run", "--max-steps", 2, "--no-race")
    assert tuned.code == 0, tuned.err
    shutil.rmtree(base)
    save_tiny("bert", base, seed=5)
    refused = run("evaluate", tmp_path / "run", "--data", workplace.data, "--max-length", 16, "--out", tmp_path / "e.json")
    assert refused.code == 2
    assert "was trained on another base model" in refused.err
    assert refused.err.strip().count("\n") == 0


def test_prefixes_for_a_model_outside_the_interface_are_refused_with_the_way_out(run: Run, tmp_path: Path) -> None:
    model, data = save_tiny("gpt_neo", tmp_path / "model"), write_data(tmp_path, "gpt_neo")
    profiled = run("profile", model, "--data", data, "--out", tmp_path / "profile", "--num-samples", 24, "--max-length", 16)
    assert profiled.code == 0, profiled.err
    asked = ("plan", tmp_path / "profile", "--max-trainable-params", 900, "--out", tmp_path / "plan.json")
    refused = run(*asked, *METHODS)
    assert refused.code == 2
    assert "GPTNeoForCausalLM" in refused.err
    assert "leave prefix out of --methods" in refused.err
    assert refused.err.strip().count("\n") == 0
    assert run(*asked, "--methods", "lora,adapter,none").code == 0
