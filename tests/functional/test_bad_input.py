"""Bad input: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.functional.conftest import Outcome, Run, Workplace, write_table
from tests.tiny_models import save_tiny


def refused(outcome: Outcome, *said: str) -> None:
    """Check that a command refused its input as it should, and said these things."""
    assert outcome.code == 2, outcome
    lines = [line for line in outcome.err.splitlines() if line.startswith("layerlens:")]
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for words in said:
        assert words.lower() in lines[0].lower(), lines[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny("bert", tmp_path / "model")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "data.csv")


def profile(run: Run, model: object, data: object, out: Path, *more: object) -> Outcome:
    outcome = run("profile", model, "--data", data, "--out", out, "--num-samples", 16, "--max-length", 16, *more)
    if outcome.code:
        assert not out.exists() or not any(out.iterdir()), list(out.iterdir())
    return outcome


def test_an_unknown_model_is_named(run: Run, table: Path, tmp_path: Path) -> None:
    refused(profile(run, tmp_path / "nowhere", table, tmp_path / "out"), "nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_an_accelerator_that_is_not_here_is_told(run: Run, model: Path, table: Path, tmp_path: Path) -> None:
    refused(
        profile(run, model, table, tmp_path / "out", "--device", "cuda"),
        "--device cuda",
        "finds no CUDA device",
        "leave --device out",
    )


def test_a_folder_without_config_is_named(run: Run, model: Path, table: Path, tmp_path: Path) -> None:
    (model / "config.json").unlink()
    refused(profile(run, model, table, tmp_path / "out"), "config.json")


def test_a_weight_file_cut_short_is_named(run: Run, model: Path, table: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(profile(run, model, table, tmp_path / "out"), "model.safetensors")


def test_a_weight_that_is_no_number_is_named(run: Run, model: Path, table: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.1.output.dense.weight"))
    weights[name][3, 4] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(profile(run, model, table, tmp_path / "out"), "layer.1.output.dense.weight")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def test_a_pickle_is_never_opened(run: Run, model: Path, table: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    refused(profile(run, model, table, tmp_path / "out"), "pytorch_model.bin", "safetensors")
    assert not (tmp_path / "ran").exists()


def test_data_without_a_label_column_lists_the_columns(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,colour\nw1 w2,red\nw3,blue\n")
    refused(profile(run, model, tmp_path / "data.csv", tmp_path / "out"), "label", "colour")


def test_an_empty_file_is_named(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("")
    refused(profile(run, model, tmp_path / "data.csv", tmp_path / "out"), "data.csv", "empty")


def test_one_class_only_is_refused(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text,label\n" + "w1 w2,yes\n" * 40)
    refused(profile(run, model, tmp_path / "data.csv", tmp_path / "out"), "yes")


def test_a_label_that_the_plan_does_not_know_is_named(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    plan = shutil.copy(workplace.plan, tmp_path / "plan.json")
    rows = workplace.data.read_text().replace("late", "never", 1)
    (tmp_path / "data.csv").write_text(rows)
    outcome = run("tune", plan, "--data", tmp_path / "data.csv", "--out", tmp_path / "out", "--no-race")
    refused(outcome, "never", "early", "late")
    assert not (tmp_path / "out").exists()


def test_an_unknown_data_set_is_named(run: Run, model: Path, tmp_path: Path) -> None:
    refused(profile(run, model, tmp_path / "nothing.csv", tmp_path / "out"), "nothing.csv")


@pytest.mark.parametrize("budget", [0, -5, "many"])
def test_a_budget_that_is_no_budget_is_refused(run: Run, workplace: Workplace, tmp_path: Path, budget: object) -> None:
    outcome = run("plan", workplace.profile, "--max-trainable-params", budget, "--out", tmp_path / "plan.json")
    refused(outcome, "--max-trainable-params")
    assert not list(tmp_path.iterdir())


def test_a_budget_too_small_names_the_smallest_that_would_do(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    refused(run("plan", workplace.profile, "--max-trainable-params", 3, "--out", tmp_path / "plan.json"), "64")
    assert not list(tmp_path.iterdir())


def test_no_budget_at_all_is_refused(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    refused(run("plan", workplace.profile, "--out", tmp_path / "plan.json"), "no budget")


def test_a_folder_that_is_no_profile_is_refused(run: Run, tmp_path: Path) -> None:
    refused(run("plan", tmp_path, "--max-trainable-params", 500, "--out", tmp_path / "plan.json"), "profile.json")


def test_a_plan_of_another_model_is_refused(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    other = save_tiny("bert", tmp_path / "other", seed=1)
    content = json.loads(workplace.plan.read_text())
    content["model"]["id"] = str(other)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    outcome = run("tune", tmp_path / "plan.json", "--data", workplace.data, "--out", tmp_path / "out", "--no-race")
    refused(outcome, "hash")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["race", "tune"])
def test_a_plan_edited_by_hand_is_refused(run: Run, workplace: Workplace, tmp_path: Path, command: str) -> None:
    content = json.loads(workplace.plan.read_text())
    layer = next(layer for layer in content["layers"] if layer["method"] == "lora")
    layer["size"] += 1
    (tmp_path / "plan.json").write_text(json.dumps(content))
    more = ["--out", tmp_path / "out", "--no-race"] if command == "tune" else []
    refused(run(command, tmp_path / "plan.json", "--data", workplace.data, *more), layer["layer"], "add up")
    assert not (tmp_path / "out").exists()


def test_validate_says_what_is_wrong_with_an_edited_plan(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    content = json.loads(workplace.plan.read_text())
    content["budgets"]["trainable_params"]["spent"] += 7
    (tmp_path / "plan.json").write_text(json.dumps(content))
    outcome = run("validate", tmp_path / "plan.json")
    assert outcome.code == 1
    assert "fail" in outcome.out.lower()


def test_a_folder_with_another_runs_profile_is_refused_untouched(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    out = shutil.copytree(workplace.profile, tmp_path / "profile")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    outcome = run("profile", workplace.model, "--data", workplace.data, "--out", out, "--num-samples", 40, "--max-length", 16)
    refused(outcome, "another run", "num_samples")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_plan_does_not_overwrite_a_persons_file(run: Run, workplace: Workplace, tmp_path: Path) -> None:
    (tmp_path / "thesis.json").write_text('{"mine": true}')
    refused(run("plan", workplace.profile, "--max-trainable-params", 500, "--out", tmp_path / "thesis.json"), "thesis.json")
    assert (tmp_path / "thesis.json").read_text() == '{"mine": true}'


def test_an_infinite_loss_is_refused(run: Run, table: Path, model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.intermediate.dense.weight"))
    weights[name] = torch.full_like(weights[name], 3e38)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused(profile(run, model, table, tmp_path / "out"), "not finite")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "unknown command"),
        (["plan", "p", "--max-nonsense", "3"], "max-nonsense"),
        (["profile", "m", "--data", "d"], "--out"),
        (["profile", "m", "--data", "d", "--out", "o", "--num-samples", "none", "--damping", "-1"], "--damping"),
    ],
)
def test_a_wrong_command_line_is_one_line(run: Run, arguments: list[str], said: str) -> None:
    refused(run(*arguments), said)
